"""Straight lines through zero, a control for the learned bases."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpkant.kan.bases.base import Family


@dataclass(frozen=True)
class Line(Family):
    """Straight lines through zero: a learned factor. A control for the other families."""

    line = 0

    @property
    def numbers(self) -> int:
        return 1

    def combine(self, x: Tensor, coefficients: Tensor) -> Tensor:
        return x.unsqueeze(-3) * coefficients[..., 0]

    def pull_back(self, grad: Tensor, x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        grad_x = (grad * coefficients[..., 0]).sum(-3)
        return grad_x, (grad * x.unsqueeze(-3)).sum((0, -1)).unsqueeze(-1)

    def start(self, index: int) -> Tensor:
        return torch.full((1,), float(index > 0), device="cpu")
