"""Interfaces of the bases: the specification that every faster backend is tested against.

Features come before inputs in every result: the innermost loop of each element-wise step then runs
over contiguous inputs (1.6 times faster on a CPU than features last), and the last two dimensions
flatten without a copy into the packed features of the matrix product.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """x in float32 or wider, the precision in which features are computed."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Basis(ABC):
    """Fixed functions of one variable. Subclasses are frozen dataclasses."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of functions."""

    @abstractmethod
    def expand(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., size, n): the value of every function, in float32 or wider."""

    @abstractmethod
    def derivative(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., size, n): the derivative of every function, in float32 or wider."""


class Family(ABC):
    """Functions with learned parameters, for edges to share. Subclasses are frozen dataclasses.

    M functions for each of G groups of n / G inputs have the parameters (M, G, 1, numbers).
    """

    @property
    @abstractmethod
    def numbers(self) -> int:
        """P: parameters of a function."""

    line: ClassVar[int]
    """index of the parameter that is the coefficient of x"""

    @abstractmethod
    def combine(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """(..., G, n / G) and (M, G, 1, P) -> (..., M, G, n / G): the value of every function."""

    @abstractmethod
    def pull_back(self, grad: Tensor, x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of ``combine`` -> gradients of x and of the coefficients.

        (rows, M, G, n / G), (rows, G, n / G) and (M, G, 1, P) -> (rows, G, n / G) and (M, G, P).
        """

    @abstractmethod
    def start(self, index: int) -> Tensor:
        """(P,) on the CPU: initial parameters of function ``index``; function 0 is zero."""
