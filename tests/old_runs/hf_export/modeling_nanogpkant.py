"""The model of this folder: code of nanogpkant 0.1.0, put into one file; not to be edited.

Comments name the modules that the definitions are of. MIT licence, copyright 2026 the nanogpkant
authors.
"""

# ruff: noqa

import copy
import dataclasses
import json
import math
import re
import torch
import torch.nn.functional as F
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel, PretrainedConfig
from transformers.cache_utils import Cache as TheirCache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple
from typing import Any, Literal


# nanogpkant/errors: Errors meant for a person: one line that names what is wrong and what would be right.


class UserError(Exception):
    """Something the person running the program can mend. Printed as one line; exit status 1."""

    exit_status = 1


class UsageError(UserError):
    """A flag, key or value that can never work. Raised before anything is loaded; exit status 2."""

    exit_status = 2


# nanogpkant/config: RunConfig: everything that decides a run, as typed dataclasses that refuse what cannot work.


Site = Literal["qkv", "attn_out", "mlp_in", "mlp_out"]


def refuse(flag: str, value: Any, remedy: str) -> typing.NoReturn:
    """Raise the one-line error for a setting that can never work."""
    raise UsageError(f"--{flag} {value}: {remedy}")


def _at_least(section: str, config: Any, **minima: float) -> None:
    for name, least in minima.items():
        value = getattr(config, name)
        if not (value >= least and math.isfinite(value)):
            refuse(f"{section}.{name}", value, f"must be at least {least}")


def _fraction(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            refuse(f"{section}.{name}", value, "must be at least 0 and below 1")


@dataclass(frozen=True)
class KANConfig:
    """Which projections are KAN layers, and what those layers are."""

    sites: list[Site] = field(default_factory=list)
    """projections that are KAN: any of qkv, attn_out, mlp_in, mlp_out; none is the plain GPT"""
    basis: Literal["bspline", "hat", "rbf", "chebyshev", "fourier", "rational", "line"] = "bspline"
    """family of one-dimensional functions; hat is piecewise linear; rational has to be shared, and
    so has line, a control: no more than a learned factor"""
    share: str = "edge"
    """edge: every edge has functions of its own; input: the edges of an input share one learned
    function; group:G: each of G groups of inputs shares one; atoms:K: the whole layer shares K"""
    grid_size: int = 5
    """intervals of the grid of bspline, hat and rbf"""
    spline_order: int = 3
    """degree of the pieces of bspline, 1 to 5; 3 is cubic"""
    degree: int = 3
    """highest degree of chebyshev and rational, highest frequency of fourier"""
    grid_range: tuple[float, float] = (-1.0, 1.0)
    """first and last grid point, in units of the layer's input"""
    outside: Literal["zero", "linear"] = "zero"
    """beyond the grid bspline and hat run out and are zero, or go on in straight lines"""
    base: Literal["silu", "gelu", "gelu_tanh", "identity", "none", "gpt"] = "silu"
    """function added to every edge's own, with a weight of its own, or to the first shared one;
    gpt is what the plain GPT has there: before mlp_out the gelu that model.mlp says, unless gated,
    identity elsewhere"""
    prenorm: Literal["none", "rms"] = "none"
    """divide every input vector by its root mean square before the functions, or not"""
    spline_scale: bool = False
    """learn one more factor for every edge's spline, as efficient-kan does"""
    init: Literal["variance_preserving", "whitened", "original"] = "variance_preserving"
    """how KAN weights start: unit variance in, unit variance out; that with all shapes of curve
    equally likely (whitened); or efficient-kan's way"""
    dropout: float = 0.0
    """share of a KAN layer's inputs whose functions are all dropped in training, 0 to below 1"""
    backend: Literal["auto", "triton", "recompute", "reference"] = "auto"
    """how the layer runs: triton is for GPUs, recompute saves only the layer's input, reference
    writes out every feature; auto is the best that can run"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid_range", tuple(self.grid_range))
        _at_least("model.kan", self, grid_size=1, degree=1)
        _fraction("model.kan", self, "dropout")
        if not re.fullmatch(r"edge|input|(group|atoms):[1-9]\d*", self.share):
            remedy = "must be edge, input, group:G or atoms:K, such as group:8"
            refuse("model.kan.share", self.share, remedy)
        if self.basis in ("rational", "line") and self.share == "edge":
            refuse("model.kan.basis", self.basis, "has to be shared: --model.kan.share group:8")
        if not 1 <= self.spline_order <= 5:
            refuse("model.kan.spline_order", self.spline_order, "must be 1 to 5")
        low, high = self.grid_range
        if not (math.isfinite(high - low) and low < high):
            value = f"[{low}, {high}]"
            refuse("model.kan.grid_range", value, "the first number must be below the second")
        if len(set(self.sites)) != len(self.sites):
            refuse("model.kan.sites", self.sites, "names a site twice; name each once")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the GPT. With no KAN sites it is nanoGPT's plain model."""

    n_layer: int = 6
    """transformer blocks"""
    n_head: int = 6
    """attention heads a block"""
    n_embd: int = 384
    """width of the residual stream; a multiple of n_head"""
    block_size: int = 256
    """longest context, tokens"""
    mlp: Literal["gelu", "gelu_tanh", "gated"] = "gelu"
    """what is between an MLP's projections: gelu; gelu_tanh, the approximation to it that GPT-2
    has; or gated: of twice as many numbers one half, after SiLU, multiplies the other (SwiGLU)"""
    mlp_ratio: float = 4.0
    """width inside each MLP, where mlp_out reads, in units of n_embd"""
    dropout: float = 0.2
    """share of activations dropped in training, 0 to below 1"""
    bias: bool = False
    """biases in norms and projections, as GPT-2 has"""
    init: Literal["gpt2", "fan_in"] = "gpt2"
    """plain projections start as N(0, 0.02) (gpt2) or N(0, 1/sqrt(inputs)) (fan_in)"""
    kan: KANConfig = field(default_factory=KANConfig)

    def __post_init__(self) -> None:
        _at_least("model", self, n_layer=1, n_head=1, n_embd=1, block_size=1, mlp_ratio=0)
        _fraction("model", self, "dropout")
        if self.n_embd % self.n_head:
            fits = self.n_head * max(1, round(self.n_embd / self.n_head))
            remedy = f"must be a multiple of --model.n_head {self.n_head}; {fits} would be"
            refuse("model.n_embd", self.n_embd, remedy)
        if self.mlp_width < 1:
            refuse("model.mlp_ratio", self.mlp_ratio, "leaves the MLP no width at all")

    @property
    def mlp_width(self) -> int:
        """Numbers that an MLP's second projection reads."""
        return round(self.mlp_ratio * self.n_embd)


# nanogpkant/kan/bspline: B-splines on a grid, without recursion: the basis that the original KAN layer is made of.


def wide(x: Tensor) -> Tensor:
    """x in float32 or wider: functions are worked out in that, whatever x is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
class BSpline:
    """B-splines of one order on a grid.

    The grid has ``grid_size`` intervals. It is continued by ``order`` knots on either side with the
    spacing of its first and last interval, which gives ``grid_size + order`` functions; inside the
    grid they sum to one.

    Args:
        grid_size: number of intervals of the grid, at least 1.
        order: degree of the polynomial pieces, 1 (piecewise linear) to 5; 3 is cubic.
        grid_range: first and last grid point of a uniform grid, in units of the input.
        grid: all ``grid_size + 1`` grid points of a non-uniform grid, strictly increasing. Where
            given, ``grid_size`` and ``grid_range`` follow from it.
        outside: what the functions do beyond the grid: "zero" lets them run out over the knots
            that continue the grid and be zero from there on; "linear" continues each one along
            its slope at the end of the grid.

    Raises:
        ValueError: a size, order, range or grid that is no B-spline basis.

    Source: C. de Boor, *A Practical Guide to Splines*; the extended uniform grid is that of
    Liu et al., *KAN: Kolmogorov-Arnold Networks* (arXiv 2404.19756).
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
    def knots(self) -> tuple[float, ...]:
        """All ``grid_size + 2 * order + 1`` knots, in units of the input."""
        low, high = self.grid_range
        step = (high - low) / self.grid_size
        inner = self.grid or (*(low + i * step for i in range(self.grid_size)), high)
        first, last = inner[1] - inner[0], inner[-1] - inner[-2]
        before = tuple(inner[0] - i * first for i in range(self.order, 0, -1))
        after = tuple(inner[-1] + i * last for i in range(1, self.order + 1))
        return before + inner + after

    def expand(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., size, n): the value of every B-spline, in float32 or wider."""
        x = wide(x)
        if self.outside == "zero":
            return self._values(x)
        inside = x.clamp(*self.grid_range)
        beyond = (x - inside).unsqueeze(-2)
        return self._values(inside) + self._slopes(self._inwards(x)) * beyond

    def derivative(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., size, n): d expand(x) / dx, from the right at a knot of order 1."""
        x = wide(x)
        return self._slopes(x if self.outside == "zero" else self._inwards(x))

    def _inwards(self, x: Tensor) -> Tensor:
        """x moved to where the slope is that of the grid's first or last piece, if it lies beyond.

        Slopes of functions of order 1 jump at the ends: there it is moved well into the piece.
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
        """(..., n) -> where x lies, in intervals from the first knot.

        Inputs outside the knots, infinities too, are moved to just outside, where every function is
        zero.
        """
        low, high = self.grid_range
        position = (x - self.knots[0]) * (self.grid_size / (high - low))
        return position.clamp(-1.0, self.grid_size + 2 * self.order + 1.0)


# For each order: what r is taken from in a term of the sum, and the term's factor.
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

    over the terms that are not zero for every r. Measured from the centre, at most three terms of
    a few units cancel, so nothing is lost to rounding; no recursion and no search is needed.

    Source: the truncated-power form in de Boor, chapter IX, folded about the centre.
    """
    index = torch.arange(count, dtype=position.dtype, device=position.device)[:, None]
    position = position.unsqueeze(-2)
    if order == 0:  # the step from 0 to 1; from the right at a knot, like scipy's
        return (position.floor() == index) + 0 * position  # + 0 * position: a NaN stays a NaN
    r = (position - (index + (order + 1) / 2)).abs_()
    total = torch.zeros_like(r)
    for reach, factor in TERMS[order]:
        total.add_((reach - r).clamp_(min=0).pow_(order), alpha=factor)
    return total


def _local(x: Tensor, knots: tuple[float, ...], order: int) -> Tensor:
    """B-splines on any knots: (..., n) -> (..., len(knots) - order - 1, n).

    Only the ``order + 1`` functions that are not zero at x are worked out, by the triangular scheme
    of de Boor's BSPLVB, and then put in their places.
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


# nanogpkant/kan/basis: The bases, in plain torch: the specification that every faster backend is tested against.


@dataclass(frozen=True)
class RBF:
    """Gaussian bumps exp(-((x - c) / h)^2) around ``grid_size + 1`` evenly spaced centres c.

    Args:
        grid_size: intervals between the first and the last centre, at least 1.
        grid_range: the first and the last centre, in units of the input.

    The width h is the spacing, as in FastKAN.

    Raises:
        ValueError: a size or a range that gives no such bumps.

    Source: Li, *Kolmogorov-Arnold Networks are Radial Basis Function Networks* (arXiv 2405.06721).
    """

    grid_size: int = 5
    grid_range: tuple[float, float] = (-2.0, 2.0)

    def __post_init__(self) -> None:
        low, high = (float(end) for end in self.grid_range)
        object.__setattr__(self, "grid_range", (low, high))
        if self.grid_size < 1:
            raise ValueError(f"grid_size is {self.grid_size}; a grid needs at least 1 interval")
        if not (math.isfinite(high - low) and low < high):
            raise ValueError(f"the range {self.grid_range} must be finite and increasing")

    @property
    def size(self) -> int:
        return self.grid_size + 1

    def expand(self, x: Tensor) -> Tensor:
        return torch.exp(-self._distance(x).square())

    def derivative(self, x: Tensor) -> Tensor:
        low, high = self.grid_range
        r = self._distance(x)
        return torch.exp(-r.square()) * r * (-2 * self.grid_size / (high - low))

    def _distance(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., size, n): distance to every centre, in widths, at most 1e9.

        Farther away a bump is zero anyway, and the product with its slope must not be inf * 0.
        """
        low, high = self.grid_range
        step = (high - low) / self.grid_size
        x = wide(x).unsqueeze(-2)
        index = torch.arange(self.size, dtype=x.dtype, device=x.device)[:, None]
        return ((x - low) / step - index).clamp(-1e9, 1e9)


@dataclass(frozen=True)
class Chebyshev:
    """Chebyshev polynomials T_1 ... T_degree of tanh(x), which takes any input into (-1, 1).

    T_0 is left out: it would add the same constant for every input of a layer.

    Args:
        degree: the highest degree, at least 1.

    Raises:
        ValueError: a degree below 1.

    Source: SS et al., *Chebyshev Polynomial-Based Kolmogorov-Arnold Networks* (arXiv 2405.07200).
    """

    degree: int = 3

    def __post_init__(self) -> None:
        if self.degree < 1:
            raise ValueError(f"degree is {self.degree}; it must be at least 1")

    @property
    def size(self) -> int:
        return self.degree

    def expand(self, x: Tensor) -> Tensor:
        u = torch.tanh(wide(x))
        terms = [torch.ones_like(u), u]
        while len(terms) <= self.degree:  # T_k+1 = 2 u T_k - T_k-1
            terms.append(2 * u * terms[-1] - terms[-2])
        return torch.stack(terms[1:], dim=-2)

    def derivative(self, x: Tensor) -> Tensor:
        """T_k' = k U_k-1, U the Chebyshev polynomials of the second kind, times tanh'(x)."""
        u = torch.tanh(wide(x))
        second = [torch.ones_like(u), 2 * u]
        while len(second) < self.degree:
            second.append(2 * u * second[-1] - second[-2])
        slopes = [k * term for k, term in enumerate(second[: self.degree], start=1)]
        return torch.stack(slopes, dim=-2) * (1 - u * u).unsqueeze(-2)


@dataclass(frozen=True)
class Fourier:
    """cos(kx) and sin(kx) for k = 1 ... frequencies: functions of period 2 pi.

    Args:
        frequencies: how many of them, at least 1.

    Raises:
        ValueError: fewer than one frequency.

    Source: the FourierKAN project (github.com/GistNoesis/FourierKAN); the constant is left out.
    """

    frequencies: int = 3

    def __post_init__(self) -> None:
        if self.frequencies < 1:
            raise ValueError(f"frequencies is {self.frequencies}; it must be at least 1")

    @property
    def size(self) -> int:
        return 2 * self.frequencies

    def expand(self, x: Tensor) -> Tensor:
        angle, _ = self._angles(x)
        return torch.cat([torch.cos(angle), torch.sin(angle)], dim=-2)

    def derivative(self, x: Tensor) -> Tensor:
        angle, k = self._angles(x)
        return torch.cat([-k * torch.sin(angle), k * torch.cos(angle)], dim=-2)

    def _angles(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(..., n) -> (..., frequencies, n) of k * x, and (frequencies, 1) of k."""
        x = wide(x).unsqueeze(-2)
        k = torch.arange(1, self.frequencies + 1, dtype=x.dtype, device=x.device)[:, None]
        return k * x, k


Basis = BSpline | RBF | Chebyshev | Fourier


# nanogpkant/kan/shared: Functions shared between edges: learned with the layer, few of them, used by many edges.


@dataclass(frozen=True)
class Rational:
    """Quotients P(x) / Q(x) with Q(x) = 1 + |b_1 x + b_2 x^2 + ...|, which is never zero.

    A family that is not linear in its numbers, so it can only be shared.

    Args:
        degree: of P; Q's is one lower, so that P / Q grows like a line.

    Raises:
        ValueError: a degree below 1.

    Source: the safe Pade unit of Molina et al. (arXiv 1907.06732), in the form of the Kolmogorov-
    Arnold Transformer: the absolute value is around the whole sum.
    """

    degree: int = 5

    def __post_init__(self) -> None:
        if self.degree < 1:
            raise ValueError(f"degree is {self.degree}; it must be at least 1")

    @property
    def numbers(self) -> int:
        """P: degree + 1 coefficients of the numerator, then those of the denominator."""
        return 2 * self.degree

    @property
    def limit(self) -> float:
        """The largest |x| that P and Q are taken at: the powers of a larger one may be infinite."""
        return 1e30 ** (1 / self.degree)

    def combine(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """(..., G, n / G) and (M, G, 1, numbers) -> (..., M, G, n / G)."""
        x = x.clamp(-self.limit, self.limit).unsqueeze(-3)
        above, below = coefficients[..., : self.degree + 1], coefficients[..., self.degree + 1 :]
        numerator = _horner(x, above)
        if not below.shape[-1]:
            return numerator
        inner = x * _horner(x, below)
        # Not abs(): its derivative at 0 is 0, and numbers of Q that start at 0 would never move.
        return numerator / (1 + torch.where(inner < 0, -inner, inner))

    def pull_back(self, grad: Tensor, x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of ``combine`` -> those of x and of the coefficients.

        (rows, M, G, n / G), (rows, G, n / G) and (M, G, 1, numbers) -> (rows, G, n / G) and
        (M, G, numbers).
        """
        u = x.clamp(-self.limit, self.limit).unsqueeze(-3)
        above, below = coefficients[..., : self.degree + 1], coefficients[..., self.degree + 1 :]
        power = torch.arange(1, self.degree + 1, dtype=u.dtype, device=u.device)
        inner = u * _horner(u, below) if below.shape[-1] else torch.zeros_like(u)
        by_above = grad / (1 + inner.abs())
        grad_u = by_above * _horner(u, above[..., 1:] * power)
        sums = _moments(by_above, u, self.degree + 1)
        if below.shape[-1]:
            by_below = -by_above * (_horner(u, above) / (1 + inner.abs()))
            by_below = torch.where(inner < 0, -by_below, by_below)
            grad_u = grad_u + by_below * _horner(u, below * power[:-1])
            sums += _moments(by_below * u, u, self.degree - 1)
        grad_x = grad_u.sum(-3).masked_fill(x.abs() > self.limit, 0.0)
        return grad_x, torch.stack(sums, -1)

    def start(self, index: int) -> Tensor:
        """(numbers,): function 0 starts at zero, function k at x^k over an even denominator."""
        numbers = torch.zeros(self.numbers, device="cpu")
        if index > 0:
            numbers[min(index + 1, self.degree)] = 1.0
            numbers[self.degree + 1 :][-1:] = 1.0
        return numbers

    line = 1  # which number is the coefficient of x


def _horner(x: Tensor, coefficients: Tensor) -> Tensor:
    """The polynomial with these coefficients, the last dimension, at x."""
    total = coefficients[..., -1]
    for power in range(coefficients.shape[-1] - 2, -1, -1):
        total = total * x + coefficients[..., power]
    return total


def _moments(terms: Tensor, u: Tensor, count: int) -> list[Tensor]:
    """The sums of terms * u^0, terms * u^1, ...: (rows, M, G, n / G) -> (M, G), ``count`` of them.

    Of one power after the other, so that no more than one is ever held.
    """
    sums = [terms.sum((0, -1))]
    for _ in range(count - 1):
        terms = terms * u
        sums.append(terms.sum((0, -1)))
    return sums


@dataclass(frozen=True)
class Line:
    """Straight lines through zero: all that is learned is a factor. A control for the others."""

    numbers = 1
    line = 0  # which number is the coefficient of x

    def combine(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """(..., G, n / G) and (M, G, 1, 1) -> (..., M, G, n / G)."""
        return x.unsqueeze(-3) * coefficients[..., 0]

    def pull_back(self, grad: Tensor, x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of ``combine`` -> those of x and of the coefficients, shaped as in Rational."""
        grad_x = (grad * coefficients[..., 0]).sum(-3)
        return grad_x, (grad * x.unsqueeze(-3)).sum((0, -1)).unsqueeze(-1)

    def start(self, index: int) -> Tensor:
        """(1,): function 0 starts at zero, the others at x."""
        return torch.full((1,), float(index > 0), device="cpu")


Family = Rational | Line


@dataclass(frozen=True)
class Combination:
    """Sums of a line and the functions of a fixed basis, with learned coefficients."""

    basis: Basis

    @property
    def numbers(self) -> int:
        """P: the coefficient of x, then one for each function of the basis."""
        return 1 + self.basis.size

    def combine(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """(..., G, n / G) and (M, G, 1, numbers) -> (..., M, G, n / G)."""
        total = x.unsqueeze(-3) * coefficients[..., 0]
        values = self.basis.expand(x.flatten(-2)).unflatten(-1, x.shape[-2:])  # (..., size, G, n/G)
        for k in range(self.basis.size):
            total = total + values[..., k : k + 1, :, :] * coefficients[..., k + 1]
        return total

    def pull_back(self, grad: Tensor, x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of ``combine`` -> those of x and of the coefficients, shaped as in Rational."""
        flat, shape = x.flatten(-2), x.shape[-2:]
        values = self.basis.expand(flat).unflatten(-1, shape)  # (rows, size, G, n / G)
        slopes = self.basis.derivative(flat).unflatten(-1, shape)
        grad_x = (grad * coefficients[..., 0]).sum(-3)
        sums = [(grad * x.unsqueeze(-3)).sum((0, -1))]
        for k in range(self.basis.size):
            grad_x = grad_x + (grad * coefficients[..., k + 1]).sum(-3) * slopes[..., k, :, :]
            sums.append((grad * values[..., k : k + 1, :, :]).sum((0, -1)))
        return grad_x, torch.stack(sums, -1)

    def start(self, index: int) -> Tensor:
        """(numbers,): function 0 starts at zero, function k at number k of the basis, in turns."""
        numbers = torch.zeros(self.numbers, device="cpu")
        if index > 0:
            numbers[1 + index % self.basis.size] = 1.0
        return numbers

    line = 0  # which number is the coefficient of x


@dataclass(frozen=True)
class Shared:
    """Learned functions that groups of inputs share, as a basis whose features are learned.

    Args:
        family: what the functions are made of: a fixed basis (and a line), ``Rational``, ``Line``.
        functions: M, how many functions every input gets.
        groups: G, how many groups of neighbouring inputs have functions of their own.

    Raises:
        ValueError: fewer than one function or group, or another kind of family.
    """

    family: Basis | Family
    functions: int = 1
    groups: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.family, Basis | Family):
            raise ValueError(f"{self.family!r} is no family of functions that can be shared")
        if self.functions < 1 or self.groups < 1:
            raise ValueError(f"{self.functions} functions of {self.groups} groups: both must be 1+")

    @property
    def size(self) -> int:
        return self.functions

    @property
    def _form(self) -> Family | Combination:
        return self.family if isinstance(self.family, Family) else Combination(self.family)

    @property
    def coefficient_shape(self) -> tuple[int, int, int]:
        """(M, G, P)."""
        return self.functions, self.groups, self._form.numbers

    def start(self, with_base: bool) -> Tensor:
        """(M, G, P): what the coefficients start at.

        The first function is the base function exactly (to which it adds zero), or x where there is
        none; each further one starts as another member of the family, as long as it has others.
        """
        starts = torch.stack([self._form.start(index) for index in range(self.functions)])
        if not with_base:
            starts[0, self._form.line] = 1.0
        return starts[:, None].repeat(1, self.groups, 1)

    def expand(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """(..., n) and (M, G, P) -> (..., M, n)."""
        x = wide(x).unflatten(-1, (self.groups, -1))
        return self._form.combine(x, coefficients.to(x.dtype).unsqueeze(-2)).flatten(-2)

    def pull_back(self, grad: Tensor, x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, M, n), (rows, n) and (M, G, P) -> gradients (rows, n) and (M, G, P), all wide."""
        x, grad = (t.unflatten(-1, (self.groups, -1)) for t in (wide(x), wide(grad)))
        numbers = coefficients.to(x.dtype).unsqueeze(-2)
        grad_x, grad_coefficients = self._form.pull_back(grad, x, numbers)
        return grad_x.flatten(-2), grad_coefficients


def share(basis: Basis | Family, how: str, in_features: int) -> Basis | Shared:
    """The basis of a layer whose functions are shared as ``how`` says.

    Args:
        basis: what the functions are made of.
        how: "edge" (every edge has its own), "input" (all edges of an input share one), "group:G"
            or "atoms:K".
        in_features: of the layer.

    Raises:
        ValueError: another text, or a family that cannot be an edge's own.
    """
    kind, _, number = how.partition(":")
    if how == "edge":
        if isinstance(basis, Family):
            raise ValueError(f'{basis} cannot be an edge\'s own; share="group:8"')
        return basis
    if how == "input":
        return Shared(basis, groups=in_features)
    if kind not in ("group", "atoms") or not number.isascii() or not number.isdigit():
        raise ValueError(f"share is {how!r}; it must be edge, input, group:G or atoms:K")
    count = int(number)
    return Shared(basis, groups=count) if kind == "group" else Shared(basis, functions=count)


# nanogpkant/kan/features: Features: everything that a layer makes of an input, base function and basis together.


def _silu_derivative(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate * (1 + x * (1 - gate))


def _gelu_derivative(x: Tensor) -> Tensor:
    density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * density


_TANH_GELU = 2 * math.sqrt(2 / math.pi), 0.044715


def _gelu_tanh(x: Tensor) -> Tensor:
    """torch's own has no gradient at inputs whose cube is infinite."""
    scale, cubic = _TANH_GELU
    near = x.clamp(-30, 30)  # beyond, the gate is 0 or 1
    return x * torch.sigmoid(scale * near * (1 + cubic * near * near))


def _gelu_tanh_derivative(x: Tensor) -> Tensor:
    scale, cubic = _TANH_GELU
    x = x.clamp(-30, 30)
    gate = torch.sigmoid(scale * x * (1 + cubic * x * x))
    return gate * (1 + x * (1 - gate) * scale * (1 + 3 * cubic * x * x))


# The base function of an edge: name -> (function, derivative). "none" leaves the basis alone.
BASE_FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] | None] = {
    "silu": (F.silu, _silu_derivative),
    "gelu": (F.gelu, _gelu_derivative),
    "gelu_tanh": (_gelu_tanh, _gelu_tanh_derivative),
    "identity": (lambda x: x, torch.ones_like),
    "none": None,
}


# Bases by name, as specs and configurations call them.
BASES: dict[str, type] = {
    "bspline": BSpline,
    "rbf": RBF,
    "chebyshev": Chebyshev,
    "fourier": Fourier,
    "rational": Rational,
    "line": Line,
    "shared": Shared,
}


@dataclass(frozen=True)
class Features:
    """The M packed features of every input of a layer.

    With a fixed basis they are the base function (where there is one), then the functions of the
    basis. With shared functions they are those functions, the base function added to the first;
    they are learned then, and everything below takes their ``coefficients``.

    Args:
        basis: a fixed basis or ``Shared`` functions.
        base: name of the base function, a key of ``BASE_FUNCTIONS``.

    Raises:
        ValueError: an unknown base, or a basis that there is none of.
    """

    basis: Basis | Shared
    base: str = "silu"
    spec: str = field(init=False, repr=False, compare=False)
    """this value as JSON text, which ``from_spec`` reads back to an equal one"""

    def __post_init__(self) -> None:
        if self.base not in BASE_FUNCTIONS:
            raise ValueError(f"base is {self.base!r}; known are {', '.join(BASE_FUNCTIONS)}")
        if not isinstance(self.basis, Basis | Shared):
            raise ValueError(f"{self.basis!r} is not a basis that an edge can have of its own")
        spec = json.dumps({"base": self.base, "basis": _plain(self.basis)})
        object.__setattr__(self, "spec", spec)

    @property
    def is_learned(self) -> bool:
        return isinstance(self.basis, Shared)

    @property
    def has_base(self) -> bool:
        """Whether the first feature is the base function alone."""
        return self.base != "none" and not self.is_learned

    @property
    def size(self) -> int:
        """M."""
        return self.basis.size + self.has_base

    @property
    def coefficient_shape(self) -> tuple[int, int, int] | None:
        """(functions, groups, numbers) of the learned coefficients, if there are any."""
        return self.basis.coefficient_shape if self.is_learned else None

    def start(self) -> Tensor | None:
        """What the learned coefficients start at, if there are any."""
        return self.basis.start(self.base != "none") if self.is_learned else None

    def expand(self, x: Tensor, coefficients: Tensor | None = None) -> Tensor:
        """(..., n) -> (..., M, n), in float32 or wider."""
        function = BASE_FUNCTIONS[self.base]
        if not self.is_learned:
            return _prepend(x, self.basis.expand(x), function and function[0])
        functions = self.basis.expand(x, coefficients)
        if function is None:
            return functions
        first = functions[..., :1, :] + function[0](wide(x)).unsqueeze(-2)
        return torch.cat([first, functions[..., 1:, :]], dim=-2)

    def derivative(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., M, n): the derivative of fixed features."""
        function = BASE_FUNCTIONS[self.base]
        return _prepend(x, self.basis.derivative(x), function and function[1])

    def pull_back(
        self, grad: Tensor, x: Tensor, coefficients: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Gradient of the features -> gradients of the input and of the coefficients.

        (rows, M, n) and (rows, n) -> (rows, n), and (functions, groups, numbers) or None.
        """
        if not self.is_learned:
            return (self.derivative(x) * grad).sum(-2), None
        grad_x, grad_coefficients = self.basis.pull_back(grad, x, coefficients)
        if BASE_FUNCTIONS[self.base] is not None:
            _, derivative = BASE_FUNCTIONS[self.base]
            grad_x = grad_x + derivative(wide(x)) * grad[..., 0, :]
        return grad_x, grad_coefficients

    @staticmethod
    @cache
    def from_spec(spec: str) -> "Features":
        """
        Raises:
            ValueError: text that no features have.
        """
        try:
            values = json.loads(spec)
            return Features(_basis(values["basis"]), values["base"])
        except (TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"no basis has the description {spec!r}") from error

    @cache  # noqa: B019 - few values, and small
    def gaussian_moments(self) -> tuple[Tensor, Tensor]:
        """Mean (M,) and second moments (M, M) of an input's features for x ~ N(0, 1), in float64.

        Learned ones as they start. By a fine trapezoid, which kinks do not disturb. On the CPU
        whatever torch's default device is, because the cache outlives it.
        """
        x = torch.linspace(-8, 8, 16001, dtype=torch.float64, device="cpu")
        density = torch.exp(-0.5 * x * x)
        density /= density.sum()
        if self.is_learned:  # all groups start alike: take one input of the first
            inputs = x[:, None].expand(-1, self.basis.groups)
            features = self.expand(inputs, self.start().to(x))[..., 0].T
        else:
            features = self.expand(x)  # (M, points)
        return features @ density, (features * density) @ features.T


def _prepend(x: Tensor, expanded: Tensor, function: Callable[[Tensor], Tensor] | None) -> Tensor:
    if function is None:
        return expanded
    return torch.cat([function(x.to(expanded.dtype)).unsqueeze(-2), expanded], dim=-2)


def _plain(basis: Basis | Family | Shared) -> dict:
    name = next(name for name, kind in BASES.items() if type(basis) is kind)
    values = {f.name: getattr(basis, f.name) for f in dataclasses.fields(basis)}
    if "family" in values:
        values["family"] = _plain(values["family"])
    return {"name": name, **values}


def _basis(values: dict) -> Basis | Family | Shared:
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    if "family" in values:
        values["family"] = _basis(values["family"])
    return BASES[values.pop("name")](**values)


# nanogpkant/kan/backends/reference: The specification: write out every feature of every row, then multiply, under autograd.


def forward(
    x: Tensor,
    weight: Tensor,
    features: Features,
    coefficients: Tensor | None,
    keep: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """(rows, n), (out, M, n) -> (rows, out), multiplied in ``dtype``."""
    expanded = features.expand(x, coefficients)  # (rows, M, n)
    if keep is not None:
        expanded = expanded * keep.unsqueeze(-2)
    return expanded.flatten(-2).to(dtype) @ weight.flatten(1).to(dtype).T


# nanogpkant/kan/grid: Grids that change while a layer learns, and leave its functions as they are.


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


# nanogpkant/kan/functional: kan_linear: the one public operation of a KAN layer. It checks shapes and picks a backend.


def kan_linear(
    x: Tensor,
    weight: Tensor,
    features: Features,
    bias: Tensor | None = None,
    coefficients: Tensor | None = None,
    keep: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Apply m * n learned functions: y_j = bias_j + sum_i sum_m weight[j, m, i] * feature_m(x_i).

    Args:
        x: (..., n), floating point.
        weight: (out, M, n): for every edge, the coefficient of each feature of its input.
        features: what the features are.
        bias: (out,), optional.
        coefficients: (functions, groups, numbers) of learned features.
        keep: (..., n), multiplies all features of an input; for dropout of whole inputs.
        backend: "triton" (fused GPU kernels, B-splines on uniform grids), "recompute" (works in
            chunks; everywhere), "reference" (writes out all features; the only one that can be
            differentiated twice), or "auto", the first of these that can run.

    Returns:
        (..., out), in autocast's dtype where autocast is on for x's device, else in x's dtype.

    Raises:
        ValueError: an unknown backend or one that cannot run here, or shapes that do not fit.
        TypeError: x is not floating point.
    """
    if not x.is_floating_point():
        raise TypeError(f"x is {x.dtype}; a KAN layer takes floating-point inputs")
    check_shapes(x, weight, features, coefficients, keep)
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    run = runner(backend, x.device, features, dtype)
    rows = None if keep is None else keep.reshape(-1, x.shape[-1])
    with torch.autocast(device, enabled=False):  # each backend casts at the place that it chose
        y = run(x.reshape(-1, x.shape[-1]), weight, features, coefficients, rows, dtype)
        y = y.view(*x.shape[:-1], weight.shape[0])
        return y if bias is None else y + bias.to(dtype)


def check_shapes(
    x: Tensor, weight: Tensor, features: Features, coefficients: Tensor | None, keep: Tensor | None
) -> None:
    """
    Raises:
        ValueError: shapes that do not fit each other.
    """
    expected = (weight.shape[0], features.size, x.shape[-1])
    if weight.shape != expected:
        raise ValueError(f"weight is {tuple(weight.shape)}; x and the basis need {expected}")
    shape = None if coefficients is None else tuple(coefficients.shape)
    if shape != features.coefficient_shape:
        raise ValueError(f"coefficients are {shape}; the basis needs {features.coefficient_shape}")
    if features.is_learned and x.shape[-1] % features.basis.groups:
        raise ValueError(f"{x.shape[-1]} inputs do not split into {features.basis.groups} groups")
    if keep is not None and keep.shape != x.shape:
        raise ValueError(f"keep is {tuple(keep.shape)}; it needs x's {tuple(x.shape)}")


# nanogpkant/kan/layer: KANLinear: the module that owns a KAN layer's parameters, in place of ``nn.Linear``.


shared = share


INITS = ("variance_preserving", "whitened", "original")


class KANLinear(nn.Module):
    """A Kolmogorov-Arnold layer: every input reaches every output through a learned function.

    ``weight`` is (out_features, M, in_features): for every edge, the coefficient of each feature of
    its input, the base function's first (where there is one). The packed matrix of the layer's one
    product is ``weight.flatten(1)``, without a copy. ``coefficients`` (functions, groups, numbers)
    are those of shared functions, where there are any.

    Args:
        in_features: n, the size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        basis: the functions of an edge, cubic B-splines with 5 intervals on [-1, 1] by default.
        base: base function of every edge: "silu", "gelu", "gelu_tanh" (GPT-2's), "identity"
            or "none".
        bias: learn a constant for every output.
        share: "edge" gives every edge functions of its own; "input", "group:G" and "atoms:K" share
            few learned ones between edges: see ``shared``.
        prenorm: "rms" divides every input vector by its root mean square first, without parameters,
            so that the inputs meet the grid at unit scale; "none" takes them as they come.
        spline_scale: learn one more factor for every edge's spline, as efficient-kan does.
        init: "variance_preserving" (unit-variance inputs give unit-variance outputs), "whitened"
            (that, and all shapes of curve that the basis has are equally likely) or "original"
            (that of efficient-kan, which the original nanoGPKANT trained with; B-splines only).
        dropout: share of inputs whose features are all dropped in training, 0 to below 1. The
            features of a dropped input are zero, not those of an input of zero.
        backend: see ``kan_linear``.

    Raises:
        ValueError: sizes below 1, an unknown base, share, prenorm, init or backend, or what cannot
            go together.

    Source: Liu et al. (arXiv 2404.19756); the packed form and ``spline_scale`` follow the
    efficient-kan project (github.com/Blealtan/efficient-kan), and dropping features rather than
    inputs follows DropKAN (arXiv 2407.13044).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        basis: Basis | Family | None = None,
        base: str = "silu",
        bias: bool = False,
        share: str = "edge",
        prenorm: str = "none",
        spline_scale: bool = False,
        init: str = "variance_preserving",
        dropout: float = 0.0,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if in_features < 1 or out_features < 1:
            raise ValueError(f"a layer from {in_features} to {out_features} has no edges")
        if prenorm not in ("none", "rms"):
            raise ValueError(f"prenorm is {prenorm!r}; known are none, rms")
        if init not in INITS:
            raise ValueError(f"init is {init!r}; known are {', '.join(INITS)}")
        if backend not in BACKENDS:
            raise ValueError(f"backend is {backend!r}; known are {', '.join(BACKENDS)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; it must be at least 0 and below 1")
        basis = shared(BSpline() if basis is None else basis, share, in_features)
        self.in_features, self.out_features = in_features, out_features
        self.features = Features(basis, base)
        self.prenorm, self.init, self.backend = prenorm, init, backend
        self.dropout = dropout
        if self.features.is_learned:
            if in_features % basis.groups:
                raise ValueError(f"{in_features} inputs do not split into {basis.groups} groups")
            if spline_scale:
                raise ValueError("spline_scale is for functions of an edge's own, not shared ones")
        if init == "original" and not isinstance(basis, BSpline):
            raise ValueError('init="original" is for B-splines of an edge\'s own')

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.weight = parameter(out_features, self.features.size, in_features)
        shape = self.features.coefficient_shape
        self.coefficients = parameter(*shape) if shape else None
        self.spline_scale = parameter(out_features, in_features) if spline_scale else None
        self.bias = parameter(out_features) if bias else None
        self.reset_parameters()

    @property
    def basis(self) -> Basis:
        """The functions of an edge, without the base function."""
        return self.features.basis

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the parameters anew, from torch's global random stream."""
        if self.bias is not None:
            self.bias.zero_()
        if self.coefficients is not None:
            self.coefficients.copy_(self.features.start())
        if self.init == "original":
            return self._reset_original()
        mix, variance = self._mixing()
        self.weight.normal_(std=1 / math.sqrt(self.in_features * variance))
        self.weight.copy_(torch.einsum("lm,oli->omi", mix.to(self.weight), self.weight))
        if self.spline_scale is not None:
            self.spline_scale.fill_(1.0)
        return None

    def _mixing(self) -> tuple[Tensor, float]:
        """How independent numbers become an edge's coefficients, and the variance of its curve.

        Returns (M, M), by which a row of M standard normal numbers is multiplied, and the mean
        square over x ~ N(0, 1) of the curve that this gives.
        """
        mean, second = self.features.gaussian_moments()
        mix = torch.diag(torch.ones_like(mean))
        if not self.features.is_learned:
            # The curve of every edge is drawn with mean zero. Features such as B-splines are never
            # negative: without this, a fifth of an output's mean square would be a constant that
            # does not depend on x (measured for the default basis).
            mix -= torch.outer(mean, mean) / (mean @ mean).clamp(min=1e-12)
        if self.init == "whitened":
            # Along the eigenvectors of the curves' covariance all shapes are drawn equally large,
            # but for those below a hundredth of the largest variance: they would need huge weights.
            values, vectors = torch.linalg.eigh(mix @ second @ mix)
            mix = vectors * (values + 0.01 * values.max()).rsqrt() @ vectors.T @ mix
        variance = torch.trace(mix @ second @ mix.T).item()
        if not variance > 1e-9:
            what = f"the functions {self.basis} are out of reach of inputs of unit variance"
            raise ValueError(f'{what}; move their range, or use init="original"')
        return mix, variance

    def _reset_original(self) -> None:
        """efficient-kan's start: curves near zero, scaled by a factor of about 1/sqrt(n)."""
        basis, bound = self.basis, 1 / math.sqrt(self.in_features)
        grid = torch.tensor(basis.knots[basis.order : -basis.order], dtype=torch.float64)
        values = basis.expand(grid)  # (K, grid_size + 1): every function at every grid point
        # Each curve takes small random values at the grid points; the coefficients are the
        # smallest ones that give them.
        noise = torch.rand(self.out_features, basis.grid_size + 1, self.in_features) - 0.5
        noise *= 0.1 / basis.grid_size
        to_coefficients = torch.linalg.pinv(values.T).to(noise)  # (K, grid_size + 1)
        self.weight[:, -basis.size :] = torch.matmul(to_coefficients, noise)
        if self.spline_scale is not None:
            self.spline_scale.uniform_(-bound, bound)
        if self.features.has_base:
            self.weight[:, 0].uniform_(-bound, bound)

    def effective_weight(self) -> Tensor:
        """(out, M, n): the coefficients with ``spline_scale`` multiplied in."""
        if self.spline_scale is None:
            return self.weight
        spline = self.weight[:, -self.basis.size :] * self.spline_scale.unsqueeze(1)
        return torch.cat([self.weight[:, : -self.basis.size], spline], dim=1)

    @torch.no_grad()
    def fold_scale(self) -> None:
        """Multiply ``spline_scale`` into the weight for good: same function, one product fewer.

        For inference, where working out the effective weight again for every token would cost more
        than the token.
        """
        if self.spline_scale is not None:
            self.weight.copy_(self.effective_weight())
            self.spline_scale = None

    @torch.no_grad()
    def scale_output(self, factor: float) -> None:
        """Multiply the function of every edge by ``factor``."""
        self.weight.mul_(factor)

    def normalise(self, x: Tensor) -> Tensor:
        """(..., in_features) -> the same: what the functions see of an input."""
        return F.rms_norm(x, (self.in_features,)) if self.prenorm == "rms" else x

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        x = self.normalise(x)
        keep = F.dropout(torch.ones_like(x), self.dropout) if self._drops else None
        weight = self.effective_weight()
        return kan_linear(
            x, weight, self.features, self.bias, self.coefficients, keep, self.backend
        )

    @property
    def _drops(self) -> bool:
        return self.training and self.dropout > 0

    def edges(self, x: Tensor) -> Tensor:
        """The curve of every edge: phi_ij at the given points, bias left out.

        Args:
            x: (points,) for the same points at every input, or (points, in_features); what the
                functions themselves see, so behind ``prenorm`` where there is one.

        Returns:
            (points, out_features, in_features).
        """
        columns = x.unsqueeze(-1) if x.dim() == 1 else x
        columns = columns.expand(-1, self.in_features)
        features = self.features.expand(columns, self.coefficients)  # (points, M, n)
        return torch.einsum("pmi,omi->poi", features, self.effective_weight().to(features.dtype))

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, basis={self.basis}, "
            f"base={self.features.base!r}, prenorm={self.prenorm!r}, "
            f"bias={self.bias is not None}, spline_scale={self.spline_scale is not None}"
        )


# nanogpkant/kan/pruned: What is left of a KAN layer when some of its edges are taken away.


class PrunedLinear(nn.Module):
    """A KAN layer from some of its n inputs to some of its m outputs.

    Edges whose coefficients are all zero stay so in training: they get no gradient.

    Args:
        layer: the KAN layer from the n' inputs to the m' outputs that are left, without a bias.
        inputs: (n',) which inputs those are, ascending. Input vectors of exactly n' numbers are
            taken whole: where the layer before computes no others.
        outputs: (m',) which outputs those are, ascending.
        constant: (m,) added to the outputs, those without an edge included; learned like a bias.
        prenorm: as in ``KANLinear``, over all the inputs.

    Raises:
        ValueError: indices that do not fit the layer or its outputs; on the meta device, which
            holds no values, only their number is looked at.
    """

    def __init__(
        self,
        layer: KANLinear,
        inputs: Tensor,
        outputs: Tensor,
        constant: Tensor,
        prenorm: str = "none",
    ) -> None:
        super().__init__()
        for name, index, count in (
            ("inputs", inputs, layer.in_features),
            ("outputs", outputs, layer.out_features),
        ):
            unordered = not index.is_meta and ((index.diff() <= 0).any() or index.min() < 0)
            if index.shape != (count,) or unordered:
                raise ValueError(f"{name} are not {count} different indices, ascending")
        if constant.dim() != 1 or (not outputs.is_meta and outputs.max() >= len(constant)):
            raise ValueError(f"the outputs reach beyond the {constant.numel()} that there are")
        self.layer, self.prenorm = layer, prenorm
        self.constant = nn.Parameter(constant)
        self.register_buffer("inputs", inputs)
        self.register_buffer("outputs", outputs)
        self.train()

    def train(self, mode: bool = True) -> "PrunedLinear":
        """As of any module; from then on edges that are gone get no gradient.

        Not in __init__ alone, because some loaders put other parameters in place of the first ones.
        """
        if mode and not self.layer.weight._backward_hooks:
            self.layer.weight.register_hook(self._of_edges_left)
        return super().train(mode)

    def _of_edges_left(self, gradient: Tensor) -> Tensor:
        return gradient * self.edges_left()[:, None]

    @property
    def has_groups(self) -> bool:
        """Whether groups of inputs share functions, so that no input can be dropped."""
        features = self.layer.features
        return features.is_learned and features.basis.groups > 1

    def edges_left(self) -> Tensor:
        """(m', n'): which edges between the remaining inputs and outputs are not pruned."""
        return (self.layer.weight.detach() != 0).any(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) or (..., n') -> (..., m)."""
        if self.prenorm == "rms":
            x = F.rms_norm(x, x.shape[-1:])
        if x.shape[-1] > len(self.inputs):
            x = x.index_select(-1, self.inputs)
        y = self.layer(x)
        constant = self.constant.to(y.dtype)
        if len(self.outputs) == len(constant):
            return y + constant
        return constant.expand(*y.shape[:-1], -1).index_add(-1, self.outputs, y)


def like_saved(layer: KANLinear, saved: Mapping[str, Tensor]) -> PrunedLinear:
    """A pruned layer of the shape of a saved one, not yet filled.

    Args:
        layer: the whole layer, as the configuration makes it.
        saved: state of the pruned layer.

    Raises:
        ValueError: tensors that no pruned layer has.
    """
    try:
        weight, constant = saved["layer.weight"], saved["constant"]
        inputs, outputs = saved["inputs"], saved["outputs"]
    except KeyError as error:
        raise ValueError(f"{error} of a pruned layer is missing") from error
    if weight.dim() != 3 or 0 in weight.shape:
        raise ValueError(f"a weight of shape {tuple(weight.shape)} is no KAN layer's")
    inner = _whole(layer).layer
    inner.weight = nn.Parameter(torch.empty_like(weight))
    inner.out_features, inner.in_features = weight.shape[0], weight.shape[2]
    return PrunedLinear(inner, inputs, outputs, torch.empty_like(constant), layer.prenorm)


def _whole(layer: KANLinear) -> PrunedLinear:
    """A copy of a KAN layer as a pruned one that has lost nothing yet."""
    inner = copy.deepcopy(layer)
    inner.fold_scale()
    inner.bias, inner.prenorm = None, "none"
    device = layer.weight.device
    constant = layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
    return PrunedLinear(
        inner,
        torch.arange(layer.in_features, device=device),
        torch.arange(layer.out_features, device=device),
        constant.detach().clone(),
        layer.prenorm,
    )


# nanogpkant/dropout: Dropout that does not slow a CPU down.


LEVELS = 2**16  # the drop probability is rounded to a whole number of these


class Dropout(nn.Module):
    """``nn.Dropout``, with masks that a CPU can draw fast.

    torch draws a CPU mask one number an element, which took a quarter of a small model's step. Here
    each 64-bit random number decides four elements, 16 bits each, so p is exact to 1/65536.
    Elsewhere, and where torch.compile fuses it, this is torch's own.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same; in training, 0 with probability p and else divided by 1 - p."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.p)
        return (x * keep_mask(x.shape, self.p)).mul_(1 / (1 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


def keep_mask(shape: torch.Size, p: float) -> Tensor:
    """A CPU mask of booleans, False with probability p, from torch's global random stream."""
    count = math.prod(shape)
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    sixteen_bits = words.view(torch.int16)[:count].view(shape)  # uniform on [-LEVELS/2, LEVELS/2)
    return sixteen_bits >= round(p * LEVELS) - LEVELS // 2


# nanogpkant/projection: make_linear: the one place that decides whether a projection of the model is KAN or plain.


RESIDUAL_SITES = ("attn_out", "mlp_out")  # those whose output is added to the residual stream


def site_shape(site: Site, config: ModelConfig) -> tuple[int, int]:
    """How many inputs and outputs a projection has."""
    width, mlp = config.n_embd, config.mlp_width
    halves = 2 if config.mlp == "gated" else 1
    shapes = {
        "qkv": (width, 3 * width),
        "attn_out": (width, width),
        "mlp_in": (width, halves * mlp),
        "mlp_out": (mlp, width),
    }
    return shapes[site]


def make_basis(kan: KANConfig) -> Basis | Family:
    """What the functions of a KAN layer are made of."""
    bases = {
        "bspline": lambda: BSpline(
            kan.grid_size, kan.spline_order, kan.grid_range, outside=kan.outside
        ),
        "hat": lambda: BSpline(kan.grid_size, 1, kan.grid_range, outside=kan.outside),
        "rbf": lambda: RBF(kan.grid_size, kan.grid_range),
        "chebyshev": lambda: Chebyshev(kan.degree),
        "fourier": lambda: Fourier(kan.degree),
        "rational": lambda: Rational(kan.degree),
        "line": lambda: Line(),
    }
    return bases[kan.basis]()


def base_at(site: Site, config: ModelConfig) -> str:
    """The base function of a site's edges."""
    if config.kan.base == "gpt":
        return config.mlp if site == "mlp_out" and config.mlp != "gated" else "identity"
    return config.kan.base


def _make_kan(site: Site, n_in: int, n_out: int, config: ModelConfig) -> KANLinear:
    kan = config.kan
    try:
        return KANLinear(
            n_in,
            n_out,
            make_basis(kan),
            base=base_at(site, config),
            bias=config.bias,
            share=kan.share,
            prenorm=kan.prenorm,
            spline_scale=kan.spline_scale,
            init=kan.init,
            dropout=kan.dropout,
            backend=kan.backend,
        )
    except ValueError as error:  # a combination that the configuration's own checks let pass
        raise UsageError(f"--model.kan: {error}") from error


def make_linear(site: Site, config: ModelConfig) -> nn.Module:
    """The initialised projection of a site: (..., in) -> (..., out).

    Projections that write into the residual stream start 1/sqrt(2 * n_layer) times smaller, KAN or
    not, so that the stream keeps its variance with depth (GPT-2, Radford et al. 2019).
    """
    n_in, n_out = site_shape(site, config)
    shrink = 1 / math.sqrt(2 * config.n_layer) if site in RESIDUAL_SITES else 1.0
    if site in config.kan.sites:
        layer = _make_kan(site, n_in, n_out, config)
        layer.scale_output(shrink)
        return layer
    linear = nn.Linear(n_in, n_out, bias=config.bias)
    std = 0.02 if config.init == "gpt2" else 1 / math.sqrt(n_in)
    nn.init.normal_(linear.weight, std=std * shrink)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear


# nanogpkant/model: The GPT: nanoGPT's pre-norm transformer, with any of its projections made of KAN layers.


class Cache:
    """Keys and values of the tokens that each block has already seen, for generation."""

    def __init__(
        self, config: ModelConfig, batch_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        head = config.n_embd // config.n_head
        shape = (config.n_layer, 2, batch_size, config.n_head, config.block_size, head)
        self.store = torch.empty(shape, device=device, dtype=dtype)
        self.start = 0  # index in the text of the first token that is in the cache
        self.length = 0  # tokens in the cache

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, H, T, D) keys and values of new tokens; returns those of all."""
        end = self.length + k.shape[2]
        self.store[layer, 0, :, :, self.length : end] = k
        self.store[layer, 1, :, :, self.length : end] = v
        return self.store[layer, 0, :, :, :end], self.store[layer, 1, :, :, :end]


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.n_head, self.layer = config.n_head, layer
        self.dropout = Dropout(config.dropout)
        self.qkv = make_linear("qkv", config)
        self.out = make_linear("attn_out", config)

    def forward(
        self, x: Tensor, cache: Cache | None = None, visible: Tensor | None = None
    ) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        # (B, T, 3C) -> three (B, H, T, D)
        q, k, v = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        y = self.attend(q, k, v, visible)
        return self.out(y.transpose(1, 2).reshape(B, T, C))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, H, T, D) and twice (B, H, S, D) -> (B, H, T, D): the last T of S tokens look back.

        ``visible`` (B, 1, T, S) says where, if it is not everywhere.

        On CUDA, dropout of attention weights happens inside the fused kernel. On other devices
        asking the kernel for it selects an unfused path that is many times slower, so there the
        weights are dropped a column at a time: a token that a head may not look at in this step is
        hidden from all later tokens, by zeroing its value. Each single weight is dropped with the
        same probability, and the expected output is the same.
        """
        dropout = self.dropout.p if self.training else 0.0
        in_kernel = dropout if q.device.type == "cuda" else 0.0
        if dropout and not in_kernel:
            v = v * self.dropout(torch.ones_like(v[..., :1]))  # (B, H, S, 1) of 0 or 1 / (1 - p)
        T, S = q.shape[2], k.shape[2]
        # One token sees everything; a mask is only needed for several that follow cached ones.
        is_causal = visible is None and bool(T == S)
        if visible is None and not is_causal and T > 1:
            visible = _causal_mask(T, S, q.device)
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=visible, is_causal=is_causal, dropout_p=in_kernel
        )


def _causal_mask(T: int, S: int, device: torch.device) -> Tensor:
    """(T, S) of True where one of the last T of S tokens may look."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def _around_padding(attention_mask: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """Positions (B, T) of the last T of S tokens, and (B, 1, T, S) of where they may look.

    Padding has no part in the text: it is not counted, and only itself looks at it, since a token
    that looks at nothing at all would be a NaN.
    """
    is_text = attention_mask.bool()  # (B, S)
    position = (is_text.cumsum(-1) - 1).clamp(min=0)[:, -T:]
    S = is_text.shape[1]
    itself = torch.eye(S, dtype=torch.bool, device=is_text.device)[-T:]
    visible = _causal_mask(T, S, is_text.device) & is_text[:, None, None, :]
    return position, visible | itself


class MLP(nn.Module):
    """Two projections. GELU stands between them only where the second is a plain one.

    A KAN layer brings its own nonlinearity, on its input. A gated MLP multiplies in any case, which
    sums of functions of one number cannot.

    Source: the gated form is SwiGLU of Shazeer (arXiv 2002.05202).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.into = make_linear("mlp_in", config)
        self.out = make_linear("mlp_out", config)
        self.is_gated = config.mlp == "gated"
        self.has_gelu = not self.is_gated and "mlp_out" not in config.kan.sites
        self.approximate = "tanh" if config.mlp == "gelu_tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        hidden = self.into(x)
        if self.is_gated:
            gate, value = hidden.chunk(2, dim=-1)
            return self.out(F.silu(gate) * value)
        return self.out(F.gelu(hidden, approximate=self.approximate) if self.has_gelu else hidden)


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attention = Attention(config, layer)
        self.norm_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, x: Tensor, cache: Cache | None = None, visible: Tensor | None = None
    ) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.dropout(self.attention(self.norm_1(x), cache, visible))
        return x + self.dropout(self.mlp(self.norm_2(x)))


class GPT(nn.Module):
    """A decoder-only language model with learned positions and tied embeddings.

    Source: the architecture of GPT-2 as written by nanoGPT (github.com/karpathy/nanoGPT).
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.tokens = nn.Embedding(vocab_size, config.n_embd)  # also the output projection
        self.positions = nn.Embedding(config.block_size, config.n_embd)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd, bias=config.bias)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(
        self,
        idx: Tensor,
        targets: Tensor | None = None,
        cache: Cache | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Logits of the token after each token, or how well they predict the targets.

        Args:
            idx: (B, T) token ids; with a cache only those that follow the ones already in it.
            targets: (B, T) ids of the tokens that follow, where the loss is wanted.
            cache: keys and values of earlier tokens; the new ones are added to it.
            attention_mask: (B, S), 0 where one of the S tokens, those in the cache included, is
                padding and not text; the text then has the logits that it has alone.

        Returns:
            (B, T, V) logits, or with targets their mean cross-entropy, nats per token, in float32.

        Raises:
            ValueError: more than ``block_size`` tokens, those in the cache included.
        """
        T, seen = idx.shape[1], 0 if cache is None else cache.length
        if seen + T > self.config.block_size:
            raise ValueError(f"{seen + T} tokens do not fit in block_size {self.config.block_size}")
        position, visible = torch.arange(seen, seen + T, device=idx.device), None
        if attention_mask is not None:
            position, visible = _around_padding(attention_mask, T)
        x = self.dropout(self.tokens(idx) + self.positions(position))  # (B, T, C)
        for block in self.blocks:
            x = block(x, cache, visible)
        if cache is not None:
            cache.length += T
        logits = F.linear(self.norm(x), self.tokens.weight)  # (B, T, V)
        if targets is None:
            return logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


# nanogpkant/share/modeling_nanogpkant: This project's model as transformers wants it; ``bundle`` makes it the file of a shared folder.


BACKENDS = ("reference",)


UNUSED = ("cache_position",)  # that transformers 4 hands over; the cache knows it


def runner(
    backend: str, device: torch.device, features: Features, dtype: torch.dtype
) -> Callable[..., Tensor]:
    """What computes a KAN layer: always plain torch."""
    return forward


class NanoGPKANTConfig(PretrainedConfig):
    """What a model is made of.

    Args:
        gpt: the fields of ``ModelConfig``.
        vocab_size: tokens.
        kan_features: {KAN layer: its ``Features.spec``}, since grids change in training.
        pruned: {pruned layer: its remaining inputs and outputs}.
    """

    model_type = "nanogpkant"

    def __init__(
        self,
        gpt: dict[str, Any] | None = None,
        vocab_size: int = 65,
        kan_features: dict[str, str] | None = None,
        pruned: dict[str, tuple[int, int]] | None = None,
        **others: Any,
    ) -> None:
        self.gpt, self.vocab_size = gpt or {}, vocab_size
        self.kan_features, self.pruned = kan_features or {}, pruned or {}
        # By the names that transformers looks for.
        model = self.model_config()
        self.hidden_size, self.max_position_embeddings = model.n_embd, model.block_size
        self.num_hidden_layers, self.num_attention_heads = model.n_layer, model.n_head
        super().__init__(**others)

    def model_config(self) -> ModelConfig:
        kan = KANConfig(**self.gpt.get("kan", {}) | {"backend": "reference"})
        return ModelConfig(**self.gpt | {"kan": kan})


class PastTokens:
    """Transformers' cache, as this project's model uses one."""

    def __init__(self, theirs: TheirCache) -> None:
        self.theirs, self.length = theirs, theirs.get_seq_length()

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, H, T, D) keys and values of new tokens; returns those of all."""
        return self.theirs.update(k, v, layer)


class NanoGPKANTForCausalLM(PreTrainedModel, GenerationMixin):
    """A GPT of Kolmogorov-Arnold layers, or a plain one. Embedding and output share one matrix."""

    config_class = NanoGPKANTConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    accepts_loss_kwargs = True
    _no_split_modules = ("Block",)

    def __init__(self, config: NanoGPKANTConfig) -> None:
        super().__init__(config)
        self.model = GPT(config.model_config(), config.vocab_size)
        for name, (n, m) in config.pruned.items():
            layer = self.model.get_submodule(name)
            shapes = {
                "layer.weight": torch.empty(m, layer.features.size, n),
                "constant": torch.empty(layer.out_features),
                "inputs": torch.arange(n),
                "outputs": torch.arange(m),
            }
            self.model.set_submodule(name, like_saved(layer, shapes))
        for name, spec in config.kan_features.items():
            layer, features = self.model.get_submodule(name), Features.from_spec(spec)
            if layer.features != features:
                set_features(layer, features)
                layer.reset_parameters()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Modules have drawn their own weights already."""

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.tokens = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: TheirCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V) of the token after each token.

        Args:
            input_ids: (B, T) token ids; with a cache only those that follow the ones in it.
            attention_mask: (B, S) 0 where one of all S tokens, those in the cache included, is
                padding, on whichever side; what id it has does not matter then.
            past_key_values: keys and values of earlier tokens.
            labels: (B, T) ids that the loss is wanted of, -100 where not; moved by one place here,
                so that they may be the input itself.
            use_cache: return keys and values; by default in evaluation mode.
            num_items_in_batch: labels that the loss is divided by, where it is not their mean.
            others: what transformers hands to every model; it may say nothing.

        Raises:
            ValueError: ``others`` ask for something, or more tokens than ``block_size``.
        """
        for name, value in others.items():
            if name not in UNUSED and value is not None and value is not False:
                raise ValueError(f"this model has no {name}")
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError("attention_mask must be (batch, tokens); static caches do not work")
        if attention_mask is not None and bool(attention_mask.all()):
            attention_mask = None
        if attention_mask is not None:  # the id of padding may be none of the vocabulary's
            new = attention_mask[:, -input_ids.shape[1] :]
            input_ids = input_ids.masked_fill(new == 0, 0)
        use_cache = not self.training if use_cache is None else use_cache
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache()
        past = None if past_key_values is None else PastTokens(past_key_values)
        logits = self.model(input_ids, cache=past, attention_mask=attention_mask)
        loss = None
        if labels is not None:
            vocab_size = self.config.vocab_size
            loss = self.loss_function(
                logits, labels, vocab_size, num_items_in_batch=num_items_in_batch
            )
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)
