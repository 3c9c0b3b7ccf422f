"""Learning curves as a picture."""

from pathlib import Path

from matplotlib.figure import Figure

from nanogpkant.checkpoint import open_run, read_metrics
from nanogpkant.errors import UsageError
from nanogpkant.files import writing


def plot_curves(paths: list[Path], out: Path) -> None:
    """Plot validation loss against steps, and against training seconds, into a PNG.

    Raises:
        UserError: a folder that is not a run, or a file that cannot be written.
        UsageError: the file is not called .png.
    """
    if out.suffix != ".png":
        raise UsageError(f"--plot {out}: name a file that ends in .png")
    figure = Figure(figsize=(10, 4), layout="constrained")
    by_step, by_second = figure.subplots(1, 2, sharey=True)
    for path in paths:
        rows = [r for r in read_metrics(open_run(path).metrics_file) if r["split"] == "val"]
        losses = [row["loss"] for row in rows]
        by_step.plot([row["step"] for row in rows], losses, marker="o", ms=3, label=path.name)
        by_second.plot([row["seconds"] for row in rows], losses, marker="o", ms=3, label=path.name)
    by_step.set(xlabel="optimiser steps", ylabel="validation loss, nats per character")
    by_second.set(xlabel="seconds in training steps")
    by_step.legend(frameon=False)
    for axes in (by_step, by_second):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=140)
