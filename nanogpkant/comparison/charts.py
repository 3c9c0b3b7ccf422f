"""The report's charts: mean over the seeds of every variant; and the curves of single runs.

Lines of variant N carry ids that end in ``-vN-line`` and ``-vN-band``.
"""

from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, PercentFormatter

from nanogpkant.base.escape import mathtext
from nanogpkant.comparison.findings import LOSSES, Findings
from nanogpkant.comparison.references import Reference
from nanogpkant.comparison.runs import AXES, Run, variants_of
from nanogpkant.comparison.statistics import mean_and_spread
from nanogpkant.report.charts import Draw, dashes_of, name_rows, plain, save_figure
from nanogpkant.report.theme import REFERENCE_COLOUR, colour_of

LOSS = "validation loss, nats per token"
# Ratio of the ends of curves beyond which the axis is logarithmic.
LOGARITHMIC_BEYOND = 4.0
CLOSE_TICKS_BELOW = 200.0  # times the start of such an axis: room for ticks at 1, 2, 5, 10
GRID_MEASURES = {
    "out_of_range": "inputs outside the grid, worst layer",
    "dead": "splines that see no input, worst layer",
}


def loss_charts(findings: Findings, references: list[Reference]) -> dict[str, Draw]:
    """Validation loss against each axis of cost, by its name; without curves, seed by seed."""
    if not has_curves(findings, references):
        first = {run.seed: LOSSES["final"](run) for run in findings.variants[0].runs}
        bases = {LOSS: {}, "nats above the first row, same seed": first}
        draw = partial(_seeds, findings=findings)
        return {words: partial(draw, words=words, base=base) for words, base in bases.items()}
    draw = partial(_losses, findings=findings, references=references)
    return {words: partial(draw, axis=axis) for axis, words in AXES.items()}


def has_curves(findings: Findings, references: list[Reference]) -> bool:
    """Whether a run was evaluated between its start and its end, or a reference has a curve."""
    return bool(references) or any(len(run.curve.losses) > 2 for run in findings.runs)


def grid_charts(findings: Findings) -> dict[str, Draw]:
    """Fit of the grids during training; {} if no run has grids."""
    if not any(run.grid_rows for variant in findings.variants for run in variant.runs):
        return {}
    draw = partial(_grids, findings=findings)
    return {words: partial(draw, key=key, words=words) for key, words in GRID_MEASURES.items()}


def _losses(axes: Axes, findings: Findings, references: list[Reference], axis: str) -> None:
    shown = []  # x of each line
    for variant in findings.variants:
        curves = [(getattr(run.curve, axis), run.curve.losses) for run in variant.runs]
        x, mean, spread = mean_and_spread(curves)
        colour, name = colour_of(variant.number), f"{axis}-v{variant.number}"
        dots = {"marker": "o", "ms": 2.5} if len(curves) == 1 else {}
        axes.plot(x, mean, color=colour, lw=1.8, gid=f"{name}-line", **dots)
        if spread.any():
            low, high = mean - spread, mean + spread
            axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0, gid=f"{name}-band")
        shown += [x] if len(x) else []  # seeds may have no range in common
    for number, reference in enumerate(references):
        if axis in reference.axes:
            x, style = reference.axes[axis], {"color": REFERENCE_COLOUR, "lw": 1.3}
            axes.plot(x, reference.losses, dashes=dashes_of(number), **style)
            shown.append(x)
    ends = [x[-1] for x in shown] or [0.0]
    if max(ends) > LOGARITHMIC_BEYOND * min(ends) > 0:
        start = min(x[x > 0][0] for x in shown if x[-1] > 0)
        axes.set_xscale("log", nonpositive="mask")
        axes.set_xlim(left=start)
        is_short = max(ends) < CLOSE_TICKS_BELOW * start
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_short else (1,)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set(xlabel=AXES[axis], ylabel=LOSS)
    # The steep start would flatten the rest.
    curves = [run.curve for variant in findings.variants for run in variant.runs]
    low = min(each.losses.min() for each in [*curves, *references])
    high = max(float(c.losses[np.searchsorted(c.steps, 0.1 * c.steps[-1])]) for c in curves)
    margin = 0.05 * max(high - low, 0.01)
    axes.set_ylim(low - margin, high + margin)


def _seeds(axes: Axes, findings: Findings, words: str, base: dict[int, float]) -> None:
    """Last losses, less the base's of the same seed: a dot for each seed, a bar for their mean."""
    height = min(18, 150 / len(findings.variants))  # of a bar, in points
    for row, variant in enumerate(findings.variants):
        runs = [run for run in variant.runs if run.seed in base or not base]
        losses = [LOSSES["final"](run) - base.get(run.seed, 0.0) for run in runs]
        colour, name = colour_of(variant.number), f"{'pair' if base else 'seed'}-v{variant.number}"
        axes.plot(losses, [row] * len(losses), "o", color=colour, ms=4, gid=f"{name}-line")
        if losses:
            axes.plot(np.mean(losses), row, "|", color=colour, ms=height, mew=2, gid=f"{name}-band")
    name_rows(axes, [variant.name for variant in findings.variants])
    axes.set_xlabel(words)


def _grids(axes: Axes, findings: Findings, key: str, words: str) -> None:
    for variant in findings.variants:
        rows = [run.grid_rows for run in variant.runs if run.grid_rows]
        curves = [
            (np.array([row["step"] for row in of]), np.array([row[key] for row in of]))
            for of in rows
        ]
        if curves:
            x, mean, _ = mean_and_spread(curves)
            colour, name = colour_of(variant.number), f"{key}-v{variant.number}-line"
            axes.plot(x, mean, color=colour, lw=1.8, gid=name)
    axes.set(xlabel=AXES["steps"], ylabel=words)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def plot_curves(runs: list[Run], out: Path) -> None:
    """Plot validation loss of single runs against steps, and against seconds, into a PNG.

    Runs that differ in their seed alone have one colour, and dashes of their own.

    Raises:
        UserError: the file cannot be written.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    by_step, by_second = figure.subplots(1, 2, sharey=True)
    for number, variant in enumerate(variants_of(runs).values()):
        for seed, run in enumerate(variant):
            curve, style = run.curve, {"marker": "o", "ms": 3, "label": mathtext(run.name)}
            style |= {"color": colour_of(number), "dashes": dashes_of(seed - 1) if seed else ()}
            by_step.plot(curve.steps, curve.losses, **style)
            by_second.plot(curve.seconds, curve.losses, **style)
    by_step.set(xlabel="optimizer steps", ylabel=LOSS)
    by_second.set(xlabel="seconds in training steps")
    names = [line.get_label() for line in by_step.lines]  # given, so that one may begin with _
    by_step.legend(by_step.lines, names, frameon=False)
    for axes in (by_step, by_second):
        plain(axes)
    save_figure(figure, out)
