"""Rational functions, the activation of the Kolmogorov-Arnold Transformer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpkant.kan.bases.base import Family


@dataclass(frozen=True)
class Rational(Family):
    """Quotients P(x) / Q(x) with Q(x) = 1 + |b_1 x + b_2 x^2 + ...|, which is never zero.

    They are not linear in their coefficients, so they have to be shared.

    Args:
        degree: degree of P, at least 1; Q's is one lower, so that P / Q grows like a line.

    Raises:
        ValueError: a degree below 1.

    Source: the safe Pade unit of Molina et al. (arXiv 1907.06732), in the form of the Kolmogorov-
    Arnold Transformer: the absolute value is around the whole sum.
    """

    degree: int = 5
    line = 1

    def __post_init__(self) -> None:
        if self.degree < 1:
            raise ValueError(f"degree is {self.degree}; it must be at least 1")

    @property
    def numbers(self) -> int:
        """P: degree + 1 coefficients of the numerator, then those of the denominator."""
        return 2 * self.degree

    @property
    def limit(self) -> float:
        """Bound on |x| in P and Q: the powers of larger inputs may be infinite."""
        return 1e30 ** (1 / self.degree)

    def combine(self, x: Tensor, coefficients: Tensor) -> Tensor:
        x = x.clamp(-self.limit, self.limit).unsqueeze(-3)
        above, below = coefficients[..., : self.degree + 1], coefficients[..., self.degree + 1 :]
        numerator = _horner(x, above)
        if not below.shape[-1]:
            return numerator
        inner = x * _horner(x, below)
        # Not abs(): its derivative at 0 is 0, so coefficients of Q that start at 0 would stay 0.
        return numerator / (1 + torch.where(inner < 0, -inner, inner))

    def pull_back(self, grad: Tensor, x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
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
        """Function k > 0 starts at x^(k+1) over an even denominator."""
        numbers = torch.zeros(self.numbers, device="cpu")
        if index > 0:
            numbers[min(index + 1, self.degree)] = 1.0
            numbers[self.degree + 1 :][-1:] = 1.0
        return numbers


def _horner(x: Tensor, coefficients: Tensor) -> Tensor:
    """Value at x of the polynomial whose coefficients are the last dimension."""
    total = coefficients[..., -1]
    for power in range(coefficients.shape[-1] - 2, -1, -1):
        total = total * x + coefficients[..., power]
    return total


def _moments(terms: Tensor, u: Tensor, count: int) -> list[Tensor]:
    """The sums of terms * u^0, terms * u^1, ...: (rows, M, G, n / G) -> (M, G), ``count`` of them.

    Only one power of u is held at a time.
    """
    sums = [terms.sum((0, -1))]
    for _ in range(count - 1):
        terms = terms * u
        sums.append(terms.sum((0, -1)))
    return sums
