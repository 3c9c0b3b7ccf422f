"""Training steps, or sampling, of several presets side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanogpkant.base.answer import Answer
from nanogpkant.base.files import write_atomic, write_json
from nanogpkant.config import load_preset, with_changes
from nanogpkant.machine.device import measured_on, resolve_device, resolve_dtype
from nanogpkant.measure.plan import require_positive, vocab_size_of
from nanogpkant.measure.sampling import sampling_rows, untrained
from nanogpkant.measure.step import Job, job_of, step_rows
from nanogpkant.model.gpt import GPT
from nanogpkant.report.table import Row, aligned, markdown

STEP_COLUMNS = {
    "model": "model",
    "batch": "batch",
    "ms": "ms",
    "min": "min",
    "max": "max",
    "GFLOP/s": "GFLOP/s",
    "over first": "/ first",
    "over limit": "/ limit",
    "peak MB": "peak MB",
}
SAMPLE_COLUMNS = {
    "model": "model",
    "sampling": "sampling",
    "tokens/s": "tokens/s",
    "ms/token": "ms/token",
    "min": "min",
    "max": "max",
    "speed-up": "speed-up",
    "over first": "/ first",
}


@dataclass(frozen=True)
class Bench(Answer):
    """A row per model (and, for sampling, with and without the cache). Times are medians in ms.

    "/ first" is the ratio to the first model's time; "/ limit" is the ratio to the time of the
    model's FLOPs at this machine's rate of a large matrix product.
    """

    machine: str
    rows: list[Row]
    columns: dict[str, str]
    """keys of the rows that the table shows, and their headings"""

    def as_dict(self) -> dict:
        return {"machine": self.machine, "rows": self.rows}

    def words(self) -> str:
        return f"{self.machine}\n\n{aligned(self.rows, self.columns)}"

    def save(self, file: Path) -> None:
        """Write JSON or, to any other file, a Markdown table."""
        if file.suffix == ".json":
            write_json(file, self.as_dict())
        else:
            write_atomic(file, f"{self.machine}\n\n{markdown(self.rows, self.columns)}\n")


def bench_steps(
    presets: Sequence[str],
    *,
    batch_size: int | None,
    vocab_size: int | None,
    compile: bool,
    device: str,
    dtype: str,
    repeats: int,
) -> Bench:
    """Time training steps; see ``nanogpkant bench``.

    Raises:
        UsageError: flags that cannot work.
    """
    require_positive(batch_size=batch_size, vocab_size=vocab_size, repeats=repeats)
    where = resolve_device(device, "--device")
    dtype = resolve_dtype(dtype, where, "--dtype")
    jobs: list[Job] = []
    for preset in presets:
        name, config = load_preset(preset)
        config = with_changes(config, **{"train.compile": compile or config.train.compile})
        size = vocab_size or vocab_size_of(config)
        jobs.append(job_of(name, config, size, where, dtype, batch_size))
    rows = step_rows(jobs, repeats)
    for row, job in zip(rows, jobs, strict=True):
        row["batch"] = f"{job.batch_size} x {job.config.block_size}"
    return Bench(measured_on(where, f"{dtype}, {repeats} rounds"), rows, STEP_COLUMNS)


def bench_sampling(
    presets: Sequence[str], *, tokens: int, vocab_size: int | None, device: str, repeats: int
) -> Bench:
    """Time sampling in float32; see ``nanogpkant bench``.

    Raises:
        UsageError: flags that cannot work.
        UserError: a model draws another text with the cache than without.
    """
    require_positive(tokens=tokens, vocab_size=vocab_size, repeats=repeats)
    where = resolve_device(device, "--device")
    models: list[tuple[str, GPT]] = []
    for preset in presets:
        name, config = load_preset(preset)
        size = vocab_size or vocab_size_of(config)
        models.append((name, untrained(config.model, size, where)))
    rows = sampling_rows(models, tokens, repeats, where)
    return Bench(measured_on(where, f"{repeats} rounds"), rows, SAMPLE_COLUMNS)
