"""Token files: what a text is once it is prepared.

A prepared dataset is a folder of ``train.bin`` and ``val.bin`` (token ids, little-endian, nothing
else), ``tokenizer.json`` and ``meta.json``. The token files are memory-mapped: a corpus larger than
memory costs no more than the pages in use.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanogpkant.data.tokenizer import CharTokenizer, load_tokenizer
from nanogpkant.errors import UserError
from nanogpkant.files import read_json, sha256_of

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
    def open(cls, folder: Path) -> "TokenData":
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
