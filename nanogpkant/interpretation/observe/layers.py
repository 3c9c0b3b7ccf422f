"""Selection of KAN layers by name."""

from pathlib import Path

from torch import nn

from nanogpkant.base.errors import UsageError, UserError, nearest
from nanogpkant.kan import KANLinear, kan_layers
from nanogpkant.kan.curve import DistanceCurve


def select_layers(model: nn.Module, names: list[str] | None, run: Path) -> dict[str, KANLinear]:
    """The KAN layers with these names, or below these modules; None is all.

    Raises:
        UserError: the model has no KAN layers.
        UsageError: a name that no layer has.
    """
    # Curves of distance are read by attention itself, which cannot take tables in their place yet.
    layers = {n: m for n, m in kan_layers(model).items() if not isinstance(m, DistanceCurve)}
    if not layers:
        remedy = "there is nothing to interpret; train one with --model.kan.sites"
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
