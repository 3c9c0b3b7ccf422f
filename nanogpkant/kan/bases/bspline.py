"""B-splines on a grid, without recursion: the basis of the original KAN layer."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from nanogpkant.kan.bases.base import Basis, wide


@dataclass(frozen=True)
class BSpline(Basis):
    """B-splines of one order on a grid of ``grid_size`` intervals.

    ``order`` knots on either side continue the grid with the spacing of its first and last
    interval, which gives ``grid_size + order`` functions. Inside the grid they sum to one.

    Args:
        grid_size: number of intervals of the grid, at least 1.
        order: degree of the polynomial pieces, 1 (piecewise linear) to 5; 3 is cubic.
        grid_range: first and last grid point of a uniform grid, in units of the input.
        grid: all ``grid_size + 1`` grid points of a non-uniform grid, strictly increasing. If
            given, ``grid_size`` and ``grid_range`` follow from it.
        outside: beyond the grid, "zero" lets the functions decay to zero over the outer knots;
            "linear" continues each one along its slope at the end of the grid.

    Raises:
        ValueError: an invalid size, order, range, grid or ``outside``.

    Source: C. de Boor, *A Practical Guide to Splines*; the extended uniform grid follows Liu et
    al., *KAN: Kolmogorov-Arnold Networks* (arXiv 2404.19756).
    """

    grid_size: int = 5
    order: int = 3
    grid_range: tuple[float, float] = (-1.0, 1.0)
    grid: tuple[float, ...] | None = None
    outside: str = "zero"

    def __post_init__(self) -> None:
        if self.grid is not None:
            grid = tuple(float(point) for point in self.grid)
            object.__setattr__(self, "grid", grid)
            object.__setattr__(self, "grid_size", len(grid) - 1)
            object.__setattr__(self, "grid_range", (grid[0], grid[-1]) if grid else (0.0, 0.0))
        low, high = (float(end) for end in self.grid_range)
        object.__setattr__(self, "grid_range", (low, high))
        if self.grid_size < 1:
            raise ValueError(f"grid_size is {self.grid_size}; a grid needs at least 1 interval")
        if not 1 <= self.order <= 5:
            raise ValueError(f"order is {self.order}; B-splines are offered for orders 1 to 5")
        points = self.grid if self.grid is not None else (low, high)
        if not all(map(math.isfinite, points)):
            raise ValueError(f"the grid {points} holds a value that is not finite")
        if any(right <= left for left, right in pairwise(points)):
            raise ValueError(f"the grid {points} is not strictly increasing")
        if self.outside not in ("zero", "linear"):
            raise ValueError(f"outside is {self.outside!r}; known are zero, linear")

    @property
    def size(self) -> int:
        return self.grid_size + self.order

    @property
    def points(self) -> tuple[float, ...]:
        """All ``grid_size + 1`` grid points, in units of the input."""
        low, high = self.grid_range
        step = (high - low) / self.grid_size
        return self.grid or (*(low + i * step for i in range(self.grid_size)), high)

    @property
    def knots(self) -> tuple[float, ...]:
        """The grid points with ``order`` more on either side."""
        inner = self.points
        first, last = inner[1] - inner[0], inner[-1] - inner[-2]
        before = tuple(inner[0] - i * first for i in range(self.order, 0, -1))
        after = tuple(inner[-1] + i * last for i in range(1, self.order + 1))
        return before + inner + after

    def expand(self, x: Tensor) -> Tensor:
        x = wide(x)
        if self.outside == "zero":
            return self._values(x)
        inside = x.clamp(*self.grid_range)
        beyond = (x - inside).unsqueeze(-2)
        return self._values(inside) + self._slopes(self._inwards(x)) * beyond

    def derivative(self, x: Tensor) -> Tensor:
        """As of any basis; from the right at a knot of order 1."""
        x = wide(x)
        return self._slopes(x if self.outside == "zero" else self._inwards(x))

    def _inwards(self, x: Tensor) -> Tensor:
        """x clamped to points with the slope of the first or last piece of the grid.

        Slopes of order 1 jump at the ends: there it is clamped to the middle of the piece.
        """
        low, high = self.grid_range
        if self.order == 1:
            low, high = (low + self.knots[2]) / 2, (high + self.knots[-3]) / 2
        return x.clamp(low, high)

    def _values(self, x: Tensor) -> Tensor:
        if self.grid is None:
            return _cardinal(self._locate(x), self.order, self.size)
        return _local(x, self.knots, self.order)

    def _slopes(self, x: Tensor) -> Tensor:
        """The derivative of a B-spline is a difference of two of the order below."""
        if self.grid is None:
            low, high = self.grid_range
            lower = _cardinal(self._locate(x), self.order - 1, self.size + 1)
            lower *= self.grid_size / (high - low)
        else:
            lower = _local(x, self.knots, self.order - 1)  # (..., size + 1, n)
            pairs = zip(self.knots, self.knots[self.order :], strict=False)
            slopes = [self.order / (right - left) for left, right in pairs]  # size + 1 of them
            lower *= lower.new_tensor(slopes)[:, None]
        return lower[..., :-1, :] - lower[..., 1:, :]

    def _locate(self, x: Tensor) -> Tensor:
        """(..., n) -> the position of x, in intervals from the first knot.

        Inputs beyond the knots, infinities too, are clamped to just outside, where all is zero.
        """
        low, high = self.grid_range
        position = (x - self.knots[0]) * (self.grid_size / (high - low))
        return position.clamp(-1.0, self.grid_size + 2 * self.order + 1.0)


# For each order: (reach, factor) of the terms factor * max(reach - r, 0)^order.
TERMS = {
    order: [
        ((order + 1) / 2 - j, (-1) ** j * math.comb(order + 1, j) / math.factorial(order))
        for j in range(math.ceil((order + 1) / 2))
    ]
    for order in range(1, 6)
}


def _cardinal(position: Tensor, order: int, count: int) -> Tensor:
    """The first ``count`` B-splines on the knots 0, 1, 2, ...: (..., n) -> (..., count, n).

    A uniform B-spline is symmetric about its centre, so in the distance r from there it is

        1/k! * sum_j (-1)^j * C(k+1, j) * max((k+1)/2 - j - r, 0)^k,    k the order,

    over the terms that are not zero for every r. At most three terms of a few units cancel, so
    rounding errors stay small; no recursion and no search is needed.

    Source: the truncated-power form in de Boor, chapter IX, folded about the centre.
    """
    index = torch.arange(count, dtype=position.dtype, device=position.device)[:, None]
    position = position.unsqueeze(-2)
    if order == 0:  # the step from 0 to 1; from the right at a knot, like scipy's
        return (position.floor() == index) + 0 * position  # + 0 * position: a NaN stays a NaN
    r = (position - (index + (order + 1) / 2)).abs_()
    total, zero = torch.zeros_like(r), r.new_zeros(())
    for reach, factor in TERMS[order]:  # maximum, as clamp's gradient at 0 is not the mean slope
        total.add_(torch.maximum(reach - r, zero).pow_(order), alpha=factor)
    return total


def _local(x: Tensor, knots: tuple[float, ...], order: int) -> Tensor:
    """B-splines on any knots: (..., n) -> (..., len(knots) - order - 1, n).

    Only the ``order + 1`` nonzero functions are computed, by the triangular scheme of de Boor's
    BSPLVB, and scattered to their places.
    """
    widest = torch.float32 if x.device.type == "mps" else torch.float64
    t = torch.tensor(knots, dtype=widest, device=x.device)
    # Knots beyond the ends, for the intervals in which only some of the order + 1 functions exist.
    ends = torch.arange(1, order + 1, dtype=widest, device=x.device)
    t = torch.cat([(t[0] - ends).flip(0), t, t[-1] + ends])
    x_wide = x.to(widest)
    outside = (x_wide < knots[0]) | (x_wide >= knots[-1])
    last_interval = len(knots) - 2 + order
    span = torch.searchsorted(t, x_wide.contiguous(), right=True) - 1
    span = span.clamp(order, last_interval)  # t[span] <= x < t[span + 1]

    values = [torch.where(outside, 0.0, 1.0).to(widest) + 0 * x_wide.clamp(knots[0], knots[-1])]
    for degree in range(1, order + 1):
        saved = torch.zeros_like(x_wide)
        raised = []
        for r, value in enumerate(values):
            right, left = t[span + r + 1], t[span + r + 1 - degree]
            share = value / (right - left)
            raised.append(saved + (right - x_wide).masked_fill(outside, 0.0) * share)
            saved = (x_wide - left).masked_fill(outside, 0.0) * share
        values = [*raised, saved]

    padded = x.new_zeros((*x.shape[:-1], len(t) - order - 1, x.shape[-1]))
    index = torch.stack([span - order + r for r in range(order + 1)], dim=-2)
    padded.scatter_(-2, index, torch.stack(values, dim=-2).to(x))
    return padded[..., order : padded.shape[-2] - order, :] if order else padded
