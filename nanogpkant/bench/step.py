"""Whole training steps of the original's three models, of the original's own, and of a matched GPT.

Steps of all models are timed in turn; peak memory is each one's own, in a process of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jsonargparse import Namespace

from nanogpkant.bench.charts import step_bars
from nanogpkant.bench.flags import check
from nanogpkant.bench.goals import step_goals
from nanogpkant.bench.measure import Row, rates
from nanogpkant.bench.memory import ChildError, extra_peak, in_a_child
from nanogpkant.bench.names import BOOSTED, KAN, MATCHED, ORIGINAL_MODEL, PLAIN
from nanogpkant.bench.original import original_gpt
from nanogpkant.bench.report import Report, Table, machine
from nanogpkant.bench.timing import Timing, interleaved
from nanogpkant.config import ModelConfig, OptimConfig, with_changes
from nanogpkant.console import bar
from nanogpkant.counting import SHAKESPEARE_CHARACTERS, count
from nanogpkant.device import DTYPES, resolve_device, resolve_dtype
from nanogpkant.errors import UserError
from nanogpkant.model import GPT
from nanogpkant.optim import make_optimizer
from nanogpkant.presets import load_preset

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
    "put back (nanogpkant/bench/original.py); without dropout its loss and gradient were seen to "
    "equal ours.",
]


@dataclass(frozen=True)
class Job:
    """One model to be stepped."""

    name: str
    config: ModelConfig
    batch_size: int
    device: str
    dtype: str
    compile: bool = False
    vocab_size: int = SHAKESPEARE_CHARACTERS
    optim: OptimConfig = field(default_factory=OptimConfig)

    @property
    def key(self) -> tuple[str, float]:
        return self.name, self.config.dropout

    @property
    def flops(self) -> int:
        per_token = count(self.config, self.vocab_size).flops_per_token
        return per_token * self.batch_size * self.config.block_size


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
    return Report("step", title, machine(device, f"{repeats} rounds"), notes=NOTES)


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
    return [*jobs, Job(ORIGINAL_MODEL, config, batch_size, device, "float32")]


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


def timed(job: Job, timing: Timing) -> Row:
    """What a step takes: milliseconds, and how far that is from the limit."""
    rate = rates({"float32": "fp32", "bfloat16": "bf16"}[job.dtype], job.device)[0]
    return {
        "ms": timing.median,
        "min": timing.fastest,
        "max": timing.slowest,
        "rounds": timing.rounds,
        "over limit": timing.median / (1000 * job.flops / rate),
        "GFLOP/s": job.flops / timing.median / 1e6,
    }


def build(job: Job) -> GPT:
    torch.manual_seed(0)
    make = original_gpt if job.name == ORIGINAL_MODEL else GPT
    model = make(job.config, job.vocab_size).to(job.device)
    if job.compile:
        model.compile()
    return model


def batch(job: Job) -> torch.Tensor:
    """(batch_size, block_size + 1) token ids, the same at every call."""
    random = torch.Generator().manual_seed(1)
    shape = (job.batch_size, job.config.block_size + 1)
    return torch.randint(job.vocab_size, shape, generator=random).to(job.device)


def step(job: Job) -> Callable[[], None]:
    """Forward, backward, clipping and the optimiser's step, as training does them."""
    model, tokens = build(job), batch(job)
    optimizer = make_optimizer(model, job.optim, DTYPES[job.dtype])
    device = torch.device(job.device)

    def task() -> None:
        with torch.autocast(device.type, DTYPES[job.dtype], enabled=job.dtype != "float32"):
            loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return task


def check_original(job: Job) -> None:
    """The gate: without dropout, the original's model has our loss and our gradient.

    Raises:
        UserError: it has not.
    """
    config = with_changes(job.config, dropout=0.0)
    found = []
    for name in (KAN, ORIGINAL_MODEL):
        same = Job(name, config, min(2, job.batch_size), job.device, "float32")
        values = loss_and_gradients(same)  # most parameters of the two are not alike
        found.append({key: values[key] for key in ("loss", "tokens.weight")})
    require_equal(*found, 1e-3, f"{ORIGINAL_MODEL}: differs from ours")


def loss_and_gradients(job: Job) -> dict[str, torch.Tensor]:
    """Of a job's model on its batch: the loss, and each parameter's gradient by name."""
    model, tokens = build(job), batch(job)
    loss = model(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in model.named_parameters()}


def require_equal(
    ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float, problem: str
) -> None:
    """Compare values of the same names, each in units of our largest.

    Raises:
        UserError: they differ; ``problem`` says what does.
    """
    for name, value in ours.items():
        error = ((theirs[name] - value).abs().max() / value.abs().max()).item()
        if not error <= tolerance:
            raise UserError(f"{problem} by {error:.0e}: no times")


def step_memory(job: Job) -> int | None:
    """Most bytes of two whole steps, the model's own included; None where they did not fit."""
    if torch.device(job.device).type == "cuda":
        return _peak_of_steps(job)
    try:
        return in_a_child(_peak_of_steps, job)
    except ChildError:
        return None


def _peak_of_steps(job: Job) -> int:
    def two_steps() -> None:
        task = step(job)
        task()
        task()

    # What the first step of any model loads, 30 MB on a CPU, is not this model's.
    small = with_changes(job.config, n_layer=1, n_head=1, n_embd=8, mlp_ratio=4, block_size=8)
    step(replace(job, config=small, batch_size=1, compile=False))()
    return extra_peak(two_steps, torch.device(job.device))
