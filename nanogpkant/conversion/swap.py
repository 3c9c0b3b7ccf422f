"""Modules of any torch model replaced by KAN layers, or learned activations, of the same function.

``kanify`` decides what to replace; this is the replacement itself, which a saved model repeats when
it is loaded.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nanogpkant.conversion.distance import CURVE, new_curve, use_curves
from nanogpkant.conversion.plain_to_kan import kan_state
from nanogpkant.kan.activation import LearnedActivation
from nanogpkant.kan.features import Features
from nanogpkant.kan.layer import KANLinear


class Swap(NamedTuple):
    """What becomes of one module; plain values, since a saved model's config.json has it."""

    features: str
    """``Features.spec`` of the functions"""
    activation: str = ""
    """name of the module or function in front of it that becomes the base function, if any"""
    heads: int = 0
    """of a new curve of distance; 0: no curve"""
    longest: int = 0
    """distances that the curve is made for"""

    @property
    def plain(self) -> list[Any]:
        """As config.json has it."""
        return list(self if self.heads else self[:2])


def plain_weight(module: nn.Module) -> Tensor | None:
    """(out, in) weight of an ``nn.Linear``, or transformers' Conv1D; None of another module.

    Subclasses with a forward of their own, those of quantisation for instance, are others.
    """
    is_linear = type(module).forward is nn.Linear.forward
    if is_linear and isinstance(module.weight, nn.Parameter) and not is_lazy(module.weight):
        return module.weight
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # its weight is (in, out)
        return module.weight.T  # pyright: ignore[reportReturnType, reportCallIssue]
    return None


def as_kan(linear: nn.Module, weight: Tensor, features: Features) -> KANLinear:
    """A KAN layer with the function of a linear layer after the base function of the features.

    Args:
        weight: (out, in), the ``plain_weight`` of the layer, whose bias stays the same parameter.
    """
    (out, n), bias = weight.shape, getattr(linear, "bias", None)
    basis: Any = features.basis  # shared functions too
    layer = KANLinear(n, out, bias is not None, basis=basis, base=features.base, device="meta")
    for name, value in kan_state(weight.detach(), layer).items():
        value = value.to(weight.device, weight.dtype)
        setattr(layer, name, nn.Parameter(value, requires_grad=weight.requires_grad))
    if layer.coefficients is not None:
        layer.coefficients.requires_grad_()
    layer.bias = bias
    return layer.train(linear.training)


def apply(model: nn.Module, swaps: Mapping[str, Swap]) -> None:
    """Replace modules, by name, and add curves; the model's function stays the same."""
    for name, swap in swaps.items():
        if swap.heads:
            parent, _, attribute = name.rpartition(".")
            attention = model.get_submodule(parent)
            first = next(attention.parameters())
            curve = new_curve(swap.heads, swap.longest, swap.features)
            setattr(attention, attribute, curve.to(first.device, first.dtype))
            continue
        features, module = Features.from_spec(swap.features), model.get_submodule(name)
        weight = plain_weight(module)
        if weight is None:  # an activation
            first = next(model.parameters())
            new = LearnedActivation(features, first.device, first.dtype).train(module.training)
        else:
            new = as_kan(module, weight, features)
        model.set_submodule(name, new)
        if swap.activation:
            parent, _, attribute = swap.activation.rpartition(".")
            setattr(model.get_submodule(parent), attribute, nn.Identity())
    if any(name.endswith(f".{CURVE}") for name in swaps):
        use_curves(model)


def repeated(model: nn.Module, swaps: Mapping[str, Swap]) -> dict[str, Swap]:
    """The same swaps with the functions that the model has now: grids change in training."""
    now = {}
    for name, swap in swaps.items():
        module: Any = model.get_submodule(name)
        now[name] = swap._replace(features=module.features.spec)
    return now
