"""The slow KAN layer of efficient-kan and the original nanoGPKANT.

Written from the formulas, for comparison only: a grid per input, the Cox-de Boor recursion in eager
torch over all rows, and two matrix products.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.kan import KANLinear


class CoxDeBoorLinear(nn.Module):
    """The same function as a KANLinear of B-splines with base silu."""

    def __init__(self, layer: KANLinear) -> None:
        super().__init__()
        self.order = layer.basis.order
        knots = torch.tensor(layer.basis.knots, device=layer.weight.device)
        self.register_buffer("grid", knots.expand(layer.in_features, -1).contiguous())
        weight = layer.effective_weight().detach()  # (out, M, n)
        self.base_weight = nn.Parameter(weight[:, 0].clone())  # (out, n)
        self.spline_weight = nn.Parameter(weight[:, 1:].transpose(1, 2).contiguous())  # (out, n, K)

    def b_splines(self, x: Tensor) -> Tensor:
        """(rows, n) -> (rows, n, K), by recursion over the order."""
        x, grid = x.unsqueeze(-1), self.grid
        bases = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
        for k in range(1, self.order + 1):
            left = (x - grid[:, : -(k + 1)]) / (grid[:, k:-1] - grid[:, : -(k + 1)])
            right = (grid[:, k + 1 :] - x) / (grid[:, k + 1 :] - grid[:, 1:-k])
            bases = left * bases[..., :-1] + right * bases[..., 1:]
        return bases

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., out)."""
        rows = x.reshape(-1, x.shape[-1])
        base = F.linear(F.silu(rows), self.base_weight)
        y = base + F.linear(self.b_splines(rows).flatten(1), self.spline_weight.flatten(1))
        return y.view(*x.shape[:-1], -1)
