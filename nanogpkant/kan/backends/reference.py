"""The specification: write out every feature of every row, then multiply, under autograd."""

import torch
from torch import Tensor

from nanogpkant.kan.basis import Basis, expand_features


def forward(x: Tensor, weight: Tensor, basis: Basis, base: str, dtype: torch.dtype) -> Tensor:
    """(rows, n), (out, M, n) -> (rows, out), multiplied in ``dtype``."""
    features = expand_features(x, basis, base).flatten(-2)  # (rows, M * n)
    return features.to(dtype) @ weight.flatten(1).to(dtype).T
