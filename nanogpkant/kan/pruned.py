"""KAN layers without some of their edges.

A pruned edge has coefficients that are all zero. Inputs and outputs without edges are removed from
the matrices: such an input is skipped, such an output is a constant.
"""

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.kan.layer import KANLinear


class PrunedLinear(nn.Module):
    """A KAN layer from some of its n inputs to some of its m outputs.

    Edges whose coefficients are all zero stay zero in training: they get no gradient.

    Args:
        layer: the KAN layer from the n' remaining inputs to the m' remaining outputs, without bias.
        inputs: (n',) indices of those inputs, ascending. Input vectors of exactly n' numbers are
            taken whole, for a previous layer that computes no others.
        outputs: (m',) indices of those outputs, ascending.
        constant: (m,) added to all outputs; learned like a bias.
        prenorm: as in ``KANLinear``, over all the inputs.

    Raises:
        ValueError: indices that do not fit the layer or its outputs; on the meta device, which has
            no values, only their number is checked.
    """

    inputs: Tensor
    outputs: Tensor

    def __init__(
        self,
        layer: KANLinear,
        inputs: Tensor,
        outputs: Tensor,
        constant: Tensor,
        prenorm: str = "none",
    ) -> None:
        super().__init__()
        shape = {"inputs": layer.in_features, "outputs": layer.out_features}
        for name, index in (("inputs", inputs), ("outputs", outputs)):
            unordered = not index.is_meta and ((index.diff() <= 0).any() or index.min() < 0)
            if index.shape != (shape[name],) or unordered:
                raise ValueError(f"{name} are not {shape[name]} different indices, ascending")
            self.register_buffer(name, index)
        if constant.dim() != 1 or (not outputs.is_meta and outputs.max() >= len(constant)):
            raise ValueError(f"an index of outputs is above the {constant.numel()} constants")
        self.layer, self.prenorm = layer, prenorm
        self.constant, self.training = nn.Parameter(constant), layer.training

    def edges_left(self) -> Tensor:
        """(m', n') bool: edges that are not pruned."""
        return (self.layer.weight.detach() != 0).any(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) or (..., n') -> (..., m)."""
        weight = getattr(self.layer, "weight", None)  # some stand-ins for the layer have none
        if weight is not None and weight.requires_grad and not weight._backward_hooks:
            weight.register_hook(lambda grad: grad * self.edges_left()[:, None])
        if self.prenorm == "rms":
            x = F.rms_norm(x, x.shape[-1:])
        if x.shape[-1] > len(self.inputs):
            x = x.index_select(-1, self.inputs)
        y = self.layer(x)
        constant = self.constant.to(y.dtype)
        if len(self.outputs) == len(constant):
            return y + constant
        return constant.expand(*y.shape[:-1], -1).index_add(-1, self.outputs, y)


def prune(layer: KANLinear | PrunedLinear, keep: Tensor, constant: Tensor) -> PrunedLinear:
    """A copy of a layer without some of its edges.

    Args:
        layer: a KAN layer, or one that was pruned before.
        keep: (m', n') bool, edges to keep.
        constant: (m',) added to the outputs in place of the pruned edges.
    """
    old = layer if isinstance(layer, PrunedLinear) else _whole(layer)
    total = old.constant.detach().index_add(0, old.outputs, constant.to(old.constant))
    inner = copy.deepcopy(old.layer)
    with torch.no_grad():
        inner.weight.mul_(keep[:, None])
    return narrowed(
        PrunedLinear(inner, old.inputs, old.outputs, total, old.prenorm),
        _at_least_one(keep.any(dim=1)),
        _at_least_one(keep.any(dim=0)),
    )


def narrowed(pruned: PrunedLinear, outputs: Tensor, inputs: Tensor) -> PrunedLinear:
    """A copy of a pruned layer with fewer rows and columns, dropped without replacement.

    Groups of inputs with their own functions have to stay whole: then no input is dropped.

    Args:
        outputs: (m',) bool, remaining outputs to keep.
        inputs: (n',) bool, likewise.
    """
    if pruned.layer.features.groups > 1:
        inputs = torch.ones_like(inputs)
    inner = copy.deepcopy(pruned.layer)
    inner.weight = nn.Parameter(inner.weight.detach()[outputs][:, :, inputs])
    inner.out_features, inner.in_features = int(outputs.sum()), int(inputs.sum())
    return PrunedLinear(
        inner,
        pruned.inputs[inputs],
        pruned.outputs[outputs],
        pruned.constant.detach().clone(),
        pruned.prenorm,
    )


def like_saved(layer: KANLinear, saved: Mapping[str, Tensor]) -> PrunedLinear:
    """A pruned layer of the shape of a saved one, with uninitialised weights.

    Args:
        layer: the whole layer, as configured.
        saved: state of the pruned layer.

    Raises:
        ValueError: tensors that are no state of a pruned layer.
    """
    try:
        weight, constant = saved["layer.weight"], saved["constant"]
        inputs, outputs = saved["inputs"], saved["outputs"]
    except KeyError as error:
        raise ValueError(f"{error} of a pruned layer is missing") from error
    if weight.dim() != 3 or 0 in weight.shape:
        raise ValueError(f"a weight of shape {tuple(weight.shape)} is no KAN layer's")
    fits = (outputs.shape, inputs.shape) == (weight.shape[:1], weight.shape[2:])
    if not (fits and inputs.dtype == outputs.dtype == torch.int64 and constant.dim() == 1):
        raise ValueError("inputs, outputs and constant do not fit the weight")
    beyond = not inputs.is_meta and inputs.max() >= layer.in_features
    if beyond or len(constant) > layer.out_features:
        raise ValueError(f"is no part of {layer.in_features} inputs, {layer.out_features} outputs")
    inner = _whole(layer).layer
    inner.weight = nn.Parameter(torch.empty_like(weight))
    inner.out_features, inner.in_features = weight.shape[0], weight.shape[2]
    return PrunedLinear(inner, inputs, outputs, torch.empty_like(constant), layer.prenorm)


def _whole(layer: KANLinear) -> PrunedLinear:
    """A copy of a KAN layer as a pruned one, with all its edges."""
    inner = copy.deepcopy(layer)
    inner.fold_scale()
    inner.bias, inner.prenorm = None, "none"
    device = layer.weight.device
    constant = layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias
    return PrunedLinear(
        inner,
        torch.arange(layer.in_features, device=device),
        torch.arange(layer.out_features, device=device),
        constant.detach().clone(),
        layer.prenorm,
    )


def _at_least_one(keep: Tensor) -> Tensor:
    """Keep one input or output, with zero edges, if none is left."""
    keep = keep.clone()
    keep[0] |= ~keep.any()
    return keep
