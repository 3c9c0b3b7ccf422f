"""Chebyshev polynomials."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpkant.kan.bases.base import Basis, wide


@dataclass(frozen=True)
class Chebyshev(Basis):
    """Chebyshev polynomials T_1 ... T_degree of tanh(x), which maps any input into (-1, 1).

    Without T_0, the same constant for every input.

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
