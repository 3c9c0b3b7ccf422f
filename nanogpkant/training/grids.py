"""The spline grids of a model in training: how well they fit their inputs, and their schedule."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from nanogpkant.base.console import note, warn
from nanogpkant.config import KANConfig, RunConfig
from nanogpkant.kan import KANLinear, kan_layers
from nanogpkant.kan.curve import DistanceCurve
from nanogpkant.kan.grid import GridChange, health, update_grid
from nanogpkant.kan.state import has_grid, spline_of
from nanogpkant.model.gpt import GPT
from nanogpkant.model.modes import evaluating

ROWS = 1024  # input vectors of a layer that its grid is judged by

# Fractions above which a grid is worth a warning, with their meaning.
LIMITS = {"unseen": (0.10, "inputs beyond every spline"), "dead": (0.25, "splines see no input")}


def grid_layers(model: GPT) -> dict[str, KANLinear]:
    """The layers of a model that have a spline grid, by name."""
    return {name: layer for name, layer in kan_layers(model).items() if has_grid(layer)}


@torch.no_grad()
def layer_inputs(model: GPT, x: Tensor) -> dict[str, Tensor]:
    """Inputs of every layer with a grid: up to 1024 rows (rows, n), normalised.

    The model runs without dropout, and without torch.compile, which would ignore the hooks.

    Args:
        x: (B, T) token ids.
    """
    seen: dict[str, Tensor] = {}

    random = torch.Generator("cpu")

    def look(name: str, layer: KANLinear, inputs: tuple[Tensor]) -> None:
        rows = inputs[0].flatten(0, -2)
        # The same random rows each time; evenly spaced ones could share a position.
        order = torch.randperm(len(rows), generator=random.manual_seed(0), device="cpu")[:ROWS]
        seen[name] = layer.normalise(rows[order.to(rows.device)])

    layers = grid_layers(model).items()
    hooks = [layer.register_forward_pre_hook(partial(look, name)) for name, layer in layers]
    try:
        with evaluating(model):
            model.forward(x)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def grid_health(model: GPT, x: Tensor) -> dict[str, Any]:
    """A row of metrics: ``health`` of every layer's grid on a batch, and the worst of each.

    Args:
        x: (B, T) token ids.

    Returns:
        {} for a model without grids.
    """
    layers = grid_layers(model)
    if not layers:
        return {}
    inputs = layer_inputs(model, x)
    measured = {
        name: {
            key: round(value, 6) for key, value in health(spline_of(layer), inputs[name]).items()
        }
        for name, layer in layers.items()
    }
    worst = {key: max(each[key] for each in measured.values()) for key in ("out_of_range", *LIMITS)}
    worst["knot_use"] = min(each["knot_use"] for each in measured.values())
    return worst | {"layers": measured}


def warn_of_grids(row: dict[str, Any], warned: set[str]) -> None:
    """Warn of grids that do not fit their inputs, of each kind of misfit once in a run.

    Args:
        row: result of ``grid_health``.
        warned: kinds warned of before; added to.
    """
    for key, (limit, what) in LIMITS.items():
        above = {name: layer[key] for name, layer in row["layers"].items() if layer[key] > limit}
        if not above or key in warned:
            continue
        warned.add(key)
        name = max(above, key=above.__getitem__)
        worst = f"{above[name]:.0%} of {what} in {name}"
        remedy = "--grid.update_every lets grids follow their inputs"
        warn(f"{worst}, and above {limit:.0%} in {len(above)} KAN layers: {remedy}")


def change_grids(
    model: GPT, optimizer: torch.optim.Optimizer, x: Tensor, config: RunConfig, step: int
) -> dict[str, Any]:
    """Refine and update every grid as the schedule asks for after ``step`` steps.

    Args:
        x: (B, T) token ids whose activations the grids are to follow.

    Returns:
        a row of metrics: the number of parameters, and the change of every layer's grid.
    """
    layers, done = grid_layers(model), {}
    parts = config.grid.parts_at(step, config.grid_size)
    for name, layer in layers.items() if parts > 1 else ():
        if not (isinstance(layer, DistanceCurve) and layer.is_table):
            finer = max(1, parts // parts_of(layer, config.model.kan))
            done[name] = layer.refine(finer * spline_of(layer).grid_size, optimizer)
    if config.grid.updates_at(step):  # now, so that it drops fine intervals that see no input
        inputs, limit = layer_inputs(model, x), config.grid.max_size
        for name, layer in layers.items():
            change = update_grid(layer, inputs[name], max_grid_size=limit, optimizer=optimizer)
            done[name] = _both(done[name], change) if name in done else change
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    _tell(step, done, parameters)
    return {"parameters": parameters, "layers": {n: _as_row(c) for n, c in done.items()}}


def parts_of(layer: KANLinear, kan: KANConfig) -> int:
    """Parts that each of a layer's first intervals was split into; updates keep their width."""
    grid = spline_of(layer)
    if isinstance(layer, DistanceCurve):
        return grid.grid_size // (layer.knots - 1)
    first, last = kan.grid_range
    return round((last - first) / kan.grid_size / (grid.points[1] - grid.points[0]))


def _both(first: GridChange, then: GridChange) -> GridChange:
    return GridChange(first.old, then.new, first.change + then.change, then.reason)


def _as_row(change: GridChange) -> dict[str, Any]:
    low, high = change.new.grid_range
    row = {"grid_size": change.new.grid_size, "low": low, "high": high, "change": change.change}
    return row | ({"reason": change.reason} if change.reason else {})


def _tell(step: int, done: dict[str, GridChange], parameters: int) -> None:
    changed = [c for c in done.values() if c.new != c.old]
    sizes = _span([c.new.grid_size for c in done.values()])
    note(
        f"step {step:>6}  {len(changed)} of {len(done)} grids changed: {sizes} intervals, "
        f"{parameters / 1e6:.2f}M parameters"
    )


def _span(sizes: list[int]) -> str:
    return f"{min(sizes)} to {max(sizes)}" if len(set(sizes)) > 1 else f"{sizes[0]}"
