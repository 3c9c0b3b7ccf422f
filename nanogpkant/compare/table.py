"""What runs cost and how well they predict, a row each."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nanogpkant.checkpoint import open_run, read_metrics
from nanogpkant.config import load_config
from nanogpkant.console import warn
from nanogpkant.counting import count
from nanogpkant.data import load_tokenizer
from nanogpkant.errors import UserError


@dataclass(frozen=True)
class Column:
    """One column of the table: its key in a row, its heading, and how its value is written."""

    key: str
    heading: str
    form: str
    scale: float = 1.0


COLUMNS = (
    Column("run", "run", "{}"),
    Column("parameters", "parameters", "{:.2f} M", 1e-6),
    Column("flops_per_token", "FLOPs/token", "{:.1f} M", 1e-6),
    Column("step", "steps", "{:,}"),
    Column("best_val_loss", "best val loss", "{:.4f}"),
    Column("val_loss", "final val loss", "{:.4f}"),
    Column("perplexity", "perplexity", "{:.2f}"),
    Column("bits_per_char", "bits/char", "{:.3f}"),
    Column("seconds", "seconds", "{:,.0f}"),
    Column("tokens_per_second", "tokens/s", "{:,.0f}"),
    Column("peak_memory_bytes", "peak memory", "{:.2f} GB", 1e-9),
)


def compare_runs(paths: list[Path]) -> list[dict[str, Any]]:
    """A row for each run: size, cost, and loss on the whole validation split.

    ``perplexity`` and ``bits_per_char`` belong to the best evaluation; ``seconds`` is time spent in
    training steps. Says so where the runs were trained on different data.

    Raises:
        UserError: a folder that is not a run, or a run that was never evaluated.
    """
    rows = [_row(path) for path in paths]
    if len({row["data_fingerprint"] for row in rows}) > 1:
        warn("these runs were trained on different data: their losses cannot be compared")
    return rows


def _row(path: Path) -> dict[str, Any]:
    run = open_run(path)
    config, metrics = load_config(run.config_file), read_metrics(run.metrics_file)
    evaluations = [row for row in metrics if row["split"] == "val"]
    if not evaluations:
        raise UserError(f"{path} has no evaluation yet: let it train on with --resume")
    best = min(evaluations, key=lambda row: row["loss"])
    last = evaluations[-1]
    tokens = last["step"] * config.train.batch_size * config.train.grad_accum_steps
    tokens *= config.model.block_size
    counted = count(config.model, load_tokenizer(run.tokenizer_file).vocab_size)
    # Grids that changed: a coefficient more is a multiply and an add more, in each of 3 products.
    changes = [row["parameters"] for row in metrics if row["split"] == "grid_change"]
    added = changes[-1] - counted.parameters if changes else 0
    return {
        "run": path.name,
        "parameters": counted.parameters + added,
        "parameters_without_positions": counted.parameters_without_positions + added,
        "flops_per_token": counted.flops_per_token + 6 * added,
        "step": last["step"],
        "best_val_loss": best["loss"],
        "val_loss": last["loss"],
        "perplexity": best["perplexity"],
        "bits_per_char": best["bits_per_char"],
        "accuracy": best["accuracy"],
        "seconds": last["seconds"],
        "tokens_per_second": tokens / last["seconds"] if last["seconds"] else 0.0,
        "peak_memory_bytes": max(row.get("memory_bytes", 0) for row in metrics),
        "data_fingerprint": run.data_fingerprint(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a text table, a run a column so that it fits a narrow terminal."""
    grid = Table(box=None, pad_edge=False)
    grid.add_column("")
    for row in rows:
        grid.add_column(escape(row["run"]), justify="right")
    for column in COLUMNS[1:]:
        grid.add_row(column.heading, *(_written(column, row) for row in rows))
    console = Console(file=io.StringIO(), width=40 + 40 * len(rows))
    console.print(grid)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def _written(column: Column, row: dict[str, Any]) -> str:
    value = row[column.key]
    return column.form.format(value if column.scale == 1 else value * column.scale)
