"""Grids that change while a layer learns, and leave its functions as they are.

A layer's functions are sums of the B-splines on one grid, so on another grid they are the same
functions only if that grid's splines can say all that the old ones said. Two changes do that:

- ``refine`` splits every interval, and the old splines lie inside the new ones; and
- ``update_grid`` follows the inputs by adding and dropping whole intervals at the ends, with the
  spacing and the position of the knots kept.

Either is one linear map for all edges, ``c_new = A @ c_old``. The scale of an edge stays what it is
(efficient-kan fits the scaled curve and stores it as the unscaled one, which changes the function).
A gradient goes the other way, ``g_new = pinv(A).T @ g_old``, and an optimiser's moments with it.
"""

import copy
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from nanogpkant.kan.basis import Basis
from nanogpkant.kan.bspline import BSpline
from nanogpkant.kan.features import Features
from nanogpkant.kan.knots import cover, grown, moved, refined, transfer
from nanogpkant.kan.shared import Rational, Shared

if TYPE_CHECKING:
    from nanogpkant.kan.layer import KANLinear

SUMMARY = 4096  # values that stand for the samples of one process: sorted, evenly far apart


@dataclass(frozen=True)
class GridChange:
    """What became of a layer's grid."""

    old: BSpline
    new: BSpline
    """the same as ``old`` where the layer was left alone"""
    change: float = 0.0
    """largest change of the layer's output on the samples, in units of its standard deviation"""
    reason: str = ""
    """why the layer was left alone"""


def update_grid(
    layer: "KANLinear",
    samples: Tensor,
    adaptivity: float = 0.0,
    coverage: float = 0.99,
    max_grid_size: int = 64,
    tolerance: float = 1e-4,
    optimizer: torch.optim.Optimizer | None = None,
) -> GridChange:
    """Let a layer's grid follow its inputs, unless that would change what the layer computes.

    With ``adaptivity`` 0 the grid grows by whole intervals until ``coverage`` of the samples lie in
    it, and loses those at its ends that are far from every sample. The functions stay what they are
    wherever samples lie; in dropped intervals they are forgotten. One case is not exact: a linear
    continuation has a bend at the grid's end that splines of order 3 and above cannot have.

    With ``adaptivity`` above 0 as many knots as before move to where the samples are, and the
    functions are fitted anew. Functions with much shape are not kept by that, hence ``tolerance``.

    Args:
        samples: (..., in_features), what the functions see: behind ``prenorm`` where there is one.
            Where torch.distributed is set up, every rank calls with its own, and all get one grid.
        adaptivity: 0 to 1, from the old spacing to knots at the samples' quantiles. Knots stay at
            least a tenth of a uniform grid's spacing apart.
        coverage: share of the samples that the grid is to reach, above 0, at most 1.
        max_grid_size: intervals beyond which the grid does not grow.
        tolerance: largest change of the layer's output on the samples, in units of its standard
            deviation; beyond it the layer is left alone.
        optimizer: its moments of the layer's coefficients go along.

    Raises:
        ValueError: a layer without a B-spline grid; samples of another width, none, or some that
            are not finite; a setting out of its range.
    """
    old = spline_of(layer)
    if not (0 <= adaptivity <= 1 and 0 < coverage <= 1):
        raise ValueError(f"adaptivity {adaptivity} must be 0 to 1, and coverage {coverage} above 0")
    if samples.shape[-1:] != (layer.in_features,):
        shape = tuple(samples.shape)
        raise ValueError(f"samples are {shape}; the layer needs (..., {layer.in_features})")
    samples = samples.detach().to(layer.weight.device).reshape(-1, layer.in_features)
    values = _summary(samples)
    if adaptivity:
        new, reason = moved(old, values, adaptivity, coverage)
    else:
        new, reason = grown(old, values, coverage, max_grid_size)
    if new == old:
        return GridChange(old, old, reason=reason)
    return _change(layer, new, values, samples, tolerance, optimizer)


def refine(
    layer: "KANLinear", grid_size: int, optimizer: torch.optim.Optimizer | None = None
) -> GridChange:
    """Split every interval of a layer's grid; the functions stay the same everywhere.

    Args:
        grid_size: intervals that the present grid is split into, a multiple of what it has now.
            Splines that are zero outside reach ``order`` intervals beyond the grid, and to stay the
            same there they need fine knots there too: such a grid gets wider, and has more
            intervals than asked for (5 cubic ones become 16 for 10; the spacing is as asked).
        optimizer: its moments of the layer's coefficients go along.

    Raises:
        ValueError: a layer without a B-spline grid, or a size that is no such multiple.
    """
    old = spline_of(layer)
    new = refined(old, grid_size)
    if new == old:
        return GridChange(old, old, reason=f"the grid has {grid_size} intervals already")
    points = cover(old.knots, old.order).to(layer.weight)
    everywhere = points[:, None].expand(-1, layer.in_features)
    return _change(layer, new, None, everywhere, math.inf, optimizer)


@torch.no_grad()
def change_basis(
    layer: "KANLinear",
    new: BSpline,
    A: Tensor,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Give a layer other splines and the coefficients ``A @ c``, and the optimiser its moments.

    The parameter stays the same object, so the optimiser's groups stay right. ``step`` stays; mean
    gradients follow g_new = R.T @ g_old with R = pinv(A), since c_old = R @ c_new; mean squared
    gradients follow the squares of R.T, as if the coefficients' gradients were independent.
    """
    parameter, axis = _coefficients(layer)
    kept = parameter.shape[axis] - A.shape[1]  # the base function or a line: it stays
    A = torch.block_diag(torch.eye(kept, dtype=A.dtype, device=A.device), A)
    back = torch.linalg.pinv(A).T
    shape = parameter.shape
    state = {} if optimizer is None else optimizer.state.get(parameter, {})
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == shape:
            state[name] = _along(back.square() if "sq" in name else back, value, axis)
    _replace(parameter, _along(A, parameter.data, axis))
    layer.features = _features_with(layer.features, new)


def health(basis: BSpline, samples: Tensor) -> dict[str, float]:
    """How well a grid fits its inputs, as shares from 0 to 1.

    Args:
        samples: (rows, n), what the functions see.

    Returns:
        out_of_range: inputs outside the grid;
        unseen: inputs that no spline sees, beyond the knots (none where the outside is linear);
        dead: splines, counted at every one of the n inputs, that see no sample;
        knot_use: intervals of the grid, counted at every input, that hold a sample.
    """
    (low, high), order = basis.grid_range, basis.order
    x = samples.detach().cpu().double()
    out_of_range = ((x < low) | (x > high)).double().mean().item()
    if basis.outside == "linear":  # what lies outside is seen by the splines at the grid's end
        x = x.clamp(low, math.nextafter(high, low))
    knots = torch.tensor(basis.knots, dtype=x.dtype, device="cpu")
    bins = torch.bucketize(x, knots, right=True)  # 0 and len(knots) are beyond the knots
    width = len(knots) + 1
    bins += width * torch.arange(x.shape[1], device="cpu")
    held = torch.bincount(bins.flatten(), minlength=width * x.shape[1]).view(-1, width) > 0
    seen = held[:, 1:-1].unfold(1, order + 1, 1).any(-1)  # (n, size): by each spline's intervals
    beyond = ((x < knots[0]) | (x >= knots[-1])).double().mean().item()
    return {
        "out_of_range": out_of_range,
        "unseen": beyond,
        "dead": 1 - seen.double().mean().item(),
        "knot_use": held[:, 1 + order : -1 - order].double().mean().item(),
    }


def spline_of(layer: "KANLinear") -> BSpline:
    """The B-splines of a layer, an edge's own or those that shared functions are made of.

    Raises:
        ValueError: it has none.
    """
    if not has_grid(layer):
        raise ValueError(f"a layer with the basis {layer.basis} has no grid of splines to change")
    return _fixed(layer.features)


def has_grid(layer: "KANLinear") -> bool:
    """Whether ``spline_of`` finds any."""
    return isinstance(_fixed(layer.features), BSpline)


def set_features(layer: "KANLinear", features: Features) -> None:
    """Give a layer the features of a saved one, and coefficients of that shape, not yet filled.

    Raises:
        ValueError: one shares functions between edges, and the other does not.
    """
    if features.is_learned != layer.features.is_learned:
        raise ValueError(f"{features.basis} are not functions of the kind {layer.basis}")
    layer.features = features
    parameter, axis = _coefficients(layer)
    shape = list(parameter.shape)
    shape[axis] = features.coefficient_shape[2] if features.is_learned else features.size
    _replace(parameter, parameter.data.new_zeros(shape))


def _fixed(features: Features) -> Basis | Rational:
    """What all of a layer's functions are made of."""
    basis = features.basis
    return basis.family if isinstance(basis, Shared) else basis


def _features_with(features: Features, splines: BSpline) -> Features:
    basis = features.basis
    new = replace(basis, family=splines) if isinstance(basis, Shared) else splines
    return replace(features, basis=new)


def _replace(parameter: Tensor, value: Tensor) -> None:
    """Give a parameter another value of any shape; it stays the same object."""
    parameter.grad = None
    # As long as a result of the layer is alive, so is the node of the graph that takes the old
    # shape's gradient. Torch lets go of it only at a change of dtype.
    parameter.data = value.new_empty(0, dtype=torch.complex64)
    parameter.data = value


def _coefficients(layer: "KANLinear") -> tuple[Tensor, int]:
    """The parameter with a layer's spline coefficients, which come last along the given axis."""
    return (layer.coefficients, 2) if layer.features.is_learned else (layer.weight, 1)


def _change(
    layer: "KANLinear",
    new: BSpline,
    values: Tensor | None,
    samples: Tensor,
    tolerance: float,
    optimizer: torch.optim.Optimizer | None,
) -> GridChange:
    """Change a layer's splines if its output on the samples stays within the tolerance."""
    old, trial = spline_of(layer), copy.deepcopy(layer)
    A = _of_rank_0(transfer(old, new, values), layer.weight.device)
    change_basis(trial, new, A)
    change = largest_change(layer, trial, samples)
    if not change <= tolerance:  # nor if it is no number
        reason = f"the output would change by {change:.1g} of its std, above {tolerance:g}"
        return GridChange(old, old, change, reason)
    change_basis(layer, new, A, optimizer)
    return GridChange(old, new, change)


@torch.no_grad()
def largest_change(layer: "KANLinear", other: "KANLinear", samples: Tensor) -> float:
    """The largest difference of two layers' outputs on (rows, n), in units of the first one's std.

    The weights are taken as they are stored, and all else is worked out in float64. The largest on
    any rank, where torch.distributed is set up.
    """
    samples = _float64(samples)
    with torch.autocast(samples.device.type, enabled=False):
        before, after = (_in_float64(each)(samples) for each in (layer, other))
    scale = before.std(correction=0)
    size = before.abs().max()
    if scale <= 1e-12 * size:  # all samples give the same: there is only its size to compare with
        scale = size.clamp(min=torch.finfo(size.dtype).tiny)
    change = (after - before).abs().max() / scale
    if _is_distributed():
        change = change.to(layer.weight.device)
        dist.all_reduce(change, dist.ReduceOp.MAX)
    return change.item()


def _in_float64(layer: "KANLinear") -> "KANLinear":
    """A copy of a layer that takes what the functions see, and rounds nothing."""
    twin = copy.deepcopy(layer)
    twin.eval()
    twin.prenorm, twin.backend = "none", "recompute"
    if layer.weight.device.type == "mps":
        twin = twin.cpu()
    return twin.double()


def _float64(value: Tensor) -> Tensor:
    """A tensor in float64; on the CPU, where its device has no such numbers."""
    return (value.cpu() if value.device.type == "mps" else value).double()


def _along(matrix: Tensor, value: Tensor, axis: int) -> Tensor:
    """(new, old) times a tensor along its axis of size old, in float64; in the tensor's dtype."""
    wide = _float64(value)
    product = torch.tensordot(matrix.to(wide.device), wide, ([1], [axis]))
    return product.movedim(0, axis).to(value.dtype).to(value.device).contiguous()


def _summary(samples: Tensor) -> Tensor:
    """All samples of all ranks as sorted values, in float64 on the CPU; the extremes are exact.

    Raises:
        ValueError: there are none, or some that are not finite, on any rank.
    """
    values = _float64(samples).flatten().sort().values  # NaN comes last
    picked = values.new_full((SUMMARY,), torch.nan)
    if values.numel():
        even = torch.arange(SUMMARY, device=values.device)
        picked = values[even * (values.numel() - 1) // (SUMMARY - 1)]
    if _is_distributed():
        parts = [torch.empty_like(picked) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, picked.contiguous())
        picked = torch.cat(parts)
    picked = picked.cpu()
    if not picked.isfinite().all():
        raise ValueError("there are no samples, or some that are not finite: no grid fits those")
    return picked.sort().values


def _of_rank_0(matrix: Tensor, device: torch.device) -> Tensor:
    """What rank 0 has, on all ranks. The collective runs on the given device."""
    if _is_distributed():
        there = matrix.to(device)
        dist.broadcast(there, src=0)
        matrix = there.to(matrix.device)
    return matrix


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
