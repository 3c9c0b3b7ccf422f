"""Other grids for given splines, and the linear map between their coefficients."""

import math
from bisect import bisect_right
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from nanogpkant.kan.bases.bspline import BSpline

SPARE = 1  # empty intervals left at an end, so that the next batch does not need them back
RIDGE = 1e-10  # in units of a spline's values: far below any spline's part, far above rounding


def refined(basis: BSpline, grid_size: int) -> BSpline:
    """The splines on a grid split into ``grid_size`` intervals: see ``grid.refine``.

    Raises:
        ValueError: ``grid_size`` is not a multiple of the basis's.
    """
    factor, rest = divmod(grid_size, basis.grid_size)
    if rest or factor < 1:
        near = " or ".join(str(basis.grid_size * f) for f in (factor, factor + 1) if f > 0)
        problem = f"a grid of {basis.grid_size} intervals cannot be split into {grid_size}"
        raise ValueError(f"{problem}: only into a multiple, such as {near}")
    beyond = basis.order if basis.outside == "zero" else 0
    knots = basis.knots if beyond else basis.points
    split = [
        left + (right - left) * part / factor
        for left, right in pairwise(knots)
        for part in range(factor)
    ]
    split.append(knots[-1])
    # The new basis adds ``order`` knots beyond its grid.
    return _with_points(basis, split[beyond : len(split) - beyond])


def grown(
    basis: BSpline, values: Tensor, coverage: float, max_grid_size: int
) -> tuple[BSpline, str]:
    """The splines with intervals added or dropped at the ends; or the old ones, and the reason.

    Args:
        values: (number,) sorted samples, in float64.
        coverage: share of them that the new grid covers, if ``max_grid_size`` allows it.
    """
    points = list(basis.points)
    tail = (1 - coverage) / 2
    low, high = values.quantile(values.new_tensor([tail, 1 - tail])).tolist()
    room = max(0, max_grid_size - basis.grid_size)
    before = _missing(points, values[values >= low], room)
    after = _missing(_mirrored(points), -values[values <= high], room)
    if before + after > room:
        before = before * room // (before + after)
        after = room - before
    first, last = points[1] - points[0], points[-1] - points[-2]
    points = [points[0] - i * first for i in range(before, 0, -1)] + points
    points += [points[-1] + i * last for i in range(1, after + 1)]
    if not ((values >= points[0]) & (values <= points[-1])).any():
        where = f"{values[0].item():.3g} to {values[-1].item():.3g}"
        return basis, f"the samples, {where}, are out of reach of {max_grid_size} intervals"
    empty_before = _empty(points, values[0].item())
    empty_after = _empty(_mirrored(points), -values[-1].item())
    if not (before or after or empty_before or empty_after):
        return basis, "the grid fits the samples"
    return _with_points(basis, points[empty_before : len(points) - empty_after]), ""


def _missing(points: list[float], values: Tensor, room: int) -> int:
    """Intervals to add before the first point: to all values in reach of at most ``room``."""
    step = points[1] - points[0]
    reached = values[(values < points[0]) & (values >= points[0] - room * step)]
    if not reached.numel():
        return 0
    return min(room, math.ceil((points[0] - reached.min().item()) / step))


def _empty(points: list[float], smallest: float) -> int:
    """Intervals to drop at the beginning if ``smallest`` is the smallest value."""
    return max(0, bisect_right(points, smallest) - 1 - SPARE)


def transfer(old: BSpline, new: BSpline, values: Tensor | None = None) -> Tensor:
    """The map A (new.size, old.size) from old coefficients to new ones, in float64.

    Ridge-regularised least squares for every old spline, over a uniform cover of the new grid, so
    that all coefficients are determined, and over the values of samples. Exact where the new
    splines span the old ones.
    """
    x = cover(new.points, new.order)
    if values is not None:
        reached = (values >= new.knots[0]) & (values <= new.knots[-1])
        x = torch.cat([x, values[reached]])
    wanted, given = old.expand(x[:, None]), new.expand(x[:, None])  # (points, size, 1)
    ridge = RIDGE * math.sqrt(len(x)) * torch.eye(new.size, dtype=x.dtype, device=x.device)
    given = torch.cat([given[..., 0], ridge])
    wanted = torch.cat([wanted[..., 0], wanted.new_zeros(new.size, old.size)])
    A = torch.linalg.lstsq(given, wanted, driver="gelsd").solution
    return A.where(A.abs() > 1e-12, 0.0)  # rounding errors to zero


def _mirrored(points: list[float]) -> list[float]:
    return [-point for point in reversed(points)]


def _with_points(basis: BSpline, points: list[float]) -> BSpline:
    """The same kind of splines on other grid points, uniform if the old ones were."""
    if basis.grid is not None:
        return replace(basis, grid=tuple(points))
    return replace(basis, grid_size=len(points) - 1, grid_range=(points[0], points[-1]))


def cover(points: tuple[float, ...] | list[float], order: int) -> Tensor:
    """Evenly spaced points in every interval, enough to determine polynomials of the order.

    On the CPU, whatever torch's default device is.
    """
    edges = torch.tensor(points, dtype=torch.float64, device="cpu")
    parts = 2 * (order + 1)
    inside = (torch.arange(parts, device="cpu").double() + 0.5) / parts
    return (edges[:-1, None] + edges.diff()[:, None] * inside).flatten()
