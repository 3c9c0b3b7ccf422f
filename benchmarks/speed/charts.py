"""Charts of the benchmarks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.speed.measure import totals
from benchmarks.speed.names import BARE_PRODUCTS, KAN, OURS, is_rival
from nanogpkant.report.table import Row, cell

SWEEPS = {  # the number that a row has, and its name
    "grid": ("features", "features of an input"),
    "width": ("inputs", "width"),
    "batch": ("rows", "rows in a batch"),
    "threads": ("threads", "threads"),
}
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
    title = f"Forward and backward of {shapes}\n{part}; dashed: the three products alone"
    figure.suptitle(title, fontsize=10)
    figure.savefig(out, dpi=140)


def sweep_lines(rows: list[Row], sweep: str, out: Path) -> None:
    """Time relative to the three products, along a sweep."""
    key, label = SWEEPS[sweep]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for layer, dtype in dict.fromkeys((row["layer"], row["dtype"]) for row in rows):
        own = [row for row in rows if (row["layer"], row["dtype"]) == (layer, dtype)]
        style = {"color": OUR_COLOUR, "lw": 2.5} if layer == OURS else {}
        _line(axes, own, key, "over products", label=f"{layer}, {dtype}", **style)
    axes.set(xlabel=label, ylabel="times the three products")
    _along(axes, {row[key] for row in rows})
    figure.savefig(out, dpi=140)


def step_lines(rows: list[Row], sweep: str, out: Path) -> None:
    """Time and peak memory of every model's training step, along a sweep."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, key, unit in zip(panels, ("ms", "peak MB"), ("ms a step", "peak MB"), strict=True):
        for model in dict.fromkeys(row["model"] for row in rows):
            own = [row for row in rows if row["model"] == model]
            _line(axes, own, sweep, key, label=model)
        axes.set(xlabel=sweep, ylabel=unit)
        _along(axes, {row[sweep] for row in rows})
    figure.savefig(out, dpi=140)


def _line(axes: Axes, rows: list[Row], x: str, y: str, **style: Any) -> None:
    points = [(row[x], row[y]) for row in rows if row[y] is not None]
    if points:
        axes.plot(*zip(*points, strict=True), marker="o", ms=3, **style)


def _along(axes: Axes, values: set[float]) -> None:
    """A logarithmic axis with these values, from 0 up."""
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xticks(sorted(values), minor=False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


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
