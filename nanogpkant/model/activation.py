"""The activations of an MLP: one registry, each with the gain that keeps the variance."""

import math
from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.kan.features import even, leaky_relu2, normal_points, relu2
from nanogpkant.kan.fused import fused


def even_cosine(x: Tensor) -> Tensor:
    """even(x) - 0.8 cos x - 0.7 cos 2x: what functions that learn become (docs/results.md)."""
    cosine = torch.cos(x)
    return even(x) - cosine * (0.8 + 1.4 * cosine) + 0.7


class XIELU(nn.Module):
    """alpha_p x^2 + beta x above zero, alpha_n (e^x - 1 - x) + beta x below; both alphas learned.

    Source: Huang & Schlag, *Deriving Activation Functions Using Integration* (arXiv 2411.13010).
    """

    BETA, START = 0.5, 0.8

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(2))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Both alphas at 0.8: softplus of the first, beta + softplus of the second."""
        wanted = torch.tensor([self.START, self.START - self.BETA])
        self.alpha.copy_(torch.log(torch.expm1(wanted)))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        positive, negative = F.softplus(self.alpha).to(x.dtype)
        below = x.clamp(max=0)
        curved = positive * x.clamp(min=0) ** 2
        return curved + (self.BETA + negative) * (torch.expm1(below) - below) + self.BETA * x


class SwiGLU(nn.Module):
    """SiLU(gate) * value: (..., 2 n) -> (..., n). Source: Shazeer (arXiv 2002.05202)."""

    def forward(self, x: Tensor) -> Tensor:
        gate, value = x.chunk(2, dim=-1)
        return F.silu(gate) * value


ACTIVATIONS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "gelu": lambda: F.gelu,
    "gelu_tanh": lambda: partial(F.gelu, approximate="tanh"),
    "silu": lambda: F.silu,
    "even": lambda: partial(fused, "even", even),
    "even_cosine": lambda: partial(fused, "even_cosine", even_cosine),
    "relu2": lambda: relu2,
    "leaky_relu2": lambda: leaky_relu2,
    "xielu": XIELU,
    "swiglu": SwiGLU,
}


@cache
def root_mean_square(activation: str) -> float:
    """Of the activation of standard normal inputs: what a following layer's start divides by."""
    x, density = normal_points()
    function: Callable[[Tensor], Tensor] = ACTIVATIONS[activation]()
    if activation == "swiglu":  # the value is independent of the gate, and of unit variance
        function = F.silu
    with torch.no_grad():
        return math.sqrt((function(x).square() @ density).item())
