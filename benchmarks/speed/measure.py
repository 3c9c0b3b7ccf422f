"""All contenders on one problem: correctness, time, memory and ratios.

On a CPU, every contender is first compiled and checked, and its peak memory measured, in a child
process, so that one that hangs or crashes costs only itself. Those that pass are built again here,
checked again and timed in turn, in every setting.
"""

import functools
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.speed import gate
from benchmarks.speed.contenders import BARE, Contender, contenders
from benchmarks.speed.names import BARE_PRODUCTS, OURS, is_rival
from benchmarks.speed.problem import DTYPES, Problem, Trial
from nanogpkant.base.console import bar
from nanogpkant.base.errors import one_line
from nanogpkant.measure.peak import extra_peak, in_a_child
from nanogpkant.measure.timing import Task, Timing, interleaved, matmul_rate, seconds
from nanogpkant.report.table import Row


@dataclass(frozen=True)
class Plan:
    """How problems are measured."""

    repeats: int = 7
    limit: float = 180.0
    """seconds for a contender to compile and run once"""
    rivals: bool = True
    sweep: bool = False
    """leave out contenders without a curve"""
    seconds: float = math.inf
    """to try contenders of a problem; the rest is left out"""


@dataclass(frozen=True)
class Tryout:
    """Result of trying a contender."""

    memory: int = 0
    refused: str = ""
    """reason why it is not timed"""


LEFT_OUT = Tryout(refused="left out: time was over")


@contextmanager
def threads_of(problem: Problem) -> Iterator[None]:
    """Compute on as many threads as the problem says."""
    before = torch.get_num_threads()
    torch.set_num_threads(problem.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(problem: Problem, plan: Plan, earlier: Iterable[Row] = ()) -> list[Row]:
    """A row for every contender and for the bare products.

    Args:
        earlier: rows of this run's other problems; a setting of a rival that was slower there, at
            the same number of inputs, is not tried again.
    """
    # Else the second shape would be compiled for dynamic shapes, which is slower.
    torch.compiler.reset()
    field = _without_losers(contenders(problem, plan.rivals, plan.sweep), problem, earlier)
    bare = [BARE_PRODUCTS] if plan.sweep else list(BARE)
    # Ours and the products come first: if time runs out, other libraries are left out.
    ours = [who for who in field if not is_rival(who.name)]
    everyone = [*ours, *bare, *(who for who in field if is_rival(who.name))]
    tryouts: dict[Contender | str, Tryout] = {}
    started = time.monotonic()
    with bar(f"trying out {problem}", "contenders") as progress:
        for who in everyone:
            in_time = time.monotonic() - started < plan.seconds
            tryouts[who] = try_out(who, problem, plan.limit) if in_time else LEFT_OUT
            progress(len(tryouts), len(everyone))
    tasks = {}
    with threads_of(problem):
        for who, tryout in tryouts.items():
            try:
                if not tryout.refused:
                    tasks[who] = start(who, problem)
            except Exception as error:  # such as out of memory for all at once
                tryouts[who] = Tryout(refused=_reason(error))
        with bar(f"timing {problem}", "calls") as progress:
            timings = interleaved(tasks, plan.repeats, torch.device(problem.device), progress)
        limit = limit_ms(problem, timings)
    rows = [_row(problem, who, tryouts[who], timings.get(who)) for who in tryouts]
    return _compared(_one_of_each(rows), limit)


def start(who: Contender | str, problem: Problem) -> Task:
    """A contender that passed the gate, ready to time.

    Raises:
        GateError: its results are wrong.
    """
    if isinstance(who, str):
        return BARE[who](problem)
    trial = who.start(problem)
    gate.check_against_oracle(who, problem, trial)
    return trial


def try_out(who: Contender | str, problem: Problem, limit: float) -> Tryout:
    """Compile and check a contender and measure its memory. Never raises."""
    if isinstance(who, Contender) and not who.is_installed():
        return Tryout(refused=f"not installed: pip install {who.package}")
    try:
        if torch.device(problem.device).type == "cuda":  # its memory is counted tensor by tensor
            return _try_out(who, problem)
        return in_a_child(_try_out, who, problem, limit=limit)
    except Exception as error:  # other libraries may raise anything
        return Tryout(refused=_reason(error))


def _try_out(who: Contender | str, problem: Problem) -> Tryout:
    with threads_of(problem):
        try:
            task = start(who, problem)
        except gate.GateError as error:
            return Tryout(refused=_reason(error))
        if isinstance(who, str):
            task()  # without one-time set-up, which the gate triggers for layers
        if isinstance(task, Trial):
            task.drop_gradients()
        return Tryout(extra_peak(task, torch.device(problem.device)))


def _reason(error: Exception) -> str:
    if isinstance(error, gate.GateError):
        return f"refused: {error}"
    return f"failed: {one_line(error)[:160]}".replace("|", "/")


def _without_losers(
    field: list[Contender], problem: Problem, earlier: Iterable[Row]
) -> list[Contender]:
    key = (problem.dtype, problem.inputs, problem.features.size)
    winners = {
        row["layer"]: row["how"]
        for row in earlier
        if row["ms"] is not None and (row["dtype"], row["inputs"], row["features"]) == key
    }
    return [c for c in field if winners.get(c.name, c.how()) == c.how()]


def _one_of_each(rows: list[Row]) -> list[Row]:
    """The fastest setting of each contender that passed the gate; others are noted in ``tried``."""
    best: dict[str, Row] = {}
    for row in rows:
        held = best.setdefault(row["layer"], row)
        if (row["ms"] or math.inf) < (held["ms"] or math.inf):
            best[row["layer"]] = row
    for row in best.values():
        same = [other for other in rows if other["layer"] == row["layer"]]
        row["tried"] = {other["how"]: other["ms"] or other["gate"] for other in same}
    return list(best.values())


def _row(problem: Problem, who: Contender | str, tryout: Tryout, timing: Timing | None) -> Row:
    is_bare = isinstance(who, str)
    return {
        "shape": problem.shape,
        "rows": problem.rows,
        "inputs": problem.inputs,
        "outputs": problem.outputs,
        "features": problem.features.size,
        "dtype": problem.dtype,
        "threads": problem.threads,
        "layer": who if is_bare else who.name,
        "how": "" if is_bare else who.how(),
        "ms": timing and timing.median,
        "min": timing and timing.fastest,
        "max": timing and timing.slowest,
        "rounds": timing and timing.rounds,
        "extra MB": tryout.memory / 1e6 if timing else None,
        "gate": tryout.refused or ("no features to check" if is_bare else who.gate()),
    }


def _compared(rows: list[Row], limit: float) -> list[Row]:
    """Add ratios to the bare products, the limit and our layer."""
    by_layer = {row["layer"]: row["ms"] for row in rows}
    products, ours = by_layer[BARE_PRODUCTS], by_layer[OURS]
    for row in rows:
        ms = row["ms"]
        row["over products"] = ms / products if ms and products else None
        row["over limit"] = ms / limit if ms else None
        row["over ours"] = ms / ours if ms and ours else None
        row["limit ms"] = limit
    return rows


def limit_ms(problem: Problem, timings: dict[Any, Timing]) -> float:
    """Lower bound of a layer's time: the larger of its FLOPs' time and its bytes' time.

    The FLOP rate is the fastest of all matrix products measured, the layer's own included.
    """
    rate, speed = rates(problem.dtype, problem.device, problem.threads)
    if products := timings.get(BARE_PRODUCTS):
        rate = max(rate, problem.flops / (products.fastest / 1000))
    return 1000 * max(problem.flops / rate, problem.least_bytes / speed)


def bandwidth(device: torch.device, megabytes: int = 256) -> float:
    """Bytes/s of reading and writing main memory, the best of ten copies."""
    source = torch.zeros(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    best = min(seconds(lambda: target.copy_(source), device) for _ in range(10))
    return 2 * megabytes * 2**20 / best


@functools.cache
def rates(dtype: str, device: str, threads: int) -> tuple[float, float]:
    """FLOP/s of a large matrix product and bytes/s of main memory, measured once per run.

    ``threads`` are those in use.
    """
    return matmul_rate(DTYPES[dtype], torch.device(device)), bandwidth(torch.device(device))


def totals(rows: list[Row]) -> list[Row]:
    """Sums over all shapes, for contenders timed at every shape."""
    shapes = {row["shape"] for row in rows}
    sums = []
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        of_dtype = [row for row in rows if row["dtype"] == dtype]
        part = []
        for layer in dict.fromkeys(row["layer"] for row in of_dtype):
            own = [row for row in of_dtype if row["layer"] == layer and row["ms"] is not None]
            if {row["shape"] for row in own} == shapes:
                ms = sum(row["ms"] for row in own)
                part.append({"dtype": dtype, "layer": layer, "ms": ms})
        if {OURS, BARE_PRODUCTS} <= {row["layer"] for row in part}:
            limits = {row["shape"]: row["limit ms"] for row in of_dtype}
            sums += _compared(part, sum(limits.values()))
    return sums
