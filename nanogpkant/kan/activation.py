"""Learned activation functions, one for each group of units."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nanogpkant.kan.features import Features
from nanogpkant.kan.functional import is_transformed
from nanogpkant.kan.state import FeatureLayer


class LearnedActivation(FeatureLayer):
    """y_i = psi_g(x_i), the same function for all units i of a group g; it starts as the base.

    Args:
        features: one shared function, ``Shared(basis, groups=G)``, with the base function to start
            as. The width of its inputs is a multiple of G.
        device, dtype: of the coefficients, (1, G, numbers).

    Raises:
        ValueError: features that are not learned, or several functions of a unit.
    """

    def __init__(
        self,
        features: Features,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        start = features.start()
        if start is None or features.size != 1:
            raise ValueError(f"{features} is not one learned function a unit")
        self.features, self.prenorm = features, "none"
        self.coefficients = nn.Parameter(start.to(device, dtype))

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) -> the same. Only x is kept for the backward pass, but for torch.func."""
        is_plain = not (torch.compiler.is_compiling() or is_transformed())
        if is_plain and torch.is_grad_enabled():
            return checkpoint(self._function, x, use_reentrant=False, preserve_rng_state=False)
        return self._function(x)

    def _function(self, x: Tensor) -> Tensor:
        return self.features.expand(x, self.coefficients)[..., 0, :].to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.features}"
