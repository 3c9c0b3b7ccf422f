"""Learned functions of a number that a model knows exactly: a distance between tokens, or a lag."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from nanogpkant.kan.bases import load_basis
from nanogpkant.kan.bases.base import wide
from nanogpkant.kan.grid import GridChange
from nanogpkant.kan.layer import KANLinear
from nanogpkant.kan.state import spline_of

SCALES = ("log", "linear", "buckets")


class DistanceCurve(KANLinear):
    """One learned function of distance for each of some heads: a KAN layer with one input.

    ``b_h(d) = sum_k c_hk B_k(scale(d))`` for whole distances d = 0, 1, 2, ...

    Args:
        start: (heads, longest) values at distances 0 to longest - 1 to begin with, as near as the
            basis comes in the least-squares sense with weights 1 / (1 + d).
        basis: "hat", "bspline" (cubic), or "fourier" (of period twice the range).
        knots: grid points of hat and bspline, at least 2, or frequencies of fourier, at least 1.
        scale: of the input: "log" is log2(1 + d), "linear" is d, and "buckets" is the number of
            T5's bucket. Hats with ``longest`` knots on a linear scale are a free table.
        beyond: at longer distances "clamp" holds the last value, "linear" follows the last slope.

    Raises:
        ValueError: settings out of range, or that exclude each other.

    Source: learned biases of distance are from T5 (Raffel et al., arXiv 1910.10683), their line
    from ALiBi (Press et al., arXiv 2108.12409), the log scale from FIRE (Li et al., 2310.04418).
    """

    def __init__(
        self,
        start: Tensor,
        basis: str = "hat",
        knots: int = 12,
        scale: str = "log",
        beyond: str = "clamp",
    ) -> None:
        longest, least = start.shape[1], 1 if basis == "fourier" else 2
        if not least <= knots <= max(longest, 2):
            raise ValueError(f"knots is {knots}; {basis} takes {least} to {longest} distances")
        if scale not in SCALES or beyond not in ("clamp", "linear"):
            raise ValueError(f"scale {scale!r} or beyond {beyond!r} is unknown")
        if scale == "buckets" and basis != "hat":
            raise ValueError(f"scale='buckets' has a number a bucket: basis='hat', not {basis!r}")
        if beyond == "linear" and (basis == "fourier" or scale == "buckets"):
            raise ValueError("fourier and buckets have no last slope to follow; beyond='clamp'")
        self.initial, self.knots, self.scale, self.beyond = start, knots, scale, beyond
        self.unit = 1.0
        end = float(self.on_scale(torch.tensor([start.shape[1] - 1], device="cpu")))
        if basis == "fourier":
            self.unit = math.pi / end
            functions = load_basis(basis)(knots)
        else:
            outside = "linear" if beyond == "linear" else "zero"
            functions = load_basis(basis)(knots - 1, grid_range=(0.0, end), outside=outside)
        super().__init__(1, len(start), False, basis=functions, base="none", backend="reference")

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fit ``start``; nothing is drawn."""
        distance = torch.arange(self.initial.shape[1], dtype=torch.float64, device="cpu")
        weight = (1 + distance).rsqrt()[:, None]
        functions = self.features.expand(self.on_scale(distance)[:, None])[..., 0]  # (L, M)
        wanted = self.initial.to(distance).mT  # (L, heads)
        # gelsd: the smallest solution where two knots see no distance between them
        solution = torch.linalg.lstsq(weight * functions, weight * wanted, driver="gelsd").solution
        self.weight.copy_(solution.mT[..., None])

    @property
    def is_table(self) -> bool:
        """Whether it has a number for every distance or bucket: finer knots would say no more."""
        return self.scale == "buckets" or self.knots >= self.initial.shape[1]

    def refine(self, grid_size: int, optimizer: torch.optim.Optimizer | None = None) -> GridChange:
        """As of any layer; but the grid, which all distances lie in, does not get wider."""
        basis = replace(spline_of(self), outside="linear")
        self.features = replace(self.features, basis=basis)
        return super().refine(grid_size, optimizer)

    def on_scale(self, distance: Tensor) -> Tensor:
        """Distances -> numbers on the curve's scale, of the same shape, in float32 or wider."""
        d = wide(distance)
        longest = self.initial.shape[1] - 1
        if self.beyond == "clamp":
            d = d.clamp(max=longest)
        if self.scale == "log":
            d = torch.log2(1 + d)
        elif self.scale == "buckets":
            d = bucket(d, self.knots, longest + 1)
        return d * self.unit

    def of(self, distance: Tensor) -> Tensor:
        """(L,) distances -> (heads, L) values in float32 or wider."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        return self(self.on_scale(distance.to(dtype))[:, None]).mT

    def forward(self, x: Tensor) -> Tensor:
        """(L, 1) numbers on the scale -> (L, heads), whatever autocast says: this is no product."""
        with torch.autocast(x.device.type, enabled=False):
            return self.edges(x)[..., 0]


def bucket(distance: Tensor, count: int, longest: int) -> Tensor:
    """T5's bucket of a causal distance: one each up to count / 2, then logarithmic.

    Source: ``_relative_position_bucket`` of T5, not bidirectional (arXiv 1910.10683).
    """
    exact = count // 2
    share = torch.log(distance.clamp(min=exact) / exact) / math.log(longest / exact)
    far = (exact + share * (count - exact)).floor().clamp(max=count - 1)
    return torch.where(distance < exact, distance, far)
