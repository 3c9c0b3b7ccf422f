"""Batches of token ids: random windows for training, the whole split in order for evaluation.

``tokens`` is any array of token ids, shape (tokens,), that supports indexing by an array.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nanogpkant.base.errors import UserError
from nanogpkant.data.tokens import Ids

if TYPE_CHECKING:
    import torch


def check_length(tokens: Ids, length: int, split: str, flag: str = "--model.block_size") -> None:
    """Check that a split holds at least one window of ``length`` inputs and a target.

    ``flag`` set that length.

    Raises:
        UserError: it does not.
    """
    if len(tokens) <= length:
        raise UserError(
            f"{flag} {length} needs {length + 1} tokens a split, but the "
            f"{split} split has {len(tokens)}: use a longer text or a smaller {flag}"
        )


@dataclass(frozen=True)
class Batches:
    """Random windows of a split.

    Batch ``index`` is a pure function of ``seed`` and ``index``: a resumed run draws the same
    batches, and there is no state to save. Each of ``world`` processes gets its part of a batch;
    the windows do not depend on ``world``.

    Attributes:
        tokens: token ids, shape (tokens,), more than ``block_size``.
        block_size: tokens a window.
        batch_size: windows a batch, of all processes together.
        seed: a non-negative integer.
        rank: of this process.
        world: number of processes.
    """

    tokens: Ids
    block_size: int
    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1

    @property
    def share(self) -> float:
        """Windows of this process, relative to the mean over all processes."""
        own = len(np.array_split(range(self.batch_size), self.world)[self.rank])
        return own * self.world / self.batch_size

    def batch(
        self, index: int, device: torch.device | str = "cpu"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of batch ``index``: int64, each (batch_size, block_size).

        Every window of the split is equally likely; targets are the inputs one token later. Each
        of several processes gets only its own rows.
        """
        rng = np.random.default_rng([self.seed, index])
        starts = rng.integers(len(self.tokens) - self.block_size, size=self.batch_size)
        own = np.array_split(starts, self.world)[self.rank]
        return _inputs_and_targets(_windows(self.tokens, own, self.block_size), device)


@dataclass(frozen=True)
class Blocks:
    """A whole split in order, with each of its len(tokens) - 1 targets exactly once.

    Attributes:
        tokens: token ids, shape (tokens,), at least 2.
        block_size: tokens a row; a remainder is a last batch of one shorter row.
        batch_size: rows a batch.
    """

    tokens: Ids
    block_size: int
    batch_size: int

    def __len__(self) -> int:
        """Number of batches."""
        full, rest = divmod(len(self.tokens) - 1, self.block_size)
        return -(-full // self.batch_size) + (rest > 0)

    def start(self, index: int) -> int:
        """Number of targets before batch ``index``."""
        full = (len(self.tokens) - 1) // self.block_size
        return min(index * self.batch_size, full) * self.block_size

    def batch(
        self, index: int, device: torch.device | str = "cpu"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of batch ``index``: int64, each (rows, block_size) or (1, remainder).

        There are at most ``batch_size`` rows.
        """
        first, full = self.start(index), (len(self.tokens) - 1) // self.block_size
        if first == full * self.block_size:
            starts, length = np.array([first]), len(self.tokens) - 1 - first
        else:
            end = self.start(index + 1)
            starts, length = np.arange(first, end, self.block_size), self.block_size
        return _inputs_and_targets(_windows(self.tokens, starts, length), device)


def blocks(
    tokens: Ids, block_size: int, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of ``Blocks``, in order."""
    text = Blocks(tokens, block_size, batch_size)
    return (text.batch(index, device) for index in range(len(text)))


def _windows(tokens: Ids, starts: np.ndarray, length: int) -> np.ndarray:
    """Windows of ``length`` inputs and a target: (rows, length + 1), int64."""
    return tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64)


def _inputs_and_targets(
    windows: np.ndarray, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch  # slow to import, and not needed to prepare a text

    rows = torch.from_numpy(windows)
    if torch.device(device).type == "cuda":
        # a copy from pinned memory overlaps with the previous step
        rows = rows.pin_memory().to(device, non_blocking=True)
    else:
        rows = rows.to(device)
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
