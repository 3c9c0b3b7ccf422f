"""Encoding batches in several processes at once, with results in the order of the batches."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from threading import Thread

import numpy as np

from nanogpkant.base.errors import UserError
from nanogpkant.data.tokenizer import Tokenizer

Cursor = tuple[int, int]  # a piece of a source: number of its part, number in that part


@dataclass(frozen=True)
class Batch:
    """Text to be encoded together.

    Attributes:
        texts: (split, text, whether an end-of-text token comes after it), in the source's order.
        size: characters.
        next: where the next batch begins.
    """

    texts: list[tuple[str, str, bool]]
    size: int
    next: Cursor


def encode(tokenizer: Tokenizer, batch: Batch) -> dict[str, np.ndarray]:
    """The token ids of a batch, by split."""
    ids: dict[str, list[np.ndarray]] = {}
    for split, text, ends in batch.texts:
        into = ids.setdefault(split, [])
        into.append(tokenizer.encode(text))
        if ends:
            into.append(np.array([tokenizer.eot], dtype=tokenizer.dtype))
    return {split: np.concatenate(parts) for split, parts in ids.items()}


def encode_all(
    tokenizer: Tokenizer, batches: Iterable[Batch], workers: int
) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
    """Every batch with its token ids, in order; no more than two batches a worker are held.

    Args:
        tokenizer: sent to each worker once.
        batches: read as results are asked for.
        workers: processes; 1 works in this one.

    Raises:
        UserError: a worker was killed, or a text cannot be encoded.
    """
    if workers == 1:
        for batch in batches:
            yield batch, encode(tokenizer, batch)
        return
    context = multiprocessing.get_context("spawn")  # a fork may copy another thread's held lock
    waiting: deque = deque()
    pool = ProcessPoolExecutor(workers, context, _start, (tokenizer,))
    try:
        for batch in batches:
            waiting.append((batch, pool.submit(_encode, batch)))
            if len(waiting) == 2 * workers:
                first, ids = waiting.popleft()
                yield first, ids.result()
        for batch, ids in waiting:
            yield batch, ids.result()
    except BrokenProcessPool as error:
        remedy = "if memory ran out, give fewer --workers"
        raise UserError(f"a worker process was killed: run the same again; {remedy}") from error
    finally:
        pool.shutdown(cancel_futures=True)


_tokenizer: Tokenizer  # a worker's own


def _start(tokenizer: Tokenizer) -> None:
    """Make a worker ready: it leaves Ctrl-C to its parent, and does not outlive it."""
    global _tokenizer
    _tokenizer = tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _encode(batch: Batch) -> dict[str, np.ndarray]:
    return encode(_tokenizer, batch)
