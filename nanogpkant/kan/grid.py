"""Changes of the spline grid in training that preserve the functions of a layer.

- ``refine`` splits every interval: the new splines span the old ones.
- ``update_grid`` adds and drops whole intervals at the ends, so that the grid covers the inputs;
  the other knots stay in place.

Either is one linear map for all edges, ``c_new = A @ c_old``. ``spline_scale`` stays (efficient-kan
fits the scaled curve and stores it as the unscaled one, which changes the function). Gradients, and
with them an optimizer's moments, transform as ``g_new = pinv(A).T @ g_old``.
"""

import copy
import math
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from nanogpkant.kan.bases.bspline import BSpline
from nanogpkant.kan.knots import cover, grown, refined, transfer
from nanogpkant.kan.shared import Shared
from nanogpkant.kan.state import FeatureLayer, coefficients_of, replace_value, spline_of

SUMMARY = 4096  # sorted, evenly spaced values that represent the samples of one process


@dataclass(frozen=True)
class GridChange:
    """Result of a change of a layer's grid."""

    old: BSpline
    new: BSpline
    """equal to ``old`` if the layer was left alone"""
    change: float = 0.0
    """largest change of the layer's output on the samples, in units of its standard deviation"""
    reason: str = ""
    """why the layer was left alone"""


def update_grid(
    layer: FeatureLayer,
    samples: Tensor,
    coverage: float = 0.99,
    max_grid_size: int = 64,
    tolerance: float = 1e-4,
    optimizer: torch.optim.Optimizer | None = None,
) -> GridChange:
    """Fit a layer's grid to its inputs, unless that would change the output of the layer.

    The grid grows by whole intervals until it covers ``coverage`` of the samples, and drops
    intervals at its ends that are far from every sample. The functions are preserved wherever
    samples lie. One case is inexact: a linear continuation has a kink at the end of the grid, which
    splines of order 3 and above cannot have.

    Args:
        samples: (..., in_features), inputs of the functions, after ``prenorm``. With
            torch.distributed every rank passes its own samples, and all get the same grid.
        coverage: share of the samples to cover, above 0, at most 1.
        max_grid_size: largest number of intervals to grow to.
        tolerance: largest change of the layer's output on the samples, in units of its standard
            deviation; beyond it the layer is left alone.
        optimizer: the optimizer of the layer's parameters; its moments are transformed too. If it
            has moments and is not given, its next step raises RuntimeError.

    Raises:
        ValueError: a layer without a B-spline grid; samples of another width, none, or some that
            are not finite; a coverage out of range.
    """
    old = spline_of(layer)
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage is {coverage}; it must be above 0 and at most 1")
    if samples.shape[-1:] != (layer.in_features,):
        shape = tuple(samples.shape)
        raise ValueError(f"samples are {shape}; the layer needs (..., {layer.in_features})")
    samples = samples.detach().to(layer.weight.device).reshape(-1, layer.in_features)
    values = _summary(samples)
    new, reason = grown(old, values, coverage, max_grid_size)
    if new == old:
        return GridChange(old, old, reason=reason)
    return _change(layer, new, values, samples, tolerance, optimizer)


def refine(
    layer: FeatureLayer, grid_size: int, optimizer: torch.optim.Optimizer | None = None
) -> GridChange:
    """Split every interval of a layer's grid; the functions stay the same everywhere.

    Args:
        grid_size: intervals that the present grid is split into, a multiple of its grid size.
            Splines that are zero outside reach ``order`` intervals beyond the grid and need fine
            knots there too: such a grid gets wider, and has more intervals than asked for (for 10,
            5 cubic ones become 16; the spacing is as asked).
        optimizer: as in ``update_grid``.

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
    layer: FeatureLayer, new: BSpline, A: Tensor, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Give a layer other splines and the coefficients ``A @ c``, and transform the moments.

    The parameter stays the same object, so the optimizer's groups stay valid, and ``step`` stays.
    With R = pinv(A), c_old = R @ c_new: mean gradients become R.T @ g_old, mean squared gradients
    are multiplied by the squares of R.T, as if the gradients of coefficients were independent.
    """
    parameter, axis = coefficients_of(layer)
    kept = parameter.shape[axis] - A.shape[1]  # the base function, or the line of shared functions
    A = torch.block_diag(torch.eye(kept, dtype=A.dtype, device=A.device), A)
    back = torch.linalg.pinv(A).T
    state = {} if optimizer is None else optimizer.state.get(parameter, {})
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            is_squared = "sq" in name or name in ("sum", "acc_delta")  # of Adagrad and Adadelta
            state[name] = _along(back.square() if is_squared else back, value, axis)
    replace_value(parameter, _along(A, parameter.data, axis))
    old = layer.features.basis
    basis = replace(old, family=new) if isinstance(old, Shared) else new
    layer.features = replace(layer.features, basis=basis)


def health(basis: BSpline, samples: Tensor) -> dict[str, float]:
    """How well a grid fits its inputs, as shares from 0 to 1.

    Args:
        samples: (rows, n), inputs of the functions.

    Returns:
        out_of_range: samples outside the grid;
        unseen: samples beyond the knots, where every spline is zero (none if outside is linear);
        dead: splines, of all n inputs, whose support holds no sample;
        knot_use: grid intervals, of all n inputs, that hold a sample.
    """
    (low, high), order = basis.grid_range, basis.order
    x = samples.detach().cpu().double()
    out_of_range = ((x < low) | (x > high)).double().mean().item()
    if basis.outside == "linear":  # the outermost splines extend beyond the grid
        x = x.clamp(low, math.nextafter(high, low))
    knots = torch.tensor(basis.knots, dtype=x.dtype, device="cpu")
    bins = torch.bucketize(x, knots, right=True)  # 0 and len(knots) are beyond the knots
    held = torch.zeros(x.shape[1], len(knots) + 1, dtype=torch.bool, device="cpu")
    held.scatter_(1, bins.T, True)
    seen = held[:, 1:-1].unfold(1, order + 1, 1).any(-1)  # (n, size): by each spline's intervals
    return {
        "out_of_range": out_of_range,
        "unseen": ((x < knots[0]) | (x >= knots[-1])).double().mean().item(),
        "dead": 1 - seen.double().mean().item(),
        "knot_use": held[:, 1 + order : -1 - order].double().mean().item(),
    }


def _change(
    layer: FeatureLayer,
    new: BSpline,
    values: Tensor | None,
    samples: Tensor,
    tolerance: float,
    optimizer: torch.optim.Optimizer | None,
) -> GridChange:
    """Change a layer's splines if its output on the samples changes by at most the tolerance."""
    old, trial = spline_of(layer), copy.deepcopy(layer)
    A = transfer(old, new, values)
    if _is_distributed():  # rounding may differ between ranks: take that of rank 0
        A = A.to(layer.weight.device)
        dist.broadcast(A, src=0)
        A = A.cpu()
    change_basis(trial, new, A)
    change = largest_change(layer, trial, samples)
    if not change <= tolerance:  # nor if it is NaN
        reason = f"the output would change by {change:.1g} of its std, above {tolerance:g}"
        return GridChange(old, old, change, reason)
    change_basis(layer, new, A, optimizer)
    return GridChange(old, new, change)


@torch.no_grad()
def largest_change(layer: FeatureLayer, other: FeatureLayer, samples: Tensor) -> float:
    """Largest difference of two layers' outputs on (rows, n), in units of the std of the first.

    Outputs are computed in float64, from the weights as stored. With torch.distributed, the maximum
    over all ranks.
    """
    samples = _float64(samples)
    with torch.autocast(samples.device.type, enabled=False):
        twins = map(_in_float64, (layer, other))
        before, after = (torch.cat([twin(part) for part in samples.split(64)]) for twin in twins)
    scale, size = before.std(correction=0), before.abs().max()
    if scale <= 1e-12 * size:  # constant output: compare with its size
        scale = size.clamp(min=torch.finfo(size.dtype).tiny)
    change = (after - before).abs().max() / scale
    if _is_distributed():
        change = change.to(layer.weight.device)
        dist.all_reduce(change, dist.ReduceOp.MAX)
    return change.item()


def _in_float64(layer: FeatureLayer) -> FeatureLayer:
    """A copy of a layer in float64 that takes inputs after ``prenorm``."""
    twin = copy.deepcopy(layer).eval()
    twin.prenorm, twin.backend = "none", "reference"  # used once: nothing is worth compiling
    return (twin.cpu() if layer.weight.device.type == "mps" else twin).double()


def _float64(value: Tensor) -> Tensor:
    """A tensor in float64; on the CPU if its device has no float64."""
    return (value.cpu() if value.device.type == "mps" else value).double()


def _along(matrix: Tensor, value: Tensor, axis: int) -> Tensor:
    """(new, old) times a tensor along its axis of size old, in float64, cast to its dtype."""
    wide = _float64(value)
    product = torch.tensordot(matrix.to(wide.device), wide, dims=([1], [axis]))  # pyright: ignore[reportArgumentType] - stubs lack it
    return product.movedim(0, axis).to(value.dtype).to(value.device).contiguous()


def _summary(samples: Tensor) -> Tensor:
    """Sorted values for the samples of all ranks, in float64 on the CPU, with exact extremes.

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


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
