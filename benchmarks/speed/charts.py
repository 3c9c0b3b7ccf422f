"""Charts of the benchmarks."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.speed.measure import totals
from benchmarks.speed.names import BARE_PRODUCTS, KAN, OURS, is_rival
from nanogpkant.report.table import Row, cell

OUR_COLOUR, BARE_COLOUR, RIVAL_COLOUR = "#c8553d", "#9aa5b1", "#588b8b"


def _colour(layer: str) -> str:
    if layer.startswith(OURS):
        return OUR_COLOUR
    return RIVAL_COLOUR if is_rival(layer) else BARE_COLOUR


def bars(
    axes: Axes,
    values: dict[str, float],
    unit: str,
    colour: Callable[[str], str],
    line: float | None = None,
) -> None:
    """Horizontal bars with their values, the shortest on top, and a vertical reference line."""
    names = sorted(values, key=values.__getitem__)
    drawn = axes.barh(names, [values[name] for name in names], color=[colour(n) for n in names])
    axes.bar_label(drawn, fmt=cell, padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel=unit)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    if line is not None:
        axes.axvline(line, color="black", lw=0.8, ls="--")


def layer_bars(rows: list[Row], part: str, out: Path) -> None:
    """Total time over all shapes, a panel per dtype; the dashed line is the three products."""
    summed = totals(rows)
    dtypes = list(dict.fromkeys(row["dtype"] for row in summed))
    figure = Figure(figsize=(6 * max(1, len(dtypes)), 4.2), layout="constrained")
    panels = figure.subplots(1, max(1, len(dtypes)), squeeze=False)[0]
    for axes, dtype in zip(panels, dtypes, strict=False):  # an empty panel if there are no rows
        values = {row["layer"]: row["ms"] for row in summed if row["dtype"] == dtype}
        bars(axes, values, "ms, less is better", _colour, values[BARE_PRODUCTS])
        axes.set_title(dtype)
    shapes = ", ".join(dict.fromkeys(row["shape"] for row in rows))
    title = f"Forward and backward of {shapes}, {part}; dashed: the three products alone"
    figure.suptitle(title, fontsize=10)
    figure.savefig(out, dpi=140)


def sweep_lines(rows: list[Row], sweep: str, out: Path) -> None:
    """Time relative to the three products, along a sweep."""
    key = {"grid": "features", "width": "inputs", "batch": "rows"}[sweep]
    label = {"grid": "features of an input", "width": "width", "batch": "rows in a batch"}[sweep]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    series: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row["over products"] is not None:
            point = (row[key], row["over products"])
            series.setdefault((row["layer"], row["dtype"]), []).append(point)
    for (layer, dtype), points in series.items():
        style = {"color": OUR_COLOUR, "lw": 2.5} if layer == OURS else {}
        axes.plot(*zip(*points, strict=True), marker="o", ms=3, label=f"{layer}, {dtype}", **style)
    axes.set(xscale="log", xlabel=label, ylabel="times the three products")
    axes.set_ylim(bottom=0)
    axes.set_xticks(sorted({row[key] for row in rows}), minor=False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=140)


def step_bars(rows: list[Row], out: Path) -> None:
    """Time and peak memory of every model's training step."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    time, memory = figure.subplots(1, 2, sharey=False)
    for axes, key, unit in ((time, "ms", "ms a step"), (memory, "peak MB", "peak MB")):
        values = {f"{row['model']}, dropout {row['dropout']}": row[key] for row in rows}
        bars(axes, values, f"{unit}, less is better", _model_colour)
        axes.tick_params(axis="y", labelsize=7)
    figure.savefig(out, dpi=140)


def _model_colour(model: str) -> str:
    if model.startswith(KAN):
        return OUR_COLOUR
    return BARE_COLOUR if model.startswith("shakespeare") else RIVAL_COLOUR


def sample_bars(rows: list[Row], out: Path) -> None:
    """Characters per second, with and without the cache."""
    figure = Figure(figsize=(6, 2), layout="constrained")
    values = {row["sampling"]: row["tokens/s"] for row in rows}
    bars(figure.subplots(), values, "tokens/s, more is better", lambda name: OUR_COLOUR)
    figure.savefig(out, dpi=140)
