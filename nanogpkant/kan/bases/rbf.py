"""Gaussian radial basis functions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpkant.kan.bases.base import Basis, wide


@dataclass(frozen=True)
class RBF(Basis):
    """Gaussian bumps exp(-((x - c) / h)^2) around ``grid_size + 1`` evenly spaced centres c.

    Args:
        grid_size: intervals between the first and the last centre, at least 1.
        grid_range: first and last centre, in units of the input.

    The width h is the spacing, as in FastKAN.

    Raises:
        ValueError: an invalid size or range.

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

        Bumps are zero long before, and their slopes must not be inf * 0.
        """
        low, high = self.grid_range
        step = (high - low) / self.grid_size
        x = wide(x).unsqueeze(-2)
        index = torch.arange(self.size, dtype=x.dtype, device=x.device)[:, None]
        return ((x - low) / step - index).clamp(-1e9, 1e9)
