"""A training step of a model: its time and its memory."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from nanogpkant.base.console import bar
from nanogpkant.config import ModelConfig, OptimConfig, RunConfig, with_changes
from nanogpkant.kan.bases import parse_share
from nanogpkant.machine.device import DTYPES, autocast, keep_freed_memory
from nanogpkant.measure.peak import ChildError, extra_peak, in_a_child
from nanogpkant.measure.timing import interleaved, matmul_rate
from nanogpkant.model.counting import SHAKESPEARE_CHARACTERS, count
from nanogpkant.model.gpt import GPT
from nanogpkant.report.table import Row
from nanogpkant.training.optim import make_optimizer


@dataclass(frozen=True)
class Job:
    """A model and the batch, device and dtype of its step."""

    name: str
    config: ModelConfig
    batch_size: int
    device: str
    dtype: str
    compile: bool = False
    vocab_size: int = SHAKESPEARE_CHARACTERS
    optim: OptimConfig = field(default_factory=OptimConfig)
    make: Callable[[ModelConfig, int], GPT] = GPT

    @property
    def flops(self) -> int:
        per_token = count(self.config, self.vocab_size).flops_per_token
        return per_token * self.batch_size * self.config.block_size


def job_of(
    name: str,
    config: RunConfig,
    vocab_size: int,
    device: torch.device,
    dtype: str,
    batch_size: int | None = None,
) -> Job:
    """The step of a run, on a device; ``batch_size`` stands in for the configuration's."""
    train = config.train
    shape = (batch_size or train.batch_size, str(device), dtype, train.compile, vocab_size)
    return Job(name, config.model, *shape, config.optim)


def step_rows(jobs: list[Job], repeats: int, with_memory: bool = True) -> list[Row]:
    """Time a training step of every job, in turn, and measure its peak memory.

    Returns:
        A row per job: milliseconds, GFLOP/s, ratios to the limit (the job's FLOPs at this machine's
        rate) and to the first job's step, and peak MB, None where they did not fit.
    """
    rows: list[Row] = [{"model": job.name, "dtype": job.dtype} for job in jobs]
    if with_memory:
        with bar("measuring memory", "models") as progress:
            for number, (row, job) in enumerate(zip(rows, jobs, strict=True), start=1):
                peak = step_memory(job)
                row["peak MB"] = None if peak is None else peak / 1e6
                progress(number, len(jobs))
    device = torch.device(jobs[0].device)
    tasks = {number: step(job) for number, job in enumerate(jobs)}
    with bar("timing steps", "steps") as progress:
        timings = interleaved(tasks, repeats, device, progress)
    for row, job, timing in zip(rows, jobs, timings.values(), strict=True):
        limit = 1000 * job.flops / matmul_rate(DTYPES[job.dtype], device)
        row |= {
            "ms": timing.median,
            "min": timing.fastest,
            "max": timing.slowest,
            "rounds": timing.rounds,
            "GFLOP/s": job.flops / timing.median / 1e6,
            "over limit": timing.median / limit,
            "over first": timing.median / timings[0].median,
        }
    return rows


def build(job: Job) -> GPT:
    torch.manual_seed(0)
    model = job.make(job.config, job.vocab_size).to(job.device)
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
    keep_freed_memory()
    model, tokens = build(job), batch(job)
    optimizer = make_optimizer(model, job.optim, DTYPES[job.dtype])

    def task() -> None:
        with autocast(torch.device(job.device), job.dtype):
            loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return task


def step_memory(job: Job) -> int | None:
    """Peak bytes of two steps, the model included; None where they did not fit."""
    try:
        if torch.device(job.device).type == "cuda":
            return _peak_of_steps(job)
        return in_a_child(_peak_of_steps, job)
    except (ChildError, torch.OutOfMemoryError):
        return None


def _peak_of_steps(job: Job) -> int:
    def two_steps() -> None:
        task = step(job)
        task()
        task()

    # The first step of any model loads libraries, 30 MB on a CPU: not counted.
    kind, groups = parse_share(job.config.kan.share)
    width = 8 * groups if kind == "group" else 8  # which the groups of a KAN divide
    small = with_changes(job.config, n_layer=1, n_head=1, n_embd=width, mlp_ratio=4, block_size=8)
    step(replace(job, config=small, batch_size=1, compile=False))()
    return extra_peak(two_steps, torch.device(job.device))
