"""FastKAN's layer of Gaussians on normalized inputs, written from the formula."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RadialLinear(nn.Module):
    """y = W vec(exp(-((norm(x) - g_k) / h)^2)) + U silu(x) + b, of the size of our B-splines.

    Source: Ziyao Li, *Kolmogorov-Arnold Networks are Radial Basis Function Networks*
    (arXiv 2405.06721): centres g_k from -2 to 2, h apart, and a LayerNorm before them.
    """

    def __init__(self, inputs: int, outputs: int, centres: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs)
        self.register_buffer("centres", torch.linspace(-2.0, 2.0, centres))
        self.spacing = 4.0 / max(1, centres - 1)
        self.spline = nn.Linear(inputs * centres, outputs, bias=False)
        self.base = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, n) -> (rows, out)."""
        distance = (self.norm(x).unsqueeze(-1) - self.centres) / self.spacing  # (rows, n, centres)
        return self.spline(torch.exp(-(distance**2)).flatten(1)) + self.base(F.silu(x))
