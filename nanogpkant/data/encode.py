"""Encode a corpus into token files, in several threads, so that a killed run resumes.

The work folder holds the shards so far and ``progress.json``, replaced every ``FLUSH`` characters:
what the shards hold, and the next piece of the corpus. A resumed run ends with the same bytes, and
so does any number of threads.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any, BinaryIO

import numpy as np

from nanogpkant.base.console import note
from nanogpkant.base.errors import UserError
from nanogpkant.base.files import read_json, write_json
from nanogpkant.data.read import HEAD, Advance, Corpus, Piece
from nanogpkant.data.tokenizer import Tokenizer, load_tokenizer

PROGRESS = "progress.json"
BATCH = 1 << 20  # characters, about, encoded at a time
BATCH_TEXTS = 1 << 14  # at most, in a batch
FLUSH = 1 << 26  # characters, about, between two states to resume from
SHARD_TOKENS = 100_000_000  # at most, in one file

Cursor = tuple[int, int]  # a piece of a corpus: number of its part, number in that part
SplitText = tuple[str, str, bool]  # split, text, whether an end-of-text token follows
Divide = Callable[[Iterable[Piece]], Iterator[list[SplitText]]]  # the pieces of a part into splits
Shards = list[dict[str, Any]]  # {"file", "tokens", "sha256"} of each shard of a split


def by_position(
    pieces: Iterable[Piece], lengths: dict[str, int], label: str
) -> Iterator[list[SplitText]]:
    """Cut one text into splits of ``lengths`` characters, in their order."""
    left, text = dict(lengths), ""
    for text, _ in pieces:
        cut = []
        for split in left:
            part, text = text[: left[split]], text[left[split] :]
            left[split] -= len(part)
            cut += [(split, part, False)] if part else []
        if text:
            break
        yield cut
    if text or any(left.values()):
        raise UserError(f"{label} changed while it was read: prepare it again")


def by_content(pieces: Iterable[Piece], val_fraction: float) -> Iterator[list[SplitText]]:
    """Put each document into the split given by a hash of its beginning.

    Copies of a document are in the same split, whatever else there is, so that no copy of a
    training document is validated on.
    """
    limit, split = int(val_fraction * (1 << 64)), None
    for text, ends in pieces:
        if split is None:
            head = text[:HEAD].encode("utf-8", "surrogateescape")
            draw = int.from_bytes(hashlib.blake2b(head, digest_size=8).digest(), "big")
            split = "val" if draw < limit else "train"
        yield [(split, text, ends)]
        split = None if ends else split


@dataclass(frozen=True)
class TextBatch:
    """Text to be encoded together, in the order of the corpus."""

    texts: list[SplitText]
    size: int
    """characters"""
    next: Cursor
    """where the next batch begins"""


def batches(corpus: Corpus, divide: Divide, start: Cursor, advance: Advance) -> Iterator[TextBatch]:
    """The text of a corpus from ``start`` on."""
    texts, size = [], 0
    for part_number, part in enumerate(corpus.parts):
        if part_number < start[0]:
            advance(part.size)
            continue
        for number, divided in enumerate(divide(part.pieces(advance))):
            if (part_number, number) < start:
                continue
            texts += divided
            size += sum(len(text) for _, text, _ in divided)
            if size >= BATCH or len(texts) >= BATCH_TEXTS:
                yield TextBatch(texts, size, (part_number, number + 1))
                texts, size = [], 0
    if texts:
        yield TextBatch(texts, size, (len(corpus.parts), 0))


def build(
    work: Path,
    key: str,
    corpus: Corpus,
    divide: Divide,
    splits: Iterable[str],
    make_tokenizer: Callable[[], Tokenizer],
    workers: int,
    advance: Advance,
) -> tuple[Tokenizer, dict[str, Shards]]:
    """Write the token files of a corpus into the folder ``work``, resuming what is there.

    ``key`` identifies corpus and settings: work with another key is deleted.
    """
    resumed = _resume(work, key)
    if resumed is None:
        rmtree(work, ignore_errors=True)
        tokenizer, start = make_tokenizer(), (0, 0)
        work.mkdir(parents=True)
        tokenizer.save(work / "tokenizer.json")
        writers = {split: ShardWriter(work, split, tokenizer.dtype, []) for split in splits}
    else:
        tokenizer, start, writers = resumed

    def flush(cursor: Cursor) -> dict[str, Shards]:
        shards = {split: writer.flush() for split, writer in writers.items()}
        write_json(work / PROGRESS, {"key": key, "next": cursor, "splits": shards})
        return shards

    since_flush = 0
    try:
        for batch, encoded in encode_all(
            tokenizer, batches(corpus, divide, start, advance), workers
        ):
            for split, ids in encoded.items():
                writers[split].write(ids)
            since_flush += batch.size
            if since_flush >= FLUSH:
                flush(batch.next)
                since_flush = 0
        return tokenizer, flush((len(corpus.parts), 0))
    finally:
        for writer in writers.values():
            writer.close()


def _resume(work: Path, key: str) -> tuple[Tokenizer, Cursor, dict[str, "ShardWriter"]] | None:
    """The state of an earlier run with the same key, if its files are intact."""
    try:
        progress = read_json(work / PROGRESS)
        if progress["key"] != key:
            return None
        tokenizer, splits = load_tokenizer(work / "tokenizer.json"), progress["splits"].items()
        writers = {s: ShardWriter(work, s, tokenizer.dtype, shards) for s, shards in splits}
        part, piece = progress["next"]
    except (UserError, OSError, ValueError, LookupError, TypeError):  # missing or damaged
        return None
    tokens = sum(shard["tokens"] for _, shards in splits for shard in shards)
    note(f"resuming after the {tokens:,} tokens in {work}")
    return tokenizer, (part, piece), writers


class ShardWriter:
    """Append token ids to the shards of one split: ``train-00000.bin``, ``train-00001.bin``, ...

    To resume, ``shards`` is the last result of ``flush``; anything written after it is cut off.
    """

    def __init__(self, folder: Path, split: str, dtype: np.dtype, shards: Shards):
        self._folder, self._split, self._dtype = folder, split, dtype
        self._full = shards[:-1]
        self._file: BinaryIO | None = None
        for shard in shards:
            path, self._tokens = folder / shard["file"], shard["tokens"]
            os.truncate(path, self._tokens * dtype.itemsize)
            with open(path, "rb") as file:
                self._digest = hashlib.file_digest(file, "sha256")
            if self._digest.hexdigest() != shard["sha256"]:
                raise ValueError(f"{path} has changed")
        if shards:
            self._file = open(folder / shards[-1]["file"], "ab")  # noqa: SIM115

    def write(self, ids: np.ndarray) -> None:
        """Append ids, shape (tokens,); full shards are closed and new ones begun."""
        while len(ids):
            if self._file is None or self._tokens == SHARD_TOKENS:
                self._full = self.flush()
                self.close()
                name = f"{self._split}-{len(self._full):05}.bin"
                self._file = open(self._folder / name, "wb")  # noqa: SIM115
                self._digest, self._tokens = hashlib.sha256(), 0
            fitting = ids[: SHARD_TOKENS - self._tokens].astype(self._dtype, copy=False)
            self._file.write(fitting.data)
            self._digest.update(fitting.data)
            self._tokens += len(fitting)
            ids = ids[len(fitting) :]

    def flush(self) -> Shards:
        """Flush to disk; returns the shards as meta.json lists them."""
        if self._file is None:
            return []
        self._file.flush()
        os.fsync(self._file.fileno())
        name, sha256 = Path(self._file.name).name, self._digest.hexdigest()
        return [*self._full, {"file": name, "tokens": self._tokens, "sha256": sha256}]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def encode(tokenizer: Tokenizer, batch: TextBatch) -> dict[str, np.ndarray]:
    """The token ids of a batch, by split."""
    ids: dict[str, list[np.ndarray]] = {}
    for split, text, ends in batch.texts:
        into = ids.setdefault(split, [])
        into.append(tokenizer.encode(text))
        if ends:
            into.append(np.array([tokenizer.eot], dtype=tokenizer.dtype))
    return {split: np.concatenate(parts) for split, parts in ids.items()}


def encode_all(
    tokenizer: Tokenizer, batches: Iterable[TextBatch], workers: int
) -> Iterator[tuple[TextBatch, dict[str, np.ndarray]]]:
    """Every batch with its token ids, in order; at most two batches a thread are in memory.

    Threads are enough: tiktoken and numpy release the interpreter's lock while they encode.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting = deque()
        for batch in batches:
            waiting.append((batch, pool.submit(encode, tokenizer, batch)))
            if len(waiting) == 2 * workers:
                first, ids = waiting.popleft()
                yield first, ids.result()
        for batch, ids in waiting:
            yield batch, ids.result()
