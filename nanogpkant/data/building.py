"""From a source to token files: batches of text, encoded and written in their order.

The folder under work holds the shards so far and ``progress.json``, which is replaced every
``FLUSH`` characters: it says what the shards hold by then and where in the source that is. A run
that was killed goes on from there, and ends with the same bytes.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

from nanogpkant.base.console import note
from nanogpkant.base.errors import UserError
from nanogpkant.base.files import read_json, write_json
from nanogpkant.data.encoding import Batch, Cursor, encode_all
from nanogpkant.data.shards import ShardWriter
from nanogpkant.data.sources import Advance, Source
from nanogpkant.data.tokenizer import Tokenizer, load_tokenizer

PROGRESS = "progress.json"
BATCH = 1 << 20  # characters, about, that are encoded at a time
BATCH_TEXTS = 1 << 14  # at most, in a batch
FLUSH = 1 << 26  # characters, about, between two states that a killed run can go on from

Divide = Callable[[str, bool], Iterator[tuple[str, str]]]  # see ByPosition and ByContent


@dataclass(frozen=True)
class Built:
    """What is ready: the tokenizer, and every split's shards as meta.json lists them."""

    tokenizer: Tokenizer
    splits: dict[str, list[dict[str, Any]]]

    def count(self, split: str) -> int:
        """Tokens of a split."""
        return sum(shard["tokens"] for shard in self.splits[split])

    def hashes(self) -> list[str]:
        """The SHA-256 of every shard, in order."""
        return [shard["sha256"] for shards in self.splits.values() for shard in shards]


def build(
    work: Path,
    key: str,
    source: Source,
    divide: Divide,
    splits: Iterable[str],
    make_tokenizer: Callable[[], Tokenizer],
    workers: int,
    advance: Advance,
) -> Built:
    """Write a source's token files into the folder ``work``, going on with what is there.

    Args:
        work: made where it is missing.
        key: says what is built, and from what; work under another key is thrown away.
        source: what is read.
        divide: puts pieces into splits.
        splits: their names.
        make_tokenizer: called where there is nothing to go on with.
        workers: processes that encode.
        advance: told of the bytes read.

    Raises:
        UserError: the source cannot be read.
        OSError: the folder cannot be written.
    """
    state = _resume(work, key, splits) or _begin(work, splits, make_tokenizer)
    tokenizer, start, writers = state
    since_flush = 0
    try:
        texts = batches(source, divide, start, advance)
        with closing(encode_all(tokenizer, texts, workers)) as results:
            for batch, encoded in results:
                for split, ids in encoded.items():
                    writers[split].write(ids)
                since_flush += batch.size
                if since_flush >= FLUSH:
                    _flush(work, key, batch.next, writers)
                    since_flush = 0
        return Built(tokenizer, _flush(work, key, (len(source.parts), 0), writers))
    finally:
        for writer in writers.values():
            writer.close()


def batches(source: Source, divide: Divide, start: Cursor, advance: Advance) -> Iterator[Batch]:
    """The text of a source, from ``start`` on."""
    texts, size = [], 0
    for part_number, part in enumerate(source.parts):
        if part_number < start[0]:
            advance(part.size)
            continue
        for number, (text, ends) in enumerate(part.read(advance)):
            divided = list(divide(text, ends))  # skipped or not: what comes after depends on it
            if (part_number, number) < start:
                continue
            texts += [(split, t, ends and not source.one_text) for split, t in divided]
            size += len(text)
            if size >= BATCH or len(texts) >= BATCH_TEXTS:
                yield Batch(texts, size, (part_number, number + 1))
                texts, size = [], 0
    if texts:
        yield Batch(texts, size, (len(source.parts), 0))


State = tuple[Tokenizer, Cursor, dict[str, ShardWriter]]


def _begin(work: Path, splits: Iterable[str], make_tokenizer: Callable[[], Tokenizer]) -> State:
    rmtree(work, ignore_errors=True)
    tokenizer = make_tokenizer()
    work.mkdir(parents=True)
    tokenizer.save(work / "tokenizer.json")
    return tokenizer, (0, 0), _writers(work, tokenizer, {split: [] for split in splits})


def _resume(work: Path, key: str, splits: Iterable[str]) -> State | None:
    """Where an earlier run came to, if it built the same and its files are what they were."""
    try:
        progress = read_json(work / PROGRESS)
        if progress["key"] != key or list(progress["splits"]) != list(splits):
            return None
        tokenizer = load_tokenizer(work / "tokenizer.json")
        writers = _writers(work, tokenizer, progress["splits"])
        start = tuple(progress["next"])
    except (UserError, OSError, ValueError, LookupError, TypeError):  # not there, or damaged
        return None
    tokens = sum(shard["tokens"] for shards in progress["splits"].values() for shard in shards)
    note(f"going on after the {tokens:,} tokens in {work}")
    return tokenizer, start, writers


def _writers(
    work: Path, tokenizer: Tokenizer, shards: dict[str, list[dict[str, Any]]]
) -> dict[str, ShardWriter]:
    return {split: ShardWriter(work, split, tokenizer.dtype, s) for split, s in shards.items()}


def _flush(work: Path, key: str, next_: Cursor, writers: dict[str, ShardWriter]) -> dict[str, Any]:
    shards = {split: writer.flush() for split, writer in writers.items()}
    write_json(work / PROGRESS, {"key": key, "next": next_, "splits": shards})
    return shards
