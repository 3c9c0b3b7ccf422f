"""The specification: write out every feature of every row, then multiply, under autograd."""

import torch
from torch import Tensor

from nanogpkant.kan.features import Features


def forward(
    x: Tensor,
    weight: Tensor,
    features: Features,
    coefficients: Tensor | None,
    keep: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """(rows, n), (out, M, n) -> (rows, out), multiplied in ``dtype``."""
    expanded = features.expand(x, coefficients)  # (rows, M, n)
    if keep is not None:
        expanded = expanded * keep.unsqueeze(-2)
    return expanded.flatten(-2).to(dtype) @ weight.flatten(1).to(dtype).T
