"""Token files: the format of a prepared dataset, and access to it.

A prepared dataset is a folder of shards (``train-00000.bin``, ...: little-endian token ids, no
header), ``tokenizer.json``, and ``meta.json`` with the shards of each split. Shards are
memory-mapped: a corpus may be larger than memory.
"""

import hashlib
import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanogpkant.base.errors import UserError
from nanogpkant.base.files import read_json, sha256_of
from nanogpkant.data.tokenizer import Tokenizer, load_tokenizer

FORMAT = 2  # of the folder; raised if an older reader would misread it
SPLITS = ("train", "val", "test")  # in the order of the text; test is optional


class Tokens:
    """The token ids of a split, in one or more shards, indexed like one array.

    ``tokens[indices]`` takes an integer array of any shape and returns an array of that shape. A
    slice ``tokens[a:b]`` is a view, again ``Tokens``; ``np.asarray(tokens)`` reads all of it.

    Args:
        shards: one-dimensional arrays.
        dtype: of the ids.
    """

    def __init__(self, shards: Iterable[np.ndarray], dtype: np.dtype):
        self.dtype = np.dtype(dtype)
        self._shards = [shard for shard in shards if len(shard)]
        self._ends = np.cumsum([len(shard) for shard in self._shards], dtype=np.int64)
        self._maps = [_mapped(shard) for shard in self._shards]

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._shards else 0

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> Any:
        if isinstance(index, slice):
            picked = range(len(self))[index]
            if picked.step == 1:
                return self._range(picked.start, picked.stop)
            return self[np.array(picked, dtype=np.int64)]
        index = np.asarray(index)
        if index.dtype.kind not in "iu":
            raise IndexError(f"tokens are picked by integers, not by {index.dtype}")
        if index.size and not -len(self) <= index.min() <= index.max() < len(self):
            raise IndexError(f"index out of range: there are {len(self)} tokens")
        if len(self._shards) == 1:
            self._check_size(0)
            return self._shards[0][index]
        index = np.where(index < 0, index + len(self), index)
        picked = np.empty(index.shape, dtype=self.dtype)
        shard_of = np.searchsorted(self._ends, index, side="right")
        for number in np.unique(shard_of):
            self._check_size(number)
            here, shard = shard_of == number, self._shards[number]
            picked[here] = shard[index[here] - (self._ends[number] - len(shard))]
        return picked[()]  # a scalar for a scalar index

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        for number in range(len(self._shards)):
            self._check_size(number)
        whole = np.concatenate([np.empty(0, dtype=self.dtype), *self._shards])
        return whole.astype(dtype or self.dtype, copy=False)

    def _check_size(self, number: int) -> None:
        """Refuse a file that was cut since it was opened: reading beyond its end would kill us."""
        found = self._maps[number]
        if found is not None and found.size() < len(found):
            raise UserError("a file of the prepared data was cut short meanwhile: prepare it again")

    def _range(self, start: int, stop: int) -> "Tokens":
        begins = self._ends - [len(shard) for shard in self._shards]
        cut = (
            shard[max(0, start - begin) : max(0, stop - begin)]
            for shard, begin in zip(self._shards, begins, strict=True)
        )
        return Tokens(cut, self.dtype)


def _mapped(array: Any) -> mmap.mmap | None:
    """The mapped file that an array is a view of, if it is."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array if isinstance(array, mmap.mmap) else None


# Token ids, shape (tokens,): anything that an array of indices picks from.
Ids = Tokens | np.ndarray


@dataclass(frozen=True)
class TokenData:
    """A prepared dataset, open for reading.

    Attributes:
        folder: where it lies.
        splits: token ids by split, memory-mapped.
        tokenizer: of these ids.
        meta: content of ``meta.json``.
    """

    folder: Path
    splits: dict[str, Tokens]
    tokenizer: Tokenizer
    meta: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "TokenData":
        """Open a prepared dataset and check the sizes of its files; reads no tokens.

        Raises:
            UserError: the folder is missing, incomplete, damaged or of another format.
        """
        meta = _read_meta(folder)
        tokenizer = load_tokenizer(folder / "tokenizer.json")
        if (tokenizer.vocab_size, tokenizer.dtype.name) != (meta["vocab_size"], meta["dtype"]):
            raise _damaged(folder, "tokenizer.json does not fit meta.json")
        dtype = tokenizer.dtype
        splits = {
            split: Tokens([_open_shard(folder, shard, dtype) for shard in shards], dtype)
            for split, shards in meta["splits"].items()
        }
        return cls(folder, splits, tokenizer, meta)

    @property
    def fingerprint(self) -> str:
        """Hash of tokens and tokenizer: equal fingerprints mean equal data."""
        return self.meta["fingerprint"]

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def train(self) -> Tokens:
        return self.split("train")

    @property
    def val(self) -> Tokens:
        return self.split("val")

    def split(self, name: str) -> Tokens:
        """The token ids of ``"train"``, ``"val"`` or ``"test"``.

        Raises:
            UserError: there is no such split.
        """
        if name not in self.splits:
            known = ", ".join(self.splits)
            raise UserError(f"{self.folder} has no split {name!r}; choose one of {known}")
        return self.splits[name]

    def verify(self) -> None:
        """Compare every file with its recorded checksum.

        Raises:
            UserError: a file was altered since it was prepared.
        """
        shards = [shard for split in self.meta["splits"].values() for shard in split]
        found = [sha256_of(self.folder / shard["file"]) for shard in shards]
        for shard, sha256 in zip(shards, found, strict=True):
            if shard.get("sha256", sha256) != sha256:
                raise _damaged(self.folder, f"{shard['file']} is not what was written")
        if fingerprint_of(found, self.folder / "tokenizer.json") != self.fingerprint:
            raise _damaged(self.folder, "its files do not have the fingerprint in meta.json")


def fingerprint_of(shards: Iterable[str], tokenizer: Path) -> str:
    """SHA-256, in hexadecimal, over the SHA-256 of each shard, in order, and of the tokenizer."""
    return hashlib.sha256("".join([*shards, sha256_of(tokenizer)]).encode()).hexdigest()


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "meta.json"
    if not folder.exists():
        raise UserError(f"no dataset is prepared in {folder}: make it with {_command(folder)}")
    if not path.is_file():
        raise _damaged(folder, "it has no meta.json")
    meta = read_json(path)
    if not isinstance(meta, dict) or "format" not in meta:
        raise _damaged(folder, "meta.json was not written by prepare")
    if meta["format"] == 1:  # one file a split, without checksums
        meta["splits"] = {
            split: [{"file": f"{split}.bin", "tokens": meta.get(f"{split}_tokens")}]
            for split in ("train", "val")
        }
    elif meta["format"] != FORMAT:
        raise UserError(
            f"{path} has format {meta['format']!r} where this version reads {FORMAT}: "
            f"remove {folder} and run {_command(folder)}"
        )
    try:
        splits = meta["splits"]
        shards = [shard for split in splits.values() for shard in split]
        files = [shard["file"] for shard in shards]
        texts = [*files, *(meta[key] for key in ("dtype", "fingerprint", "source_sha256"))]
        counts = [meta["vocab_size"], *(shard["tokens"] for shard in shards)]
        is_valid = (
            {"train", "val"} <= set(splits) <= set(SPLITS)
            and all(splits.values())
            and all(isinstance(text, str) for text in texts)
            and all(type(count) is int and count > 0 for count in counts)
            and all(Path(file).name == file for file in files)
        )
    except (AttributeError, LookupError, TypeError):
        is_valid = False
    if not is_valid:
        raise _damaged(folder, "meta.json lacks an entry or holds a wrong one")
    return meta


def _open_shard(folder: Path, shard: dict[str, Any], dtype: np.dtype) -> np.ndarray:
    path = folder / shard["file"]
    expected = shard["tokens"] * dtype.itemsize
    size = path.stat().st_size if path.is_file() else 0
    if size != expected:
        raise _damaged(folder, f"{path.name} has {size:,} bytes where {expected:,} are recorded")
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


def _damaged(folder: Path, what: str) -> UserError:
    return UserError(
        f"the dataset in {folder} is damaged ({what}): "
        f"remove that folder and run {_command(folder)}"
    )


def _command(folder: Path) -> str:
    """What prepares a dataset."""
    return f"nanogpkant prepare {folder.name} --dir {folder.parent}, with its --file if it had one"
