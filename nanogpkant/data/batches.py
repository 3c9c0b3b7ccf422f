"""Batches cut from token ids: random windows for training, the whole split in order for evaluation.

``tokens`` is any array of token ids, shape (tokens,), that an array of indices picks from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nanogpkant.errors import UserError

if TYPE_CHECKING:
    import torch


def check_length(tokens: np.ndarray, block_size: int, split: str) -> None:
    """Make sure that a split holds at least one window of ``block_size`` inputs and a target.

    Raises:
        UserError: it does not.
    """
    if len(tokens) <= block_size:
        raise UserError(
            f"--model.block_size {block_size} needs {block_size + 1} tokens a split, but the "
            f"{split} split has {len(tokens)}: use a longer text or a smaller --model.block_size"
        )


@dataclass(frozen=True)
class Batches:
    """Random windows of a split, drawn by number rather than in turn.

    Batch ``index`` is a pure function of ``seed`` and ``index``: a resumed run goes on with the
    very batches that it would have drawn, and there is no state to save.

    Attributes:
        tokens: token ids, shape (tokens,), more than ``block_size`` of them.
        block_size: tokens a window.
        batch_size: windows a batch.
        seed: a non-negative integer.
    """

    tokens: np.ndarray
    block_size: int
    batch_size: int
    seed: int

    def batch(
        self, index: int, device: torch.device | str = "cpu"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Batch ``index``: inputs and targets, int64, each (batch_size, block_size).

        Every window of the split is equally likely; targets are the inputs one token later.
        """
        rng = np.random.default_rng([self.seed, index])
        starts = rng.integers(len(self.tokens) - self.block_size, size=self.batch_size)
        return _inputs_and_targets(_windows(self.tokens, starts, self.block_size), device)


def blocks(
    tokens: np.ndarray, block_size: int, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The whole split in order: each of its len(tokens) - 1 predictions is asked for exactly once.

    Yields inputs and targets, int64, each (rows, block_size) with at most ``batch_size`` rows; what
    is left over at the end of the split comes last, as one shorter row.
    """
    full, rest = divmod(len(tokens) - 1, block_size)
    starts = np.arange(full) * block_size
    for first in range(0, full, batch_size):
        rows = starts[first : first + batch_size]
        yield _inputs_and_targets(_windows(tokens, rows, block_size), device)
    if rest > 0:
        yield _inputs_and_targets(_windows(tokens, np.array([full * block_size]), rest), device)


def _windows(tokens: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Rows of ``length`` tokens and the one after: (rows, length + 1), int64."""
    return tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64)


def _inputs_and_targets(
    windows: np.ndarray, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch  # takes a second, which preparing a text does not need

    rows = torch.from_numpy(windows)
    if torch.device(device).type == "cuda":
        # from pinned memory the copy overlaps with the step before
        rows = rows.pin_memory().to(device, non_blocking=True)
    else:
        rows = rows.to(device)
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
