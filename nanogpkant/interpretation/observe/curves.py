"""Curves: the values of a layer's edges at points distributed like its inputs.

G points for each of n inputs and m outputs are G * m * n numbers of 4 bytes: 38 MB for 192 to 768
and 64 points, 600 MB for 768 to 3072. This is the peak: layers are processed one at a time, and
``formulas.fit`` processes a few inputs at a time.
"""

from collections.abc import Callable

import psutil
import torch
from torch import Tensor

from nanogpkant.base.errors import UserError
from nanogpkant.interpretation.observe.collect import Observed
from nanogpkant.kan import KANLinear

EdgeFunctions = Callable[[Tensor], Tensor]
"""functions of all edges of a layer, as ``layer.edges``: points (G, n) -> values (G, m, n)"""

EVEN = 0.5  # share of the points that are spaced evenly; the others follow the inputs


def points(observed: Observed, count: int = 64) -> Tensor:
    """Points to evaluate a layer's functions at: (count, n), ascending from ``low`` to ``high``.

    They are quantiles of an even mixture of the distribution of the inputs and a uniform one:
    dense where the inputs are, without gaps.
    """
    low, high = observed.low, observed.high
    borders = observed.edges.clamp(low[:, None], high[:, None])  # (n, B + 1)
    filled = _filled(observed, borders)
    even = (borders - low[:, None]) / (high - low).clamp(min=1e-30)[:, None]
    span = (filled[:, -1:] - filled[:, :1]).clamp(min=1e-30)
    mixed = EVEN * even + (1 - EVEN) * (filled - filled[:, :1]) / span
    wanted = torch.linspace(0, 1, count, dtype=mixed.dtype).expand(len(mixed), -1).contiguous()
    found = _interpolate(wanted, mixed, borders).clamp(low[:, None], high[:, None])
    found[:, 0], found[:, -1] = low, high
    return found.T.contiguous()


def even_points(low: Tensor, high: Tensor, count: int) -> Tensor:
    """(count, n) evenly spaced from ``low`` to ``high``, (n,) each."""
    steps = torch.linspace(0, 1, count, dtype=low.dtype, device=low.device)
    return low + steps[:, None] * (high - low)


def weights(observed: Observed, points: Tensor) -> Tensor:
    """Share of the inputs nearest to each point: (G, n) ascending -> (G, n), sums to 1 over G."""
    filled = _filled(observed, (points[1:] + points[:-1]).T / 2)  # (n, G - 1)
    ends = filled.new_zeros(len(filled), 1)
    found = torch.cat([ends, filled, ends + 1], dim=1).diff(dim=1)
    is_constant = observed.high <= observed.low
    found[is_constant] = 1 / len(points)
    return found.T.to(points.dtype).contiguous()


@torch.no_grad()
def tabulate(layer: KANLinear, points: Tensor) -> Tensor:
    """Every edge at every point: (G, n) -> (G, m, n), float32 on the CPU.

    Raises:
        UserError: they do not fit into memory, or are not finite.
    """
    edges = layer.out_features * layer.in_features
    check_memory(4 * len(points) * edges, f"{edges:,} edges at {len(points)} points")
    values = layer.edges(points.to(layer.weight)).float().cpu()
    if not values.isfinite().all():
        raise UserError("the weights of a KAN layer are not finite: use another checkpoint")
    return values


def check_memory(needed: int, what: str) -> None:
    """Refuse what needs more bytes than are free; ``what`` is a plural noun."""
    free = psutil.virtual_memory().available
    if needed > free:
        remedy = "take fewer layers at a time with --layers, or a machine with more"
        sizes = f"take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
        raise UserError(f"{what} {sizes}: {remedy}; finished layers are kept")


def _filled(observed: Observed, x: Tensor) -> Tensor:
    """Cumulative share of each input's values up to x: (n, K) -> (n, K)."""
    counts = torch.nn.functional.pad(observed.counts.double().cumsum(1), (1, 0))  # (n, B + 1)
    return _interpolate(x, observed.edges, (counts / counts[:, -1:]).to(observed.edges.dtype))


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """(n, K) -> (n, K): linear interpolation of (n, B) points with ascending xs, clamped."""
    right = torch.searchsorted(xs.contiguous(), x.contiguous()).clamp(1, xs.shape[1] - 1)
    x0, x1 = xs.gather(1, right - 1), xs.gather(1, right)
    y0, y1 = ys.gather(1, right - 1), ys.gather(1, right)
    part = ((x - x0) / (x1 - x0).clamp(min=1e-30)).clamp(0, 1)
    return y0.lerp(y1, part)
