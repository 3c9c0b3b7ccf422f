"""A new model whose curves of distance are another run's formulas, fixed.

``interpret`` writes the values of a run's formulas at every distance; they become tables that do
not learn. The model may have any size: block l of L takes the formulas of block
round(l (L' - 1) / (L - 1)) of L', and head h of H those of head floor(h H' / H) of H'.
"""

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nanogpkant.base.errors import UsageError, UserError, prefixed
from nanogpkant.config import ModelConfig, RunConfig, settings_that_differ, with_changes
from nanogpkant.data import TokenData
from nanogpkant.kan import kan_layers
from nanogpkant.kan.curve import DistanceCurve
from nanogpkant.model.gpt import GPT
from nanogpkant.run.folder import FORMULAS, interpretation_folder, open_run


def with_formulas(config: RunConfig, base: RunConfig) -> RunConfig:
    """The configuration with the places of the formulas of ``train.from_formulas``, if any.

    Args:
        base: the configuration before anyone's settings were laid over it.

    Raises:
        UserError: no such run, or one without curves or without their formulas.
        UsageError: a setting, not the base's own, of what the formulas decide.
    """
    name, ours = config.train.from_formulas, config.model
    if name is None:
        return config
    with prefixed(f"--train.from_formulas {name}"):
        theirs = _source(name)
        read_formulas(name, theirs)
        places = {"model.position": theirs.position}
        if "curve" in (ours.conv, theirs.conv):
            places |= {"model.conv": theirs.conv, "model.conv_length": theirs.conv_length}
        made = with_changes(config, **places)
        table = {"basis": "hat", "scale": "linear", "learned": False}
        table["knots"] = max(made.model.curve_lengths)
        made = with_changes(made, **{f"model.curve.{key}": value for key, value in table.items()})
        given = settings_that_differ(config, base)
        for key, value in settings_that_differ(config, made).items():
            if key in given:
                raise UsageError(f"decides that, too: leave --{key} {value} out")
    return made


@torch.no_grad()
def start_from_formulas(model: GPT, config: RunConfig, data: TokenData) -> None:
    """Write the formulas of ``train.from_formulas`` into the curves of a new model.

    Raises:
        UserError: see ``with_formulas``.
    """
    name = str(config.train.from_formulas)
    with prefixed(f"--train.from_formulas {name}"):
        theirs = _source(name)
        formulas = read_formulas(name, theirs)
    step = (theirs.n_layer - 1) / max(1, config.model.n_layer - 1)
    for layer, curve in kan_layers(model).items():
        if isinstance(curve, DistanceCurve):
            _, block, place = layer.split(".", 2)
            values = formulas[f"blocks.{round(int(block) * step)}.{place}"]  # (H', distances)
            heads = torch.arange(curve.out_features) * len(values) // curve.out_features
            values = stretched(values[heads], curve.initial.shape[1], curve.beyond)
            curve.weight.copy_(values[..., None])


def stretched(values: Tensor, distances: int, beyond: str) -> Tensor:
    """(H, D) values at whole distances -> (H, distances): see ``beyond`` of ``DistanceCurve``."""
    distance, last = torch.arange(distances), values.shape[1] - 1
    slope = values[:, -1:] - values[:, -2:-1] if beyond == "linear" else 0.0
    return values[:, distance.clamp(max=last)] + slope * (distance - last).clamp(min=0)


def read_formulas(name: str, theirs: ModelConfig) -> dict[str, Tensor]:
    """(heads, distances) values of every curve of a run's model, by the curve's name.

    Raises:
        UserError: the run was not interpreted, not all of it, or the file is damaged.
    """
    file, remedy = interpretation_folder(name) / FORMULAS, f"nanogpkant interpret {name}"
    if not file.is_file():
        raise UserError(f"there is no {file}: {remedy}")
    try:
        values = safetensors.torch.load_file(file)
    except safetensors.SafetensorError as error:
        raise UserError(f"{file} is damaged: {remedy}") from error
    places = {"attention.bias": theirs.block_size} if "curve" in theirs.positions else {}
    if theirs.conv == "curve":
        places["attention.convolution.kernel"] = theirs.conv_length
    for block in range(theirs.n_layer):
        for place, distances in places.items():
            layer, wanted = f"blocks.{block}.{place}", (theirs.n_head, distances)
            if layer not in values:
                raise UserError(f"{file} has no formulas of {layer}: {remedy}")
            if values[layer].shape != wanted or not values[layer].isfinite().all():
                raise UserError(f"{layer} in {file} is not of this run: {remedy}")
    return values


def _source(name: str) -> ModelConfig:
    theirs = open_run(name).config().model
    if not theirs.curve_lengths:
        raise UserError("it has no curves of distance: take a run with --model.position curve")
    return theirs
