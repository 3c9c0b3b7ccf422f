"""Learned functions that edges share, so that an edge has only a weight for each of them.

An edge with its own function has M coefficients. Shared functions cost next to nothing:

- ``group:G``: phi_ij(x) = w_ij * psi_g(x), one learned function for each of G groups of inputs;
- ``input``: the same with one function for every input; and
- ``atoms:K``: phi_ij(x) = sum_k a_ijk * psi_k(x), K learned functions for the whole layer.

All are M functions for each of G groups, with M = 1 or G = 1. Their parameters are the layer's
``coefficients``, (M, G, P) for P parameters a function.

Source: groups are the GR-KAN of Yang & Wang, *Kolmogorov-Arnold Transformer* (arXiv 2409.10594).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpkant.kan.bases import parse_share
from nanogpkant.kan.bases.base import Basis, Family, wide


@dataclass(frozen=True)
class Combination(Family):
    """Learned sums of a line and the functions of a fixed basis."""

    basis: Basis
    line = 0

    @property
    def numbers(self) -> int:
        """P: the coefficient of x, then one for each function of the basis."""
        return 1 + self.basis.size

    def combine(self, x: Tensor, coefficients: Tensor) -> Tensor:
        total = x.unsqueeze(-3) * coefficients[..., 0]
        values = self.basis.expand(x.flatten(-2)).unflatten(-1, x.shape[-2:])  # (..., size, G, n/G)
        for k in range(self.basis.size):
            total = total + values[..., k : k + 1, :, :] * coefficients[..., k + 1]
        return total

    def pull_back(self, grad: Tensor, x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
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
        """Function k > 0 starts at function k of the basis, modulo its size."""
        numbers = torch.zeros(self.numbers, device="cpu")
        if index > 0:
            numbers[1 + index % self.basis.size] = 1.0
        return numbers


@dataclass(frozen=True)
class Shared:
    """Learned functions that groups of inputs share: a basis with parameters.

    Args:
        family: form of the functions: a fixed basis plus a line, or a ``Family`` such as
            ``Rational``.
        functions: M, functions an input.
        groups: G, groups of neighbouring inputs, each with its own functions.

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
        """(M, G, P): initial coefficients.

        The first function starts at zero, to which the base function is added, or at x where there
        is no base function; further ones start as different members of the family.
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
    """The basis of a layer of ``in_features`` inputs whose edges share functions as ``how`` says.

    Raises:
        ValueError: ``how`` is no text that ``parse_share`` takes, or the family has to be shared.
    """
    kind, count = parse_share(how)
    if kind == "edge":
        if isinstance(basis, Family):
            raise ValueError(f'{basis} cannot be an edge\'s own; share="group:8"')
        return basis
    if kind == "atoms":
        return Shared(basis, functions=count)
    return Shared(basis, groups=in_features if kind == "input" else count)
