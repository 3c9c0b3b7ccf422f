"""Selection of KAN layers by name."""

from pathlib import Path

from torch import nn

from nanogpkant.base.errors import UsageError, UserError, nearest
from nanogpkant.kan import KANLinear, kan_layers


def select_layers(model: nn.Module, names: list[str] | None, run: Path) -> dict[str, KANLinear]:
    """The KAN layers with these names, or below these modules; None is all.

    Raises:
        UserError: the model has no KAN layers.
        UsageError: a name that no layer has.
    """
    layers = kan_layers(model)
    if not layers:
        remedy = "there is nothing to interpret; train one with --model.kan.sites"
        raise UserError(f"{run} has no KAN layers: {remedy}")
    if names is None:
        return layers
    for name in names:
        if not any(_is_in(layer, name) for layer in layers):
            hint = nearest(name, list(layers))
            raise UsageError(f"--layers {name}: {hint if '?' in hint else _known(layers)}")
    return {n: layer for n, layer in layers.items() if any(_is_in(n, name) for name in names)}


def _is_in(layer: str, name: str) -> bool:
    return layer == name or layer.startswith(f"{name}.")


def _known(layers: dict[str, KANLinear]) -> str:
    return f"the KAN layers are {', '.join(layers)}"
