"""Learning curves of single runs as a picture."""

from pathlib import Path

from matplotlib.figure import Figure

from nanogpkant.base.errors import UsageError
from nanogpkant.base.files import writing
from nanogpkant.comparison.runs import Run
from nanogpkant.report.charts import plain


def plot_curves(runs: list[Run], out: Path) -> None:
    """Plot validation loss against steps, and against training seconds, into a PNG.

    Raises:
        UserError: the file cannot be written.
        UsageError: it is not called .png.
    """
    if out.suffix != ".png":
        raise UsageError(f"--plot {out}: name a file that ends in .png")
    figure = Figure(figsize=(10, 4), layout="constrained")
    by_step, by_second = figure.subplots(1, 2, sharey=True)
    for run in runs:
        curve, style = run.curve, {"marker": "o", "ms": 3, "label": run.name}
        by_step.plot(curve.steps, curve.losses, **style)
        by_second.plot(curve.seconds, curve.losses, **style)
    by_step.set(xlabel="optimiser steps", ylabel="validation loss, nats per character")
    by_second.set(xlabel="seconds in training steps")
    by_step.legend(frameon=False)
    for axes in (by_step, by_second):
        plain(axes)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=140)
