"""Learned shared functions of KAN edges, and their importance.

    python benchmarks/shared_functions.py runs/EXPERIMENT/VARIANT/seed-* --json FILE --plot FILE

Validation loss of every run's best checkpoint: unchanged; with each layer's functions rolled over
the groups of its inputs (mean of a few shifts); and with every function at its initial value, that
of the plain GPT. The plot shows the first run's functions over the range of their inputs. The
script fails if the unchanged loss differs from the run's metrics.
"""

import argparse
import json
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from nanogpkant.base.console import bar
from nanogpkant.data import blocks
from nanogpkant.evaluation import evaluate
from nanogpkant.kan import KANLinear, kan_layers
from nanogpkant.machine.device import measured_on
from nanogpkant.report.theme import COLOURS
from nanogpkant.run.folder import open_run
from nanogpkant.run.load import TrainedModel, load_model, open_run_data
from nanogpkant.run.metrics import read_metrics

BATCH = 64
POINTS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--shifts", type=int, default=2, help="of the functions, for every run")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--plot", type=Path, help="PNG file for the first run's functions")
    options = parser.parse_args()
    rows = []
    with bar("evaluating", "runs") as progress:
        for number, path in enumerate(options.runs, start=1):
            rows.append(worth(path, options.shifts))
            progress(number, len(options.runs))
    found = {
        "command": "python benchmarks/shared_functions.py " + " ".join(map(str, options.runs)),
        "machine": measured_on(torch.device("cpu")),
        "runs": rows,
        "means": {key: mean(row[key] for row in rows) for key in ("loss", "shifted", "as_started")},
    }
    text = json.dumps(found, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    if options.plot:
        picture(load_model(options.runs[0]), options.runs[0]).savefig(options.plot, dpi=120)


def shared_layers(trained: TrainedModel) -> dict[str, KANLinear]:
    """Layers whose edges share functions, by name."""
    layers = kan_layers(trained.model).items()
    return {name: layer for name, layer in layers if layer.coefficients is not None}


def worth(path: Path, shifts: int) -> dict[str, float | str]:
    """A run's validation loss with learned, shifted and initial functions."""
    run = open_run(path)
    trained = load_model(path)
    text = open_run_data(run, trained.config.data).val
    layers = shared_layers(trained)
    learned = {name: layer.coefficients.detach().clone() for name, layer in layers.items()}

    def loss(change: dict[str, Tensor]) -> float:
        for name, layer in layers.items():
            layer.coefficients.data.copy_(change[name])
        return evaluate(trained.model, text, BATCH).loss

    recorded = {r["step"]: r["loss"] for r in read_metrics(run.metrics_file) if r["split"] == "val"}
    now = loss(learned)
    if abs(now - recorded[trained.step]) > 5e-3:  # the tolerance is for training in bfloat16
        raise SystemExit(f"{path}: loss {now} now, {recorded[trained.step]} in its metrics.jsonl")
    shifted = [
        loss({name: numbers.roll(by, dims=1) for name, numbers in learned.items()})
        for by in range(1, shifts + 1)
    ]
    started = loss({name: layer.features.start() for name, layer in layers.items()})
    return {"run": str(path), "loss": now, "shifted": mean(shifted), "as_started": started}


def picture(trained: TrainedModel, path: Path) -> Figure:
    """Every layer's functions over the central 98% of their inputs; dashed: initial functions."""
    layers = shared_layers(trained)
    ranges = input_ranges(trained, layers, path)
    depth, sites = trained.config.model.n_layer, len(trained.config.model.kan.sites)
    figure = Figure(figsize=(3.0 * depth, 2.4 * sites), layout="constrained")
    columns = figure.subplots(sites, depth, squeeze=False).T  # a column per block
    for axes, (name, layer) in zip(columns.flat, layers.items(), strict=True):
        groups = layer.basis.groups
        x = torch.linspace(0, 1, POINTS)[:, None]
        low, high = ranges[name]
        x = low + (high - low) * x  # (POINTS, groups)
        for numbers, style in ((layer.features.start(), "--"), (layer.coefficients.detach(), "-")):
            y = layer.features.expand(x, numbers)[:, 0]  # the first function of every group
            for group in range(groups):
                width = 0.6 if style == "--" else 1.4
                colour = COLOURS[group % len(COLOURS)]
                axes.plot(x[:, group], y[:, group], style, color=colour, linewidth=width)
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
    return figure


def input_ranges(
    trained: TrainedModel, layers: dict[str, KANLinear], path: Path
) -> dict[str, tuple[Tensor, Tensor]]:
    """The 1% and 99% quantiles of each group's inputs over a batch of validation text."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def look(name: str, layer: KANLinear, inputs: tuple[Tensor]) -> None:
        x = layer.normalise(inputs[0].detach()).flatten(0, -2)
        x = x.unflatten(-1, (layer.basis.groups, -1)).transpose(0, 1).flatten(1)
        seen[name] = tuple(torch.from_numpy(np.quantile(x.numpy(), (0.01, 0.99), axis=1)).float())

    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, n=name, m=layer: look(n, m, inputs))
        for name, layer in layers.items()
    ]
    text = open_run_data(open_run(path), trained.config.data).val
    with torch.no_grad():
        trained.model(next(blocks(text, trained.config.model.block_size, 16))[0])
    for handle in handles:
        handle.remove()
    return seen


if __name__ == "__main__":
    main()
