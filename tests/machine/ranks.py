"""Groups of processes on this machine that run command lines, told their ranks as torchrun does.

They are forked from one process that has imported everything, which saves seconds for each.
"""

import contextlib
import io
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from nanogpkant.base.console import console
from nanogpkant.cli import main
from nanogpkant.run.metrics import read_metrics

PRELOAD = [
    "ranks",
    "nanogpkant.training.loop",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
]
NOT_COMPARED = ("seconds", "tokens_per_second", "memory_bytes", "layers")
# Figures that rounding moves more than a loss: a norm, and shares, where one in a hundred may flip.
ROUGHER = ("grad_norm", "accuracy", "out_of_range", "unseen", "dead", "knot_use")

Command = list | Callable[[int], int | None]


@dataclass(frozen=True)
class Ended:
    """What became of one command in one process."""

    status: int
    output: str
    errors: str


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def group(size: int, *commands: Command) -> list[list[Ended]]:
    """Run commands (flags of ours, or functions of the rank), one after the other, in a group.

    Returns:
        what became of each command, by rank.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    ports, processes, ends = [free_port() for _ in commands], [], []
    for rank in range(size):
        end, other = context.Pipe(duplex=False)
        arguments = (rank, size, ports, commands, other)
        processes.append(context.Process(target=_run_rank, args=arguments, daemon=True))
        processes[-1].start()
        other.close()
        ends.append(end)
    try:
        by_rank = [_received(end, len(commands)) for end in ends]
    finally:
        for process in processes:
            process.kill()
    return [list(each) for each in zip(*by_rank, strict=True)]


def _received(end: Connection, count: int) -> list[Ended]:
    """What became of each command; -9 of those that a killed process did not end."""
    ended = []
    for _ in range(count):
        try:
            assert end.poll(280), "a process hangs"
            ended.append(end.recv())
        except EOFError:
            ended.append(Ended(-9, "", ""))
    return ended


def _run_rank(
    rank: int, size: int, ports: list[int], commands: tuple[Command], end: Connection
) -> None:
    torch.set_num_threads(1)
    console.quiet = rank > 0
    for port, command in zip(ports, commands, strict=True):
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in ranks.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", OMP_NUM_THREADS="1")
        output, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            try:
                status = command(rank) if callable(command) else main(list(map(str, command)))
            except BaseException:
                traceback.print_exc()
                status = -1
        texts = []
        for stream in (output, errors):
            stream.flush()
            texts.append(stream.buffer.getvalue().decode("utf-8"))
        end.send(Ended(status or 0, *texts))


def run_all(size: int, *commands: Command) -> None:
    """Run commands in a group; all have to succeed, and only rank 0 may say anything."""
    for ended in group(size, *commands):
        for rank, each in enumerate(ended):
            assert each.status == 0, each.errors
            assert rank == 0 or not (each.output + each.errors), each


def rows_of(run: Path) -> list[dict]:
    """A run's rows of metrics, without what depends on the machine's speed."""
    rows = read_metrics(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in NOT_COMPARED} for row in rows]


def assert_same_rows(run: Path, other: Path, rel: float = 1e-5) -> None:
    """The same steps in the same order, with the same figures but for rounding."""
    rows, others = rows_of(run), rows_of(other)
    assert [(r["step"], r["split"]) for r in rows] == [(r["step"], r["split"]) for r in others]
    for row, expected in zip(rows, others, strict=True):
        assert row.keys() == expected.keys()
        for key, value in expected.items():
            rough = {"rel": 100 * rel, "abs": 0.01} if key in ROUGHER else {"rel": rel, "abs": 1e-7}
            near = value if isinstance(value, str) else pytest.approx(value, **rough)
            assert row[key] == near, (row["step"], row["split"], key)
