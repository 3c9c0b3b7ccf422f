"""How a run got there: the losses, and its shared functions and curves at each kept checkpoint."""

from typing import Any

import numpy as np
import torch

from nanogpkant.base.console import bar
from nanogpkant.interpretation.observe.curves import even_points
from nanogpkant.kan import kan_layers
from nanogpkant.kan.curve import DistanceCurve
from nanogpkant.model.gpt import GPT
from nanogpkant.playground.observe import shared_values
from nanogpkant.playground.pack import Pack
from nanogpkant.playground.recipe import with_curves
from nanogpkant.run.folder import RunFolder
from nanogpkant.run.load import load_model
from nanogpkant.run.metrics import read_metrics

MOST = 24  # checkpoints
POINTS = 49  # of a function at each of them
ROWS = 400  # of the losses while training


def losses(run: RunFolder) -> dict[str, list[list[float]]]:
    """{"train" and "val": [step, loss] each}; a few hundred rows, whatever the run has."""
    if not run.metrics_file.is_file():
        return {"train": [], "val": []}
    rows = read_metrics(run.metrics_file)
    found = {}
    for split in ("train", "val"):
        pairs = [[r["step"], round(r["loss"], 5)] for r in rows if r["split"] == split]
        found[split] = _some(pairs, ROWS)
    return found


def _some(items: list[Any], most: int) -> list[Any]:
    """At most so many items, evenly, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, most)]


def history(run: RunFolder, about: dict[str, Any], pack: Pack) -> dict[str, Any]:
    """The functions at every kept checkpoint, or at none where there is only one.

    Args:
        about: result of ``observe.functions``.
    """
    names = _some(sorted(path.name for path in run.checkpoints.glob("step-*")), MOST)
    layers = {each["name"]: each for each in about["layers"] if each["kind"] == "shared"}
    curves = {each["name"]: each for each in about["curves"]}
    made: dict[str, Any] = {"losses": losses(run), "steps": []}
    if len(names) < 2 or not (layers or curves):
        return made | {"distances": [], "values": {}}
    tables: dict[str, list[torch.Tensor]] = {name: [] for name in (*curves, *layers)}
    distances: list[int] = []
    with bar("reading checkpoints", "checkpoints") as progress:
        for done, name in enumerate(names):
            progress(done, len(names))
            trained = load_model(run.path, name)
            made["steps"].append(trained.step)
            distances = _tabulate(with_curves(trained.model), layers, pack, tables) or distances
    return made | {
        "distances": distances,
        "values": {name: pack.add(torch.stack(rows)) for name, rows in tables.items()},
    }


@torch.no_grad()
def _tabulate(
    model: GPT, layers: dict[str, Any], pack: Pack, tables: dict[str, list[torch.Tensor]]
) -> list[int]:
    """Append a checkpoint's values, (functions, points), to the tables; returns the distances."""
    curves = [each for each in kan_layers(model).values() if isinstance(each, DistanceCurve)]
    last = max((curve.initial.shape[1] for curve in curves), default=1)
    spaced = np.unique(np.geomspace(1, last, POINTS).round().astype(int) - 1)
    for name, layer in kan_layers(model).items():
        if isinstance(layer, DistanceCurve):
            shown = torch.from_numpy(spaced).clamp(max=layer.initial.shape[1] - 1)
            tables[name].append(layer.of(shown))
        elif name in layers:
            low, high = (pack.read(layers[name][end]) for end in ("low", "high"))
            x = even_points(low, high, POINTS)
            values = shared_values(layer.features, layer.coefficients, x)
            tables[name].append(values.permute(1, 2, 0).flatten(0, 1))
    return spaced.tolist()
