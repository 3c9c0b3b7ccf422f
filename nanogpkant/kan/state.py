"""The features of a layer as part of its state: saved, loaded and replaced with its weights."""

import json
from collections.abc import MutableMapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.weak import WeakTensorKeyDictionary

from nanogpkant.kan.bases.base import Basis
from nanogpkant.kan.bases.bspline import BSpline
from nanogpkant.kan.features import Features
from nanogpkant.kan.shared import Shared

STATE = "_extra_state"  # last part of the key in ``state_dict``, by torch's convention

# Earlier shapes of parameters that changed theirs.
_old_shapes: MutableMapping[Tensor, set[torch.Size]] = WeakTensorKeyDictionary()


class FeatureLayer(nn.Module):
    """A module with features and their weights: the part of ``KANLinear`` that grids change.

    ``state_dict`` holds the features and ``prenorm`` beside the parameters. Loading weights made
    with other features replaces those of the layer; weights without a description load as they are.
    """

    in_features: int
    weight: nn.Parameter  # (out, M, in)
    coefficients: nn.Parameter | None  # (functions, groups, numbers)
    features: Features
    prenorm: str
    backend: str

    @property
    def basis(self) -> Basis | Shared:
        """The functions of an edge, without the base function."""
        return self.features.basis

    def get_extra_state(self) -> Tensor:
        """All that decides the function beside the parameters: JSON as uint8.

        A tensor, since safetensors files hold nothing else.
        """
        text = json.dumps({"features": self.features.spec, "prenorm": self.prenorm})
        return torch.tensor(list(text.encode()), dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Take the features of saved weights; see ``set_features``.

        Raises:
            ValueError: ``state`` describes no layer of this kind.
        """
        try:
            values = json.loads(bytes(state.tolist()))
            features, prenorm = Features.from_spec(values["features"]), values["prenorm"]
        except (TypeError, KeyError) as error:
            raise ValueError(f"{STATE} describes no KAN layer") from error
        if features != self.features:
            set_features(self, features)
        self.prenorm = prenorm

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        """As of any module, but the features come before the weights, whose shapes follow."""
        key = prefix + STATE
        try:
            if key in state_dict:
                self.set_extra_state(state_dict[key])
        except ValueError as error:
            error_msgs.append(f"{key}: {error}")
            return
        lists = (missing_keys, unexpected_keys, error_msgs)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)
        if key in missing_keys:
            missing_keys.remove(key)


def has_grid(layer: FeatureLayer) -> bool:
    """Whether the functions of a layer, own or shared, are B-splines."""
    return isinstance(layer.features.family, BSpline)


def spline_of(layer: FeatureLayer) -> BSpline:
    """The B-splines of a layer, own or shared.

    Raises:
        ValueError: it has none.
    """
    family = layer.features.family
    if not isinstance(family, BSpline):
        raise ValueError(f"a layer with the basis {layer.basis} has no grid of splines to change")
    return family


def coefficients_of(layer: FeatureLayer) -> tuple[nn.Parameter, int]:
    """The parameter with the coefficients of a layer's basis, last along the given axis."""
    return (layer.weight, 1) if layer.coefficients is None else (layer.coefficients, 2)


def set_features(layer: FeatureLayer, features: Features) -> None:
    """Give a layer other features, and coefficients of that shape that are all zero.

    Raises:
        ValueError: one shares functions between edges, and the other does not.
    """
    if features.is_learned != layer.features.is_learned:
        raise ValueError(f"{features.basis} are not functions of the kind {layer.basis}")
    layer.features = features
    parameter, axis = coefficients_of(layer)
    shape = list(parameter.shape)
    learned = features.coefficient_shape
    shape[axis] = learned[2] if learned else features.size
    replace_value(parameter, parameter.data.new_zeros(shape))


def replace_value(parameter: nn.Parameter, value: Tensor) -> None:
    """Give a parameter a value of any shape; it stays the same object.

    An optimizer whose moments keep the old shape fails at its next step, with a clear error.
    """
    if value.shape != parameter.shape:
        _watch_optimizers()
        _old_shapes.setdefault(parameter, set()).add(parameter.shape)
    parameter.grad = None
    # The graph of a result that is still alive expects a gradient of the old shape. Torch drops
    # that expectation only at a change of dtype.
    parameter.data = value.new_empty(0, dtype=torch.complex64)
    parameter.data = value


@cache
def _watch_optimizers() -> None:
    register_optimizer_step_pre_hook(_refuse_old_moments)


def _refuse_old_moments(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Raise RuntimeError if the moments are of a grid that a layer no longer has."""
    for parameter, old in _old_shapes.items():
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape in old and value.shape != parameter.shape:
                raise RuntimeError(
                    "the grid of a KAN layer changed, and the moments of this optimizer did not: "
                    "call update_grid and refine with optimizer=..., or make a new optimizer"
                )
