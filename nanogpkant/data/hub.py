"""Corpora of the Hugging Face Hub, streamed: nothing is kept on the disk but the tokens."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from functools import partial
from typing import TYPE_CHECKING

from nanogpkant.base.errors import UserError
from nanogpkant.data.documents import Piece
from nanogpkant.data.network import answer, check_reachable
from nanogpkant.data.sources import Advance, Part, Source, without_surrogates

if TYPE_CHECKING:
    from datasets import IterableDataset


@dataclass(frozen=True)
class Hub:
    """Where a corpus lies on the Hub.

    Attributes:
        path: owner and name.
        config: which of its configurations; None: it has one.
        split: which of its splits is read.
        field: the column of the text.
    """

    path: str
    config: str | None = None
    split: str = "train"
    field: str = "text"


def hub_source(hub: Hub, remedy: str) -> Source:
    """The files of a split, one after another, each row a document.

    Raises:
        UserError: datasets is not installed, or the Hub cannot be reached.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"{hub.path} is read with the datasets package: pip install 'nanogpkant[data]'"
        ) from error

    def load() -> "IterableDataset":
        return datasets.load_dataset(hub.path, hub.config, split=hub.split, streaming=True)

    what = f"{hub.path} from the Hugging Face Hub"
    check_reachable(datasets.config.HF_ENDPOINT, what, remedy)
    stream = answer(load, what, remedy)
    known = (stream.info.splits or {}).get(hub.split)
    size = known.num_bytes if known and known.num_bytes else 0
    label, files = f"{hub.path} on the Hugging Face Hub", stream.num_shards
    parts = [
        Part(label, size // files, partial(_read, label, stream, hub.field, number))
        for number in range(files)
    ]
    identity = json.dumps([astuple(hub), size, files]).encode()
    return Source(label, tuple(parts), False, hashlib.sha256(identity).hexdigest())


def _read(
    label: str, stream: "IterableDataset", field: str, number: int, advance: Advance
) -> Iterator[Piece]:
    """The rows of one file of a stream."""
    if stream.num_shards > 1:
        stream = stream.shard(num_shards=stream.num_shards, index=number)
    try:
        for row in stream:
            text = row.get(field, 0)
            if not isinstance(text, str | None):
                raise UserError(f"{label} has no text in the column {field!r}")
            if text:
                advance(len(text))
                yield without_surrogates(text), True
    except UserError:
        raise
    except Exception as error:  # of datasets, of the Hub's client or of what that builds on
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"cannot read {label}: {reason}; run the same again to go on from here"
        ) from error
