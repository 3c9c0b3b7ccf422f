"""Token files and the batches cut from them.

A prepared dataset is a folder of ``train.bin`` and ``val.bin`` (token ids, little-endian, nothing
else), ``tokenizer.json`` and ``meta.json``. The token files are memory-mapped: a corpus larger than
memory costs no more than the pages in use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nanogpkant.data.tokenizer import CharTokenizer, load_tokenizer
from nanogpkant.errors import UserError
from nanogpkant.files import read_json, sha256_of

if TYPE_CHECKING:
    import torch

FORMAT = 1  # of the folder; raised when an older reader would misread it
SPLITS = ("train", "val")


@dataclass(frozen=True)
class TokenData:
    """A prepared dataset, open for reading.

    Attributes:
        folder: where it lies.
        train: token ids of the first 90% of the text, shape (tokens,), memory-mapped.
        val: token ids of the rest, likewise.
        tokenizer: turns ids back into text.
        meta: the content of ``meta.json``.
    """

    folder: Path
    train: np.ndarray
    val: np.ndarray
    tokenizer: CharTokenizer
    meta: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> TokenData:
        """Open a prepared dataset, checking that the sizes of its files agree; reads no tokens.

        Raises:
            UserError: the folder is missing, incomplete, damaged or of another format.
        """
        meta = _read_meta(folder)
        tokenizer = load_tokenizer(folder / "tokenizer.json")
        if (tokenizer.vocab_size, tokenizer.dtype.name) != (meta["vocab_size"], meta["dtype"]):
            raise _damaged(folder, "tokenizer.json does not fit meta.json")
        train, val = (
            _open_tokens(folder, split, meta[f"{split}_tokens"], tokenizer.dtype)
            for split in SPLITS
        )
        return cls(folder, train, val, tokenizer, meta)

    @property
    def fingerprint(self) -> str:
        """Identifies tokens and tokenizer: equal fingerprints mean equal data."""
        return self.meta["fingerprint"]

    @property
    def vocab_size(self) -> int:
        """How many different tokens there are."""
        return self.tokenizer.vocab_size

    def split(self, name: str) -> np.ndarray:
        """The token ids of ``"train"`` or ``"val"``: shape (tokens,).

        Raises:
            UserError: there is no such split.
        """
        if name not in SPLITS:
            raise UserError(f"there is no split {name!r}; choose one of {', '.join(SPLITS)}")
        return getattr(self, name)

    def verify(self) -> None:
        """Read every token and compare with the recorded fingerprint.

        Raises:
            UserError: a file was altered since it was prepared.
        """
        if fingerprint_of(self.folder) != self.fingerprint:
            raise _damaged(self.folder, "its files do not have the fingerprint in meta.json")


def fingerprint_of(folder: Path) -> str:
    """The SHA-256, in hexadecimal, over those of the token files and the tokenizer."""
    files = ("train.bin", "val.bin", "tokenizer.json")
    return hashlib.sha256("".join(sha256_of(folder / f) for f in files).encode()).hexdigest()


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


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "meta.json"
    if not folder.exists():
        raise UserError(
            f"no dataset is prepared in {folder}: make it with nanogpkant prepare {folder.name}"
        )
    if not path.is_file():
        raise _damaged(folder, "it has no meta.json")
    meta = read_json(path)
    if not isinstance(meta, dict) or "format" not in meta:
        raise _damaged(folder, "meta.json is not what prepare writes")
    if meta["format"] != FORMAT:
        raise UserError(
            f"{path} has format {meta['format']!r} where this version reads {FORMAT}: "
            f"remove {folder} and run nanogpkant prepare {folder.name}"
        )
    counts = (meta.get("train_tokens"), meta.get("val_tokens"), meta.get("vocab_size"))
    names = (meta.get("dtype"), meta.get("fingerprint"), meta.get("source_sha256"))
    if not all(type(count) is int and count > 0 for count in counts) or not all(
        isinstance(name, str) for name in names
    ):
        raise _damaged(folder, "meta.json lacks an entry or holds a wrong one")
    return meta


def _open_tokens(folder: Path, split: str, count: int, dtype: np.dtype) -> np.ndarray:
    path = folder / f"{split}.bin"
    expected = count * dtype.itemsize
    size = path.stat().st_size if path.is_file() else 0
    if size != expected:
        raise _damaged(folder, f"{path.name} has {size:,} bytes where {expected:,} are recorded")
    return np.memmap(path, dtype=dtype, mode="r")


def _damaged(folder: Path, what: str) -> UserError:
    return UserError(
        f"the dataset in {folder} is damaged ({what}): "
        f"remove that folder and run nanogpkant prepare {folder.name}"
    )
