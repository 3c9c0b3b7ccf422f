"""Interleaved timing of several tasks, and the rate of this machine's matrix products."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
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
            taken = samples[name]  # milliseconds
            if len(taken) < 3 or sum(taken) * calls[name] < 1000 * TASK_SECONDS:
                taken.append(1000 * seconds(task, device, calls[name]))
            progress(round_ * len(tasks) + number + 1, repeats * len(tasks))
    return {
        name: Timing(statistics.median(ms), min(ms), max(ms), len(ms))
        for name, ms in samples.items()
    }


@cache
def matmul_rate(dtype: torch.dtype, device: torch.device, size: int | None = None) -> float:
    """FLOP/s of a large square matrix product, the best of ten, measured once a process."""
    size = size or (8192 if device.type == "cuda" else 2048)
    a = torch.randn(size, size, device=device).to(dtype)
    product = torch.empty_like(a)
    torch.mm(a, a, out=product)
    best = min(seconds(lambda: torch.mm(a, a, out=product), device) for _ in range(10))
    return 2 * size**3 / best
