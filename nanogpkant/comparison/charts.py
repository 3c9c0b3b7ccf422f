"""The report's charts: every variant's mean over its seeds, as SVG for the page and as PNG.

The page's text and lines have placeholder colours, which become those of its theme.
"""

import html
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, PercentFormatter

from nanogpkant.base.files import writing
from nanogpkant.comparison.findings import Findings
from nanogpkant.comparison.references import Reference
from nanogpkant.comparison.runs import AXES, Run
from nanogpkant.comparison.statistics import mean_and_spread

# Told apart on white and on black, and by most colour-blind eyes.
COLOURS = ("#c8553d", "#2f7fb0", "#6a9a2d", "#9460b8", "#c08a1e", "#3a9d8f", "#b84f86", "#7b8794")
REFERENCE_COLOUR = "#8a8f98"
DASHES = ((4, 2), (1, 1.5), (6, 2, 1, 2), (8, 3), (2, 2, 6, 2))
# Of the page's pictures: stand for its text and for its faint lines.
INK, FAINT = "#010203", "#040506"
# Ends of curves this many times apart are drawn on a logarithmic axis.
LOGARITHMIC_BEYOND = 4.0
CLOSE_TICKS_BELOW = 200.0  # times the start of such an axis: there is room for 1, 2, 5, 10
GRID_MEASURES = {
    "out_of_range": "inputs outside the grid, worst layer",
    "dead": "splines that see no input, worst layer",
}

Draw = Callable[[Axes], None]
Dashes = tuple[float, ...]  # lengths of dash and gap in turn, in widths of the line


def colour_of(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def dashes_of(number: int) -> Dashes:
    return DASHES[number % len(DASHES)]


def loss_charts(findings: Findings, references: list[Reference]) -> dict[str, Draw]:
    """Validation loss against everything that was spent, by the name of what that was."""
    return {
        AXES[axis]: lambda axes, axis=axis: _losses(axes, axis, findings, references)
        for axis in AXES
    }


def grid_charts(findings: Findings) -> dict[str, Draw]:
    """How well the grids fitted while training went on; {} where no run has any."""
    if not any(run.grid_rows for variant in findings.variants for run in variant.runs):
        return {}
    return {
        words: lambda axes, key=key, words=words: _grids(axes, key, words, findings)
        for key, words in GRID_MEASURES.items()
    }


def _losses(axes: Axes, axis: str, findings: Findings, references: list[Reference]) -> None:
    ends, starts = [], []
    for number, variant in enumerate(findings.variants):
        curves = [(getattr(run.curve, axis), run.curve.losses) for run in variant.runs]
        x, mean, spread = mean_and_spread(curves)
        colour, name = colour_of(number), f"{axis}-v{number}"
        dots = {"marker": "o", "ms": 2.5} if len(curves) == 1 else {}
        axes.plot(x, mean, color=colour, lw=1.8, gid=f"{name}-line", **dots)
        if spread.any():
            low, high = mean - spread, mean + spread
            axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0, gid=f"{name}-band")
        ends, starts = [*ends, x[-1]], [*starts, *x[x > 0][:1]]
    for reference, dashes in _dashed(references, axis):
        x = reference.axes[axis]
        axes.plot(x, reference.losses, color=REFERENCE_COLOUR, lw=1.3, dashes=dashes)
        ends, starts = [*ends, x[-1]], [*starts, *x[x > 0][:1]]
    if max(ends) > LOGARITHMIC_BEYOND * min(ends) > 0:
        axes.set_xscale("log", nonpositive="mask")
        axes.set_xlim(left=min(starts))
        is_short = max(ends) < CLOSE_TICKS_BELOW * min(starts)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_short else (1,)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set(xlabel=AXES[axis], ylabel="validation loss, nats per token")
    axes.set_ylim(*_heights(findings, references))


def _dashed(references: list[Reference], axis: str) -> Iterator[tuple[Reference, Dashes]]:
    """The references that are known on an axis, each with its dashes, the same on all axes."""
    for number, reference in enumerate(references):
        if axis in reference.axes:
            yield reference, dashes_of(number)


def _heights(findings: Findings, references: list[Reference]) -> tuple[float, float]:
    """The losses that charts show: not the fall at the very start, which would flatten the rest."""
    curves = [run.curve for variant in findings.variants for run in variant.runs]
    low = min(each.losses.min() for each in [*curves, *references])
    high = max(np.interp(0.1 * curve.steps[-1], curve.steps, curve.losses) for curve in curves)
    margin = 0.05 * max(high - low, 0.01)
    return low - margin, high + margin


def _grids(axes: Axes, key: str, words: str, findings: Findings) -> None:
    for number, variant in enumerate(findings.variants):
        curves = [_grid_curve(run, key) for run in variant.runs if run.grid_rows]
        if curves:
            x, mean, _ = mean_and_spread(curves)
            axes.plot(x, mean, color=colour_of(number), lw=1.8, gid=f"{key}-v{number}-line")
    axes.set(xlabel=AXES["steps"], ylabel=words)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _grid_curve(run: Run, key: str) -> tuple[np.ndarray, np.ndarray]:
    rows = run.grid_rows
    return np.array([row["step"] for row in rows]), np.array([row[key] for row in rows])


def save_png(
    out: Path, charts: dict[str, Draw], lines: dict[str, int], dashed: dict[str, Dashes]
) -> None:
    """All charts in one picture, two in a row, with a legend above them.

    Args:
        lines, dashed: names of the variants with their numbers, of the references with dashes.

    Raises:
        UserError: the file cannot be written.
    """
    rows = -(-len(charts) // 2)
    figure = Figure(figsize=(10, 0.6 + 3.3 * rows), layout="constrained")
    for axes, draw in zip(
        figure.subplots(rows, 2, squeeze=False).flat, charts.values(), strict=False
    ):
        draw(axes)
        plain(axes)
    keys = [Line2D([], [], color=colour_of(number), lw=2) for number in lines.values()]
    for dashes in dashed.values():
        keys.append(Line2D([], [], color=REFERENCE_COLOUR, lw=1.3, dashes=dashes))
    names = [*lines, *dashed]
    columns = 2 if max(map(len, names)) > 28 else 4
    figure.legend(keys, names, loc="outside upper left", ncols=columns, frameon=False)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=140)


def plain(axes: Axes, faint: str = "#d5d8dc") -> None:
    """Axes without a frame, over faint lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=faint, lw=0.6)
    axes.set_axisbelow(True)


def to_svg(title: str, draw: Draw) -> str:
    """One chart as an SVG element: as wide as there is room, in the page's own colours.

    Lines of variant N carry ids that end in ``-vN-line`` and ``-vN-band``.
    """
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    style = {"svg.fonttype": "none", "svg.hashsalt": title, "axes.edgecolor": FAINT, "font.size": 9}
    buffer = io.StringIO()
    with matplotlib.rc_context(colours | style):
        figure = Figure(figsize=(4.6, 3.3), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        plain(axes, FAINT)
        # Without metadata there is no address in it, and nothing that differs from day to day.
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor").replace(FAINT, "var(--line)")
    opening = text[: text.index(">") + 1]
    box = re.search(r'viewBox="[^"]+"', opening).group()
    return f'<svg {box} role="img" aria-label="{html.escape(title)}">' + text[len(opening) :]
