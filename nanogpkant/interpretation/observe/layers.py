"""Selection of KAN layers by name, curves of distance among them."""

from pathlib import Path

from torch import nn

from nanogpkant.base.errors import UsageError, UserError, nearest
from nanogpkant.kan import KANLinear, kan_layers
from nanogpkant.kan.curve import DistanceCurve


def select_layers(
    model: nn.Module, names: list[str] | None, run: Path
) -> tuple[dict[str, KANLinear], dict[str, DistanceCurve]]:
    """The KAN layers, and the curves, with these names or below these modules; None is all.

    Raises:
        UserError: the model has no KAN layers.
        UsageError: a name that no layer has.
    """
    layers = kan_layers(model)
    if not layers:
        remedy = "train one with --model.kan.sites, or with --model.position curve"
        raise UserError(f"{run} has no KAN layers: {remedy}")
    if names is not None:
        chosen = {name: [n for n in layers if f"{n}.".startswith(f"{name}.")] for name in names}
        for name, found in chosen.items():
            if not found:
                hint = nearest(name, list(layers))
                known = hint if "?" in hint else f"the KAN layers are {', '.join(layers)}"
                raise UsageError(f"--layers {name}: {known}")
        layers = {n: layers[n] for n in layers if any(n in found for found in chosen.values())}
    curves = {n: each for n, each in layers.items() if isinstance(each, DistanceCurve)}
    return {n: layers[n] for n in layers if n not in curves}, curves
