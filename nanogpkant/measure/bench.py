"""Training steps, or sampling, of several presets side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanogpkant.base.answer import Answer
from nanogpkant.base.errors import require_positive
from nanogpkant.base.files import write_atomic, write_json
from nanogpkant.config import load_preset, with_changes
from nanogpkant.machine.device import measured_on, resolve_device, resolve_dtype
from nanogpkant.measure.plan import vocab_size_of
from nanogpkant.measure.sampling import sampling_rows, untrained
from nanogpkant.measure.step import job_of, step_rows
from nanogpkant.report.table import Row, aligned, markdown

RATIOS = {"over first": "/ first", "over limit": "/ limit"}
STEP_COLUMNS = ("model", "batch", "ms", "min", "max", "GFLOP/s", *RATIOS, "peak MB")
SAMPLE_COLUMNS = (
    "model", "sampling", "tokens/s", "ms/token", "min", "max", "speed-up", "over first"
)  # fmt: skip


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
    batch_size: int | None,
    vocab_size: int | None,
    compile: bool,
    device: str,
    dtype: str,
    repeats: int,
) -> Bench:
    """Time training steps; see ``verbs.measure.bench``."""
    require_positive(batch_size=batch_size, vocab_size=vocab_size, repeats=repeats)
    where = resolve_device(device, "--device")
    dtype = resolve_dtype(dtype, where, "--dtype")
    jobs = []
    for preset in presets:
        name, config = load_preset(preset)
        config = with_changes(config, **{"train.compile": compile or config.train.compile})
        size = vocab_size or vocab_size_of(config)
        jobs.append(job_of(name, config, size, where, dtype, batch_size))
    rows = step_rows(jobs, repeats)
    for row, job in zip(rows, jobs, strict=True):
        row["batch"] = f"{job.batch_size} x {job.config.block_size}"
    columns = {name: RATIOS.get(name, name) for name in STEP_COLUMNS}
    return Bench(measured_on(where, f"{dtype}, {repeats} rounds"), rows, columns)


def bench_sampling(
    presets: Sequence[str], tokens: int, vocab_size: int | None, device: str, repeats: int
) -> Bench:
    """Time sampling in float32; see ``verbs.measure.bench``."""
    require_positive(tokens=tokens, vocab_size=vocab_size, repeats=repeats)
    where = resolve_device(device, "--device")
    models = []
    for preset in presets:
        name, config = load_preset(preset)
        models.append((name, untrained(config.model, vocab_size or vocab_size_of(config), where)))
    rows = sampling_rows(models, tokens, repeats, where)
    columns = {name: RATIOS.get(name, name) for name in SAMPLE_COLUMNS}
    return Bench(measured_on(where, f"{repeats} rounds"), rows, columns)
