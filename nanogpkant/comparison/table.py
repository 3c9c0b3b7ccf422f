"""What runs cost and how well they predict, a row each."""

import io
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nanogpkant.base.console import warn
from nanogpkant.comparison.runs import Run
from nanogpkant.report.table import Row


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
    Column("step", "steps", "{:,.0f}"),
    Column("best_val_loss", "best val loss", "{:.4f}"),
    Column("val_loss", "final val loss", "{:.4f}"),
    Column("perplexity", "perplexity", "{:.2f}"),
    Column("bits_per_char", "bits/char", "{:.3f}"),
    Column("seconds", "seconds", "{:,.0f}"),
    Column("tokens_per_second", "tokens/s", "{:,.0f}"),
    Column("peak_memory_bytes", "peak memory", "{:.2f} GB", 1e-9),
)


def compare_runs(runs: list[Run]) -> list[Row]:
    """A row for each run: size, cost, and loss on the whole validation split.

    ``perplexity`` and ``bits_per_char`` belong to the best evaluation; ``seconds`` is time spent in
    training steps. Says so where the runs were trained on different data.
    """
    if len({run.fingerprint for run in runs}) > 1:
        warn("these runs were trained on different data: their losses cannot be compared")
    return [run.row() for run in runs]


def table(rows: list[Row]) -> str:
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


def _written(column: Column, row: Row) -> str:
    value = row[column.key]
    return column.form.format(value if column.scale == 1 else value * column.scale)
