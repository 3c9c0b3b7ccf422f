"""Functions shared between edges: learned with the layer, few of them, used by many edges.

Where every edge has a function of its own, its shape costs M numbers an edge. Here an edge only
weighs functions that whole groups of inputs share, and the shapes cost next to nothing:

- ``group:G``: phi_ij(x) = w_ij * psi_g(x), one learned function for each of G groups of inputs;
- ``input``: the same with one function for every input; and
- ``atoms:K``: phi_ij(x) = sum_k a_ijk * psi_k(x), K learned functions for the whole layer.

Both are M functions for each of G groups, M = 1 or G = 1. Their learned numbers are the layer's
``coefficients``, (M, G, P) with P numbers a function.

Source: groups are the GR-KAN of Yang & Wang, *Kolmogorov-Arnold Transformer* (arXiv 2409.10594).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpkant.kan.basis import Basis, wide


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
"""what only shared functions are made of"""


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
