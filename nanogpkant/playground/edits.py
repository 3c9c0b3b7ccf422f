"""Edits that were made in the page, applied to the run itself.

An edge keeps its basis and gets other coefficients; so does a curve of distance that extends
beyond the block by a slope, and a slope of ALiBi stays one. A shared function becomes a cubic
spline, and with it all functions of its layer. Another curve of distance becomes a number for every
distance, and with it all curves of the model.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpkant.base.errors import UserError, prefixed
from nanogpkant.base.files import read_json
from nanogpkant.config import RunConfig, with_changes
from nanogpkant.kan import BSpline, KANLinear, kan_layers
from nanogpkant.kan.curve import DistanceCurve
from nanogpkant.kan.shared import Shared
from nanogpkant.kan.state import STATE, set_features
from nanogpkant.model.gpt import GPT
from nanogpkant.model.positions import Slopes
from nanogpkant.run.checkpoint import load_checkpoint, weights_hash, write_run
from nanogpkant.run.folder import RunFolder, open_run
from nanogpkant.run.load import load_weights

FORMAT = "nanogpkant edits 1"
MOST = 4096  # intervals of a spline


def edit_run(name: str, file: Path, out: Path) -> dict[str, Any]:
    """Write a run with edited functions: the values of ``verbs.play.Edited``.

    Raises:
        UserError: edits of another model, or a file that holds none.
        UsageError: ``out`` is not empty.
    """
    run, edits = open_run(name), read_json(file)
    with prefixed(str(file)):
        step, found = _read(edits, run)
        checkpoint, config = load_checkpoint(run, f"step-{step:06d}"), run.config()
        model = GPT(config.model, run.tokenizer().vocab_size)
        load_weights(model, checkpoint)
        config, model = apply(model.eval(), config, found)
    about = {"data_fingerprint": run.data_fingerprint()}
    about |= {"edited": {"from": run.path.name, "edits": len(found)}}
    write_run(out, model, config, run.tokenizer(), step, about)
    return {"run": str(out), "step": step, "edits": len(found)}


def _read(given: Any, run: RunFolder) -> tuple[int, list[dict[str, Any]]]:
    """The step that a file of edits is for, and its edits.

    Raises:
        UserError: it is none, or for another model.
    """
    if not (isinstance(given, dict) and given.get("format") == FORMAT):
        raise UserError("is no file of edits: the page of nanogpkant play saves one")
    step, edits = given.get("step"), given.get("edits")
    if not (isinstance(edits, list) and isinstance(step, int) and step >= 0):
        raise UserError("holds no edits: it was altered")
    if not all(isinstance(edit, dict) for edit in edits):
        raise UserError("holds no edits: it was altered")
    with prefixed("it is for another model"):
        if weights_hash(run, step) != given.get("weights"):
            raise UserError(f"its weights are not those of {run.path} at step {step}")
    return step, edits


@torch.no_grad()
def apply(model: GPT, config: RunConfig, edits: list[dict[str, Any]]) -> tuple[RunConfig, GPT]:
    """The configuration and the model with the edits.

    Raises:
        UserError: an edit of a function that the model does not have, or in another form.
    """
    curves = {n: c for n, c in kan_layers(model).items() if isinstance(c, DistanceCurve)}
    if curves and any(edit.get("kind") == "distance" for edit in edits):
        config, model = _with_tables(model, config, curves)
    slopes = {n: each for n, each in model.named_modules() if isinstance(each, Slopes)}
    layers = kan_layers(model) | slopes
    for number, edit in enumerate(edits):
        with prefixed(f"edit {number + 1}"):
            layer = layers.get(str(edit.get("layer")))
            kind = "edge"
            if isinstance(layer, DistanceCurve | Slopes):
                kind = "distance"
            elif layer is not None and layer.features.is_learned:
                kind = "shared"
            if layer is None or edit.get("kind") != kind:
                raise UserError(f"there is no {edit.get('kind')} {edit.get('layer')}")
            is_table = isinstance(layer, DistanceCurve) and layer.beyond == "clamp"
            numbers = _numbers(edit.get("values" if is_table else "coefficients"))
            if isinstance(layer, Slopes):
                _edit_slope(layer, edit, numbers, config.model.block_size)
            elif kind == "distance":
                head = _index(edit, "head", len(layer.weight))
                _check_count(numbers, layer.weight.shape[1])
                layer.weight[head, :, 0] = numbers
            elif kind == "edge":
                _edit_edge(layer, edit, numbers)
            else:
                _edit_shared(layer, edit, numbers)
    return config, model


def _edit_slope(layer: Slopes, edit: dict[str, Any], numbers: Tensor, length: int) -> None:
    """From the line's values at distance 0 and at the last one: see ``recipe.with_curves``."""
    head = _index(edit, "head", len(layer.slopes))
    _check_count(numbers, 2)
    layer.slopes[head] = (numbers[0] - numbers[1]) / (length - 1)


def _edit_edge(layer: KANLinear, edit: dict[str, Any], numbers: Tensor) -> None:
    row, column = (
        _index(edit, "output", layer.out_features),
        _index(edit, "input", layer.in_features),
    )
    _check_count(numbers, layer.features.size)
    layer.weight[row, :, column] = numbers
    if layer.spline_scale is not None:
        layer.spline_scale[row, column] = 1.0


def _edit_shared(layer: KANLinear, edit: dict[str, Any], numbers: Tensor) -> None:
    assert layer.coefficients is not None
    shape = layer.coefficients.shape
    function, group = _index(edit, "function", shape[0]), _index(edit, "group", shape[1])
    _as_splines(layer, edit)
    _check_count(numbers, layer.coefficients.shape[2] - 1)
    layer.coefficients[function, group] = torch.cat([torch.zeros(1), numbers])  # without a line


def _as_splines(layer: KANLinear, edit: dict[str, Any]) -> None:
    """Write all functions of a layer as cubic splines on the grid that an edit names."""
    low, high, count = _numbers(edit.get("spline"), 3).tolist()
    if not (low < high and 1 <= count <= MOST):
        raise UserError(f"a spline of {count:g} intervals from {low:g} to {high:g} cannot be")
    spline = BSpline(int(count), 3, (low, high), outside="linear")
    old, coefficients = layer.features, layer.coefficients
    assert isinstance(old.basis, Shared) and coefficients is not None
    if old.family == spline and old.base == "none":
        return
    x = torch.linspace(low, high, 8 * int(count) + 1, dtype=torch.float64)
    values = old.expand(x[:, None].expand(-1, old.groups), coefficients.double())  # (P, M, G)
    splines = spline.expand(x[:, None])[..., 0]  # (P, K)
    solved = torch.linalg.lstsq(splines, values.flatten(1)).solution  # (K, M * G)
    set_features(layer, replace(old, basis=replace(old.basis, family=spline), base="none"))
    coefficients[..., 1:] = solved.T.view(*coefficients.shape[:2], -1)


def _with_tables(
    model: GPT, config: RunConfig, curves: dict[str, DistanceCurve]
) -> tuple[RunConfig, GPT]:
    """The same model, its curves of distance being a number for every distance.

    One with curves that have a slope beyond the block stays as it is.
    """
    if config.model.curve.beyond == "linear":
        return config, model
    table = {"basis": "hat", "scale": "linear", "knots": max(config.model.curve_lengths)}
    config = with_changes(config, **{f"model.curve.{key}": value for key, value in table.items()})
    twin, state = GPT(config.model, model.vocab_size).eval(), model.state_dict()
    for name, curve in curves.items():
        own = twin.get_submodule(name)
        assert isinstance(own, DistanceCurve)
        values = curve.of(torch.arange(own.weight.shape[1]))
        state |= {f"{name}.weight": values[..., None], f"{name}.{STATE}": own.get_extra_state()}
    twin.load_state_dict(state)
    return config, twin


def _index(edit: dict[str, Any], name: str, count: int) -> int:
    value = edit.get(name)
    if not (type(value) is int and 0 <= value < count):
        raise UserError(f"{name} {value!r:.30} is not from 0 to {count - 1}")
    return value


def _check_count(numbers: Tensor, count: int) -> None:
    if len(numbers) != count:
        raise UserError(f"it has {len(numbers)} numbers, and the function has {count}")


def _numbers(value: Any, count: int | None = None) -> Tensor:
    is_list = isinstance(value, list) and (count is None or len(value) == count)
    if not is_list or not all(type(v) in (int, float) and math.isfinite(v) for v in value):
        raise UserError("its numbers are missing, or not finite")
    return torch.tensor(value, dtype=torch.float32)
