"""Selection of KAN layers by name, curves of distance among them."""

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
        remedy = "train one with --model.kan.sites, or with --model.position curve"
        raise UserError(f"{run} has no KAN layers: {remedy}")
    if names is None:
        return layers
    chosen = {name: [n for n in layers if f"{n}.".startswith(f"{name}.")] for name in names}
    for name, found in chosen.items():
        if not found:
            hint = nearest(name, list(layers))
            known = hint if "?" in hint else f"the KAN layers are {', '.join(layers)}"
            raise UsageError(f"--layers {name}: {known}")
    return {n: layers[n] for n in layers if any(n in found for found in chosen.values())}
