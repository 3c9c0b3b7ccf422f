"""The report's charts: mean over the seeds of every variant.

Lines of variant N carry ids that end in ``-vN-line`` and ``-vN-band``.
"""

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, PercentFormatter

from nanogpkant.comparison.findings import Findings
from nanogpkant.comparison.references import Reference
from nanogpkant.comparison.runs import AXES, Run
from nanogpkant.comparison.statistics import mean_and_spread
from nanogpkant.report.charts import REFERENCE_COLOUR, Dashes, Draw, colour_of, dashes_of

# Ends of curves this many times apart are drawn on a logarithmic axis.
LOGARITHMIC_BEYOND = 4.0
CLOSE_TICKS_BELOW = 200.0  # times the start of such an axis: there is room for 1, 2, 5, 10
GRID_MEASURES = {
    "out_of_range": "inputs outside the grid, worst layer",
    "dead": "splines that see no input, worst layer",
}


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
