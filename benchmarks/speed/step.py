"""Whole training steps of the original's three models, of the original's own, and of a matched GPT.

Steps of all models are timed in turn; peak memory is each one's own, in a process of its own.
"""

from dataclasses import replace
from functools import partial

import torch
from jsonargparse import Namespace

from benchmarks.speed.charts import step_bars
from benchmarks.speed.flags import check
from benchmarks.speed.goals import step_goals
from benchmarks.speed.names import BOOSTED, KAN, MATCHED, ORIGINAL_MODEL, PLAIN
from benchmarks.speed.original import original_gpt
from benchmarks.speed.report import Report, Table
from nanogpkant.base.console import bar
from nanogpkant.config import load_preset, with_changes
from nanogpkant.machine.device import measured_on, resolve_device, resolve_dtype
from nanogpkant.measure.step import (
    Job,
    Row,
    loss_and_gradients,
    require_equal,
    step,
    step_memory,
    timed,
)
from nanogpkant.measure.timing import Timing, interleaved
from nanogpkant.model.gpt import GPT

COLUMNS = {
    "model": "model",
    "dropout": "dropout",
    "dtype": "dtype",
    "ms": "ms",
    "min": "min",
    "max": "max",
    "over KAN": "times the KAN's step",
    "over limit": "times the limit",
    "GFLOP/s": "GFLOP/s",
    "peak MB": "peak MB",
}
NOTES = [
    "Medians of interleaved rounds; a step is forward, backward, clipping and AdamW. The limit is "
    "the model's FLOPs at this machine's rate of a large matrix product of that dtype.",
    "Peak memory is of everything that two steps need, weights and optimiser included, over a "
    "process that has all libraries loaded.",
    f'"{ORIGINAL_MODEL}" is our GPT with the original\'s eager layers, attention dropout and dtype '
    "put back (benchmarks/speed/original.py); without dropout its loss and gradient were seen to "
    "equal ours.",
]


def run(options: Namespace) -> Report:
    """``nanogpkant bench step``."""
    check(options, "repeats", "batch_size")
    device = resolve_device(options.device, "--device")
    dtype = resolve_dtype(options.dtype, device, "--dtype")
    report = start_report(options.batch_size, options.repeats, device)
    jobs = jobs_for(options.batch_size, str(device), dtype, options.compile)
    fill(report, measure(jobs, options.repeats), device)
    report.save(options.out)
    return report


def start_report(batch_size: int, repeats: int, device: torch.device) -> Report:
    title = f"A training step of {batch_size} x 256 tokens"
    return Report("step", title, measured_on(device, f"{repeats} rounds"), notes=NOTES)


def fill(report: Report, rows: list[Row], device: torch.device) -> None:
    report.tables.append(Table(report.title, rows, COLUMNS))
    report.goals += step_goals(rows, device.type == "cuda")
    report.draw = partial(step_bars, rows)


def jobs_for(
    batch_size: int, device: str, dtype: str, compile: bool = False, **changes: object
) -> list[Job]:
    """Every model with and without dropout, and the original's; ``changes`` go to each config."""
    jobs = []
    for dropout in (0.0, 0.2):
        for name in (KAN, PLAIN, BOOSTED, MATCHED):
            config = with_changes(load_preset(name)[1].model, dropout=dropout, **changes)
            jobs.append(Job(name, config, batch_size, device, dtype, compile))
    config = with_changes(load_preset(KAN)[1].model, dropout=0.2, **changes)
    return [*jobs, Job(ORIGINAL_MODEL, config, batch_size, device, "float32", make=original_gpt)]


def measure(jobs: list[Job], repeats: int) -> list[Row]:
    """A row for each job.

    Raises:
        UserError: the original's model is not the same function as ours.
    """
    device = torch.device(jobs[0].device)
    check_original(jobs[-1])
    peaks = {}
    with bar("measuring memory", "models") as progress:
        for job in jobs:
            peaks[job.key] = step_memory(job)
            progress(len(peaks), len(jobs))
    tasks = {job.key: step(job) for job in jobs}
    with bar("timing steps", "steps") as progress:
        timings = interleaved(tasks, repeats, device, progress)
    return [_row(job, timings, peaks[job.key]) for job in jobs]


def _row(job: Job, timings: dict[tuple[str, float], Timing], peak: int | None) -> Row:
    timing, kan = timings[job.key], timings[KAN, job.config.dropout]
    row = {"model": job.name, "dropout": job.config.dropout, "dtype": job.dtype}
    row |= timed(job, timing) | {"over KAN": timing.median / kan.median}
    return row | {"peak MB": None if peak is None else peak / 1e6}


def check_original(job: Job) -> None:
    """The gate: without dropout, the original's model has our loss and our gradient.

    Raises:
        UserError: it has not.
    """
    config = with_changes(job.config, dropout=0.0)
    found = []
    same = replace(job, config=config, batch_size=min(2, job.batch_size))
    for model in (replace(same, name=KAN, make=GPT), same):
        values = loss_and_gradients(model)  # most parameters of the two are not alike
        found.append({key: values[key] for key in ("loss", "tokens.weight")})
    require_equal(*found, 1e-3, f"{ORIGINAL_MODEL}: differs from ours")
