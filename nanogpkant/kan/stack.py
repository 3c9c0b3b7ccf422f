"""KAN: a stack of KAN layers."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from nanogpkant.kan.layer import KANLinear


class KAN(nn.Sequential):
    """KAN layers one after the other.

    Args:
        sizes: of the input, of every layer between, and of the output.
        options: of every ``KANLinear``.

    Raises:
        ValueError: fewer than two sizes, or see ``KANLinear``.

    Examples:
        >>> import torch
        >>> from nanogpkant import KAN
        >>> KAN([2, 5, 1])(torch.zeros(3, 2)).shape
        torch.Size([3, 1])
    """

    def __init__(self, sizes: Sequence[int], **options: Any) -> None:
        if len(sizes) < 2:
            raise ValueError(f"sizes are {list(sizes)}; a stack has an input and an output, [2, 1]")
        super().__init__(*(KANLinear(n, m, **options) for n, m in pairwise(sizes)))

    def __getitem__(self, index: int | slice) -> Any:
        """A layer, or some layers as an ``nn.Sequential``."""
        return nn.Sequential(*self)[index]
