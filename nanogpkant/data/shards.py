"""Writing a split's token ids, shard after shard, so that a killed run can go on."""

import hashlib
import os
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np

SHARD_TOKENS = 100_000_000  # at most, in one file
BLOCK_BYTES = 1 << 20


class ShardWriter:
    """Appends token ids to the shards of one split: ``train-00000.bin``, ``train-00001.bin``, ...

    Args:
        folder: where they lie.
        split: the beginning of their names.
        dtype: of the ids.
        shards: what ``flush`` last returned in a run that is to be continued; what that run wrote
            after it is cut off.

    Raises:
        ValueError: a shard is not what it was then.
    """

    def __init__(self, folder: Path, split: str, dtype: np.dtype, shards: list[dict[str, Any]]):
        self._folder, self._split, self._dtype = folder, split, dtype
        self._full, self._file = shards[:-1], None
        for shard in self._full:
            self._read(shard)
        if shards:
            self._digest, self._tokens = self._read(shards[-1]), shards[-1]["tokens"]
            os.truncate(folder / shards[-1]["file"], self._tokens * dtype.itemsize)
            self._file = open(folder / shards[-1]["file"], "ab")  # noqa: SIM115

    def write(self, ids: np.ndarray) -> None:
        """Append ids, shape (tokens,), starting a new shard where one is full."""
        while len(ids):
            if self._file is None or self._tokens == SHARD_TOKENS:
                self._begin()
            fitting = ids[: SHARD_TOKENS - self._tokens].astype(self._dtype, copy=False)
            self._file.write(fitting.data)
            self._digest.update(fitting.data)
            self._tokens += len(fitting)
            ids = ids[len(fitting) :]

    def flush(self) -> list[dict[str, Any]]:
        """Put all on the disk; returns the shards as meta.json lists them."""
        if self._file is None:
            return []
        self._file.flush()
        os.fsync(self._file.fileno())
        name, sha256 = Path(self._file.name).name, self._digest.hexdigest()
        return [*self._full, {"file": name, "tokens": self._tokens, "sha256": sha256}]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _begin(self) -> None:
        self._full = self.flush()
        self.close()
        name = f"{self._split}-{len(self._full):05}.bin"
        self._file: BufferedWriter | None = open(self._folder / name, "wb")  # noqa: SIM115
        self._digest, self._tokens = hashlib.sha256(), 0

    def _read(self, shard: dict[str, Any]) -> "hashlib._Hash":
        """Check what a shard holds, but for what comes after it."""
        digest, left = hashlib.sha256(), shard["tokens"] * self._dtype.itemsize
        with open(self._folder / shard["file"], "rb") as file:
            while block := file.read(min(left, BLOCK_BYTES)):
                digest.update(block)
                left -= len(block)
        if digest.hexdigest() != shard["sha256"]:
            raise ValueError(f"{shard['file']} is not what was written")
        return digest
