"""Cosines and sines."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpkant.kan.bases.base import Basis, wide


@dataclass(frozen=True)
class Fourier(Basis):
    """cos(kx) and sin(kx) for k = 1 ... frequencies: functions of period 2 pi.

    Args:
        frequencies: number of frequencies, at least 1.

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
