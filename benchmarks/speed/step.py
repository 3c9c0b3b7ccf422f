"""Training steps of the original's three presets, a matched GPT, and the original model.

Or, in a sweep, of a KAN, a GPT and a GPT with curves of distance as they get deeper or read more.
"""

from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch

from benchmarks.speed.charts import step_bars, step_lines
from benchmarks.speed.equal import loss_and_gradients, require_equal
from benchmarks.speed.goals import step_goals
from benchmarks.speed.names import BOOSTED, KAN, MATCHED, ORIGINAL_MODEL, PLAIN
from benchmarks.speed.original import original_gpt
from benchmarks.speed.report import Report, Table, require_above_zero
from nanogpkant.config import load_preset, with_changes
from nanogpkant.machine.device import measured_on, resolve_device, resolve_dtype
from nanogpkant.measure.step import Job, step_rows
from nanogpkant.model.gpt import GPT
from nanogpkant.report.table import Row

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
SWEEP_COLUMNS = {
    "layers": "layers",
    "context": "context",
    "sequences": "sequences",
    **{key: name for key, name in COLUMNS.items() if key not in ("dropout", "over KAN")},
}
LAYERS, CONTEXTS = (1, 2, 4, 8, 16), (64, 128, 256, 512, 1024)
TOKENS = 256  # of a sequence, but in a sweep
NOTES = [
    "Medians of interleaved rounds; a step is forward, backward, clipping and AdamW. The limit is "
    "the model's FLOPs at this machine's rate of a large matrix product of that dtype.",
    "Peak memory is that of two steps, weights and optimiser included, over a process that has all "
    "libraries loaded.",
    f'"{ORIGINAL_MODEL}" is our GPT with the original\'s eager layers, attention dropout and dtype '
    "(benchmarks/speed/original.py); without dropout its loss and gradient equalled ours.",
]


def run(
    *,
    batch_size: int = 8,
    sweep: Literal["layers", "context"] | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    compile: bool = False,
    device: str = "auto",
    repeats: int = 7,
    out: str | None = None,
) -> Report:
    """Time whole training steps of the original's models.

    Args:
        batch_size: sequences of 256 tokens; as many tokens along a sweep.
        sweep: time along the number of layers (1 to 16) or the context (64 to 1024 tokens).
        dtype: of the matrix products; auto is the one that the device is fast at.
        compile: compile our models; the original's stays eager.
        device: auto, cpu, cuda, cuda:N or mps.
        repeats: timed rounds; slow models get fewer, at least 3.
        out: folder for the tables (.json, .md) and the chart (.png).

    Raises:
        UsageError: flags that cannot work here.
        UserError: the original's model computes another function than ours.
    """
    require_above_zero(repeats=repeats, batch_size=batch_size)
    where = resolve_device(device, "--device")
    title = f"A training step of {batch_size} x {TOKENS} tokens"
    machine, on = measured_on(where, f"{repeats} rounds"), str(where)
    report = Report("step", title, machine, notes=NOTES)
    kind = resolve_dtype(dtype, where, "--dtype")
    if sweep:
        report.name, report.notes = f"step_{sweep}", NOTES[:2]
        rows = measure_along(sweep_jobs(sweep, batch_size, on, kind, compile), repeats)
        report.tables.append(Table(f"{title}, along the {sweep}", rows, SWEEP_COLUMNS))
        report.draw = partial(step_lines, rows, sweep)
        report.save(out)
        return report
    jobs = jobs_for(batch_size, on, kind, compile)
    fill(report, measure(jobs, repeats), where)
    report.save(out)
    return report


def fill(report: Report, rows: list[Row], device: torch.device) -> None:
    report.tables.append(Table(report.title, rows, COLUMNS))
    report.goals += step_goals(rows, device.type == "cuda")
    report.draw = partial(step_bars, rows)


def jobs_for(
    batch_size: int, device: str, dtype: str, compile: bool = False, **changes: Any
) -> list[Job]:
    """Every preset with and without dropout, and the original model; ``changes`` apply to all."""
    jobs = []
    for dropout in (0.0, 0.2):
        for name in (KAN, PLAIN, BOOSTED, MATCHED):
            config = with_changes(load_preset(name)[1].model, dropout=dropout, **changes)
            jobs.append(Job(name, config, batch_size, device, dtype, compile))
    config = with_changes(load_preset(KAN)[1].model, dropout=0.2, **changes)
    return [*jobs, Job(ORIGINAL_MODEL, config, batch_size, device, "float32", make=original_gpt)]


def sweep_jobs(
    sweep: str, batch_size: int, device: str, dtype: str, compile: bool = False, **changes: Any
) -> list[Job]:
    """A KAN, a GPT and a GPT with curves of distance, without dropout, along a sweep."""
    jobs = []
    setting, values = ("n_layer", LAYERS) if sweep == "layers" else ("block_size", CONTEXTS)
    for value in values:
        for preset, position in ((KAN, "learned"), (PLAIN, "learned"), (PLAIN, "curve")):
            own = {"dropout": 0.0, "position": position, setting: value} | changes
            config = with_changes(load_preset(preset)[1].model, **own)
            name = preset if position == "learned" else f"{preset}, {position}"
            sequences = max(1, batch_size * TOKENS // config.block_size)
            jobs.append(Job(name, config, sequences, device, dtype, compile))
    return jobs


def measure_along(jobs: list[Job], repeats: int) -> list[Row]:
    """A row per job, with its depth, context and sequences."""
    return [
        {
            **row,
            "layers": job.config.n_layer,
            "context": job.config.block_size,
            "sequences": job.batch_size,
        }
        for row, job in zip(step_rows(jobs, repeats), jobs, strict=True)
    ]


def measure(jobs: list[Job], repeats: int) -> list[Row]:
    """A row per job.

    Raises:
        UserError: the original model computes another function than ours.
    """
    check_original(jobs[-1])
    rows = step_rows(jobs, repeats)
    for row, job in zip(rows, jobs, strict=True):
        row["dropout"] = job.config.dropout
    kan = {row["dropout"]: row["ms"] for row in rows if row["model"] == KAN}
    return [row | {"over KAN": row["ms"] / kan[row["dropout"]]} for row in rows]


def check_original(job: Job) -> None:
    """The gate: without dropout, the original model has our loss and gradient.

    Raises:
        UserError: they differ.
    """
    config = with_changes(job.config, dropout=0.0)
    found = []
    same = replace(job, config=config, batch_size=min(2, job.batch_size))
    for model in (replace(same, name=KAN, make=GPT), same):
        values = loss_and_gradients(model)  # their other parameters are laid out differently
        found.append({key: values[key] for key in ("loss", "tokens.weight")})
    require_equal(*found, 1e-3, f"{ORIGINAL_MODEL}: differs from ours")
