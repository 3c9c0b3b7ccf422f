"""The specification: write out every feature of every row, then multiply, under autograd."""

from typing import NamedTuple

import torch
from torch import Tensor

from nanogpkant.kan.features import Features


class Call(NamedTuple):
    """The arguments of a backend."""

    x: Tensor  # (rows, n)
    weight: Tensor  # (out, M, n)
    features: Features
    coefficients: Tensor | None  # (functions, groups, numbers)
    keep: Tensor | None  # (rows, n)
    dtype: torch.dtype  # of the matrix product and of the result


def forward(call: Call) -> Tensor:
    """(rows, out)."""
    features = call.features.expand(call.x, call.coefficients)  # (rows, M, n)
    if call.keep is not None:
        features = features * call.keep.unsqueeze(-2)
    return features.flatten(-2).to(call.dtype) @ call.weight.flatten(1).to(call.dtype).T
