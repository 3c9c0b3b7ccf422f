"""Size, cost and losses of runs, a row each."""

from nanogpkant.base.console import painted, warn
from nanogpkant.comparison.runs import Run
from nanogpkant.report.table import Row, align
from nanogpkant.report.theme import colour_of

# Key in a row: heading, format and scale.
COLUMNS = {
    "parameters": ("parameters", "{:.2f} M", 1e-6),
    "flops_per_token": ("FLOPs/token", "{:.1f} M", 1e-6),
    "step": ("steps", "{:,.0f}", 1),
    "best_val_loss": ("best val loss", "{:.4f}", 1),
    "val_loss": ("final val loss", "{:.4f}", 1),
    "perplexity": ("perplexity", "{:.2f}", 1),
    "bits_per_char": ("bits/token", "{:.3f}", 1),
    "seconds": ("seconds", "{:,.0f}", 1),
    "tokens_per_second": ("tokens/s", "{:,.0f}", 1),
    "peak_memory_bytes": ("peak memory", "{:.2f} GB", 1e-9),
}


def compare_runs(runs: list[Run]) -> list[Row]:
    """A row for each run: size, cost, and loss on the whole validation split.

    ``perplexity`` and ``bits_per_char`` belong to the best evaluation; ``seconds`` is time spent in
    training steps. Warns if the runs were trained on different data.
    """
    if len({run.fingerprint for run in runs}) > 1:
        warn("these runs were trained on different data: their losses cannot be compared")
    return [run.row() for run in runs]


def table(rows: list[Row], colours: list[int]) -> str:
    """The rows as text, one run a column, so that they fit a narrow terminal.

    Args:
        colours: number of each row's colour, which its name has.
    """
    lines = [["", *(row["run"] for row in rows)]]
    for key, (heading, form, scale) in COLUMNS.items():
        lines.append([heading, *(form.format(row[key] * scale) for row in rows)])
    head, *rest = align(lines).split("\n")
    names = ""
    for row, colour in reversed(list(zip(rows, colours, strict=True))):
        head, _, after = head.rpartition(row["run"])
        names = painted(row["run"], colour_of(colour)) + after + names
    return "\n".join([head + names, *rest])
