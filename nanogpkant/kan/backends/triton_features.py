"""Features and their derivatives in Triton, as ``features.py`` and ``bases/bspline.py`` have them.

In the functions c is a ``Constants``, x a tile of any shape.
"""

from __future__ import annotations  # kernel annotations need triton.language, which may be missing

from collections.abc import Callable
from typing import NamedTuple

import torch

from nanogpkant.kan.features import Features

try:
    import triton
    import triton.language as tl
except ImportError:  # some platforms have none; the kernels are then never run
    triton = tl = None


class Constants(NamedTuple):
    """Compile-time constants of a kernel; plain values, since triton caches tuning as JSON."""

    base: str
    order: int
    grid_size: int
    size: int  # M
    first: int  # index of the first spline: 1, or 0 without a base function
    low: float
    high: float
    per_unit: float  # intervals per unit of the input
    linear: bool  # splines continue linearly outside the grid
    inset: float  # distance from the end of the grid, in intervals, at which slopes are taken
    precision: str | None  # of float32 products


def constants_of(features: Features, dtype: torch.dtype) -> Constants:
    basis, (low, high) = features.basis, features.basis.grid_range
    per_unit = basis.grid_size / (high - low)
    linear = basis.outside == "linear"
    inset = 0.5 if basis.order == 1 else 0.0  # the slopes of order 1 jump at the end
    # torch.backends.cuda.matmul.allow_tf32 sets this too.
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    return Constants(
        features.base, basis.order, basis.grid_size, features.size, features.size - basis.size,
        low, high, per_unit, linear, inset, precision if dtype == torch.float32 else None,
    )  # fmt: skip


def jit(function: Callable) -> Callable:
    return triton.jit(function) if triton else function


@jit
def _relu(x):
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@jit
def _power(x, exponent: tl.constexpr):
    result = x
    for _ in tl.static_range(1, exponent):
        result *= x
    return result


@jit
def _folded(r, order: tl.constexpr, power: tl.constexpr):
    """The truncated powers of bspline._cardinal at the distance r from the centre of a B-spline.

    Its value with power = order, its slope towards the centre with power = order - 1. Zero far
    outside, infinities included; a NaN stays a NaN.
    """
    half: tl.constexpr = (order + 1) / 2
    total = _power(_relu(half - r), power)
    if order > 1:
        total -= (order + 1) * _power(_relu(half - 1 - r), power)
    if order > 3:
        total += (order + 1) * order / 2 * _power(_relu(half - 2 - r), power)
    factorial: tl.constexpr = (1, 1, 2, 6, 24, 120)[power]
    return total * (1 / factorial)


@jit
def _slope(s, order: tl.constexpr):
    """A B-spline's slope at s intervals from its centre; from the right at a knot of order 1."""
    if order == 1:
        step = tl.where(s < 0, 1.0, -1.0)
        return tl.where((s < -1) | (s >= 1), 0.0, tl.where(s == s, step, s))
    return tl.where(s < 0, 1.0, -1.0) * _folded(tl.abs(s), order, order - 1)


@jit
def _spline(x, k, c: tl.constexpr):
    at_low = (c.order - 1) / 2 - k  # start of the grid, in intervals from the spline's centre
    if not c.linear:
        return _folded(tl.abs((x - c.low) * c.per_unit + at_low), c.order, c.order)
    inside = tl.clamp(x, c.low, c.high, propagate_nan=tl.PropagateNan.ALL)
    slope_low = _slope(at_low + c.inset, c.order)
    slope_high = _slope(at_low + c.grid_size - c.inset, c.order)
    beyond = (x - inside) * c.per_unit
    value = _folded(tl.abs((inside - c.low) * c.per_unit + at_low), c.order, c.order)
    return value + tl.where(beyond < 0, slope_low, slope_high) * beyond


@jit
def spline_derivative(x, k, c: tl.constexpr):
    if c.linear:
        inset = c.inset / c.per_unit
        x = tl.clamp(x, c.low + inset, c.high - inset, propagate_nan=tl.PropagateNan.ALL)
    return _slope((x - c.low) * c.per_unit + ((c.order - 1) / 2 - k), c.order) * c.per_unit


@jit
def _base(x, c: tl.constexpr):
    if c.base == "silu":
        x *= tl.sigmoid(x)
    if c.base == "gelu":
        x *= 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)
    if c.base == "gelu_tanh":
        x *= tl.sigmoid(1.5957691216057308 * x * (1 + 0.044715 * x * x))
    if c.base == "even":
        x *= 0.5 * tl.erf(x * 0.7071067811865476)
    if c.base == "relu":
        x = tl.where(x < 0, 0.0, x)
    if c.base == "relu2":
        x = tl.where(x > 0, x * x, 0 * x)
    if c.base == "leaky_relu2":
        x = tl.where(x > 0, x * x, 0.25 * x * x)
    return x


@jit
def base_derivative(x, c: tl.constexpr):
    if c.base == "silu":
        gate = tl.sigmoid(x)
        return gate * (1 + x * (1 - gate))
    if c.base == "gelu":
        density = 0.3989422804014327 * tl.exp(-0.5 * x * x)
        return 0.5 + 0.5 * tl.erf(x * 0.7071067811865476) + x * density
    if c.base == "gelu_tanh":
        x = tl.clamp(x, -30.0, 30.0, propagate_nan=tl.PropagateNan.ALL)
        gate = tl.sigmoid(1.5957691216057308 * x * (1 + 0.044715 * x * x))
        return gate * (1 + x * (1 - gate) * 1.5957691216057308 * (1 + 0.134145 * x * x))
    if c.base == "even":
        density = 0.3989422804014327 * tl.exp(-0.5 * x * x)
        return 0.5 * tl.erf(x * 0.7071067811865476) + x * density
    if c.base == "relu":
        return tl.where(x > 0, 1.0, 0 * tl.clamp(x, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL))
    if c.base == "relu2":
        return tl.where(x > 0, 2 * x, 0 * x)
    if c.base == "leaky_relu2":
        return tl.where(x > 0, 2 * x, 0.5 * x)
    return tl.full(x.shape, 1.0, tl.float32)


@jit
def feature_of(x, m, c: tl.constexpr):
    """Feature m, a runtime value: an unrolled loop over m would fill shared memory with weights."""
    if c.base == "none":
        value = _spline(x, m, c)
    elif m == 0:
        value = _base(x, c)
    else:
        value = _spline(x, m - 1, c)
    return value
