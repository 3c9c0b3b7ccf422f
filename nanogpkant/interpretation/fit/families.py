"""One table of the families of functions that formulas are built from.

A formula is d + e*x + a*f(b*x + c), with at most two such terms, or a polynomial. The fit scales
inputs to u in [-1, 1], and z = rate * u + offset is the argument of f; rate and offset are its
``shape``. Amplitudes, d and e follow by least squares; only shapes are searched.

Families that differ only in the linear coefficients are one: the sigmoid is tanh, cos is sin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpkant.base.errors import UsageError, nearest

POLYNOMIALS = ("constant", "line", "square", "cubic", "quartic", "quintic")
"""by degree"""
LINE = " + line"


@dataclass(frozen=True)
class Unary:
    """A family of functions a * f(rate * u + offset), with search ranges of rate and offset."""

    name: str
    value: Callable[[Tensor], Tensor]  # f(z)
    slope: Callable[[Tensor, Tensor], Tensor]  # f'(z), given z and f(z)
    expression: str  # f(z) as sympy reads it
    rates: tuple[float, float, int]
    """least, greatest, number of candidates in equal ratios; 1, 1, 1 where the rate is fixed"""
    offsets: tuple[float, float, int]  # least, greatest, number of candidates
    offset_of: str = "place"
    """meaning of ``offsets``: "place" is u at z = 0, "phase" is z at u = 0, "distance" is the least
    z on [-1, 1], in equal ratios"""
    mirrored: bool = False  # f(-z) is not in the span of f: negative rates are candidates too
    with_line: str = "both"
    """candidates with a free line: "both" mirror images, "one" if they differ by a line, or "none"
    if another family is the same up to a line"""
    aliases: tuple[str, ...] = ()

    @property
    def searches(self) -> tuple[bool, bool]:
        """Whether rate and offset are free."""
        return self.rates[2] > 1, self.offsets[2] > 1

    @property
    def complexity(self) -> int:
        """Numbers in a*f(rate * x + offset) + d, and one for f; x*sin(x) is two functions."""
        return 3 + sum(self.searches) + (self.name == "x*sin")

    def starts(self) -> Tensor:
        """(C, 2) rates and offsets of the candidates."""
        rates = _equal_ratios(*self.rates)
        if self.mirrored:
            rates = torch.cat([rates, -rates])
        low, high, count = self.offsets
        if self.offset_of == "distance":
            offsets = _equal_ratios(low, high, count)
        elif self.offset_of == "phase" and count > 1:
            offsets = torch.linspace(low, high, count + 1)[:-1]  # low and high are equal phases
        else:
            offsets = torch.linspace(low, high, count)
        rate, offset = (part.flatten() for part in torch.meshgrid(rates, offsets, indexing="ij"))
        return torch.stack([rate, self._offset(rate, offset)], dim=1)

    def clamp(self, shape: Tensor) -> Tensor:
        """(..., 2) -> (..., 2), within limits: no pole in range, no spike between points."""
        rate, offset = shape.unbind(-1)
        size = rate.abs().clamp(self.rates[0], self.rates[1])
        rate = torch.where(rate < 0, -size, size) if self.mirrored else size
        if self.offset_of != "phase":
            one, other = (self._offset(rate, torch.full_like(rate, o)) for o in self.offsets[:2])
            offset = offset.clamp(torch.minimum(one, other), torch.maximum(one, other))
        return torch.stack([rate, offset], dim=-1)

    def _offset(self, rate: Tensor, value: Tensor) -> Tensor:
        """z at u = 0, for one of ``offsets``."""
        if self.offset_of == "place":
            return -rate * value
        return rate.abs() + value if self.offset_of == "distance" else value


def _equal_ratios(low: float, high: float, count: int) -> Tensor:
    return torch.logspace(0, 1, count, base=high / low) * low


def _gelu_slope(z: Tensor, value: Tensor) -> Tensor:
    return torch.special.ndtr(z) + z * torch.exp(-z.square() / 2) * 0.3989422804014327


def _silu_slope(z: Tensor, value: Tensor) -> Tensor:
    sigmoid = torch.sigmoid(z)
    return sigmoid + value * (1 - sigmoid)


_STEPS, _ONE, _WIDE = (0.7, 16.0, 10), (1.0, 1.0, 1), (-1.6, 1.6, 17)
_BEND = (-0.97, 0.97, 25)  # a bend outside the observed range is a line

FAMILIES = (
    Unary("cube", lambda z: z * z * z, lambda z, f: 3 * z * z, "z**3", _ONE, (-2.0, 2.0, 15)
           , with_line="none"),
    Unary("exp", torch.exp, lambda z, f: f, "exp(z)", (0.3, 8.0, 10), (0.0, 0.0, 1), "phase",
           mirrored=True),
    Unary("abs", torch.abs, lambda z, f: torch.sign(z), "Abs(z)", _ONE, _BEND, with_line="none"),
    Unary("relu", torch.relu, lambda z, f: (z > 0).to(z), "Max(z, 0)", _ONE, _BEND,
           mirrored=True, with_line="one"),
    Unary("sqrt", torch.sqrt, lambda z, f: 0.5 / f, "sqrt(z)", _ONE, (0.002, 5.0, 12), "distance",
           mirrored=True),
    Unary("log", torch.log, lambda z, f: 1 / z, "log(z)", _ONE, (0.005, 5.0, 12), "distance",
           mirrored=True),
    Unary("reciprocal", torch.reciprocal, lambda z, f: -f * f, "1/z", _ONE, (0.01, 5.0, 12),
           "distance", mirrored=True),
    Unary("silu", F.silu, _silu_slope, "z/(1 + exp(-z))", _STEPS, _WIDE, mirrored=True,
           with_line="one"),
    Unary("gelu", F.gelu, _gelu_slope, "z*(1 + erf(z/sqrt(2)))/2", _STEPS, _WIDE, mirrored=True,
           with_line="one"),
    Unary("softplus", F.softplus, lambda z, f: torch.sigmoid(z), "log(1 + exp(z))", _STEPS, _WIDE,
           mirrored=True, with_line="one"),
    Unary("tanh", torch.tanh, lambda z, f: 1 - f * f, "tanh(z)", (0.5, 16.0, 8), (-1.6, 1.6, 13),
           aliases=("sigmoid",)),
    Unary("gaussian", lambda z: torch.exp(-z * z), lambda z, f: -2 * z * f, "exp(-z**2)",
           (0.4, 12.0, 8), (-1.6, 1.6, 13)),
    Unary("sin", torch.sin, lambda z, f: torch.cos(z), "sin(z)", (0.7, 18.0, 20),
           (0.0, torch.pi, 8), "phase", aliases=("cos",)),
    Unary("x*sin", lambda z: z * torch.sin(z), lambda z, f: torch.sin(z) + z * torch.cos(z),
           "z*sin(z)", (0.8, 14.0, 24), (-1.6, 1.6, 17)),
)  # fmt: skip


NAMES = [family.name for family in FAMILIES]
OPTIONS = [*POLYNOMIALS, *NAMES, *(name + LINE for name in NAMES), "two terms"]
"""candidates for every edge; elsewhere an ``option`` is an index into this list"""
TERMS = len(POLYNOMIALS)  # the first option with a term
TWO = len(OPTIONS) - 1
COMPLEXITY = torch.tensor(
    [degree + 1 for degree in range(len(POLYNOMIALS))]
    + [f.complexity + line for line in (0, 1) for f in FAMILIES]
    + [0]  # two terms: the complexities of both families are added
)
"""of every option"""
COMPLEXITIES = 2 * max(f.complexity for f in FAMILIES)  # the greatest of any formula


def select_families(names: Sequence[str] | None) -> tuple[list[Unary], int, bool]:
    """The named families, the greatest degree of a polynomial, and whether lines are added.

    Constants and lines are always candidates; None is all families.

    Raises:
        UsageError: an unknown name.
    """
    if names is None:
        return list(FAMILIES), len(POLYNOMIALS) - 1, True
    known = {alias: family for family in FAMILIES for alias in (family.name, *family.aliases)}
    degrees = {name: degree for degree, name in enumerate(POLYNOMIALS)}
    degrees["polynomial"] = len(POLYNOMIALS) - 1
    for name in names:
        if name not in known and name not in degrees:
            raise UsageError(f"--families {name}: {nearest(name, [*degrees, *known])}")
    wanted = {known[name].name for name in names if name in known}
    degree = max([1, *(degrees[name] for name in names if name in degrees)])
    return [f for f in FAMILIES if f.name in wanted], degree, "line" in names
