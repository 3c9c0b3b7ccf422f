"""The MLP of a block."""

from torch import Tensor, nn

from nanogpkant.config import ModelConfig
from nanogpkant.model.activation import ACTIVATIONS
from nanogpkant.model.projection import make_linear


class MLP(nn.Module):
    """Two projections, and an activation between them.

    A KAN layer applies its own functions to its input, so that only swiglu, whose product sums of
    one-dimensional functions cannot make, stands before one.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.into = make_linear("mlp_in", config)
        self.out = make_linear("mlp_out", config)
        self.is_gated = config.activation == "swiglu"
        has_activation = self.is_gated or "mlp_out" not in config.kan.sites
        self.activation = ACTIVATIONS[config.activation]() if has_activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.out(self.activation(self.into(x)))
