"""Dropout that does not slow a CPU down."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16  # the drop probability is rounded to a whole number of these


class Dropout(nn.Module):
    """``nn.Dropout``, with masks that a CPU can draw fast.

    torch draws a CPU mask one number an element, which took a quarter of a small model's step. Here
    each 64-bit random number decides four elements, 16 bits each, so p is exact to 1/65536.
    Elsewhere, and where torch.compile fuses it, this is torch's own.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same; in training, 0 with probability p and else divided by 1 - p."""
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.p)
        return (x * keep_mask(x.shape, self.p)).mul_(1 / (1 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


def keep_mask(shape: torch.Size, p: float) -> Tensor:
    """A CPU mask of booleans, False with probability p, from torch's global random stream."""
    count = math.prod(shape)
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    sixteen_bits = words.view(torch.int16)[:count].view(shape)  # uniform on [-LEVELS/2, LEVELS/2)
    return sixteen_bits >= round(p * LEVELS) - LEVELS // 2


def seed_of(*numbers: int) -> int:
    """A seed for torch's generators that differs with each of some numbers of at least 0.

    Hashed to 32 bits, because of a longer seed torch takes no more than those on a CPU.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
