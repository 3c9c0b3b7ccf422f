"""Interleaved timing of several tasks, and the rates of this machine."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from nanogpkant.machine.device import synchronize

Task = Callable[[], Any]

# A sample is as many calls as fill this: the clock and the wait for a GPU are then negligible.
SAMPLE_SECONDS = 0.02
# After this long a task stops at three rounds: slow ones vary less.
TASK_SECONDS = 6.0


@dataclass(frozen=True)
class Timing:
    """Milliseconds per call, over a few rounds."""

    median: float
    fastest: float
    slowest: float
    rounds: int


def seconds(task: Task, device: torch.device, calls: int = 1) -> float:
    """Seconds of a task, the mean of ``calls`` in a row."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(calls):
        task()
    synchronize(device)
    return (time.perf_counter() - started) / calls


def interleaved(
    tasks: dict[Any, Task],
    repeats: int,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Any, Timing]:
    """Time every task in turn, up to ``repeats`` rounds, after a round to warm up.

    Other load on the machine then slows all tasks alike.
    """
    calls = {}
    for name, task in tasks.items():
        first = seconds(task, device)
        again = first if first > 1 else seconds(task, device)  # the first may have had to set up
        calls[name] = max(1, math.ceil(SAMPLE_SECONDS / again))
    samples: dict[Any, list[float]] = {name: [] for name in tasks}
    for round_ in range(repeats):
        for number, (name, task) in enumerate(tasks.items()):
            taken = samples[name]
            if len(taken) < 3 or sum(taken) * calls[name] < TASK_SECONDS:
                taken.append(seconds(task, device, calls[name]))
            progress(round_ * len(tasks) + number + 1, repeats * len(tasks))
    return {name: _timing(taken) for name, taken in samples.items()}


def _timing(samples: list[float]) -> Timing:
    ms = [1000 * sample for sample in samples]
    return Timing(statistics.median(ms), min(ms), max(ms), len(ms))


def matmul_rate(dtype: torch.dtype, device: torch.device, size: int | None = None) -> float:
    """FLOP/s of a large square matrix product, the best of ten."""
    size = size or (8192 if device.type == "cuda" else 2048)
    a = torch.randn(size, size, device=device).to(dtype)
    product = torch.empty_like(a)
    torch.mm(a, a, out=product)
    best = min(seconds(lambda: torch.mm(a, a, out=product), device) for _ in range(10))
    return 2 * size**3 / best


def bandwidth(device: torch.device, megabytes: int = 256) -> float:
    """Bytes/s of reading and writing main memory, the best of ten copies."""
    source = torch.zeros(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    best = min(seconds(lambda: target.copy_(source), device) for _ in range(10))
    return 2 * megabytes * 2**20 / best
