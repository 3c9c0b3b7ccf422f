"""Initial parameters that two models have in common wherever they share a module."""

import zlib

import torch
from torch import nn

from nanogpkant.model.dropout import seed_of


def draw_parameters(model: nn.Module, seed: int) -> None:
    """Draw every module's parameters from a random stream of its own: (seed, module name)."""
    for name, module in model.named_modules():
        if reset := getattr(module, "reset_parameters", None):
            torch.manual_seed(seed_of(seed, zlib.crc32(name.encode())))
            reset()
