"""What is left of a KAN layer when some of its edges are taken away.

An edge is gone when all its coefficients are zero. An input that no edge reads and an output that
no edge writes are gone from the matrices as well: the former is skipped, the latter is a constant.
"""

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.kan.layer import KANLinear


class PrunedLinear(nn.Module):
    """A KAN layer from some of its n inputs to some of its m outputs.

    Edges whose coefficients are all zero stay so in training: they get no gradient.

    Args:
        layer: the KAN layer from the n' inputs to the m' outputs that are left, without a bias.
        inputs: (n',) which inputs those are, ascending. Input vectors of exactly n' numbers are
            taken whole: where the layer before computes no others.
        outputs: (m',) which outputs those are, ascending.
        constant: (m,) added to the outputs, those without an edge included; learned like a bias.
        prenorm: as in ``KANLinear``, over all the inputs.

    Raises:
        ValueError: indices that do not fit the layer or its outputs; on the meta device, which
            holds no values, only their number is looked at.
    """

    def __init__(
        self,
        layer: KANLinear,
        inputs: Tensor,
        outputs: Tensor,
        constant: Tensor,
        prenorm: str = "none",
    ) -> None:
        super().__init__()
        for name, index, count in (
            ("inputs", inputs, layer.in_features),
            ("outputs", outputs, layer.out_features),
        ):
            unordered = not index.is_meta and ((index.diff() <= 0).any() or index.min() < 0)
            if index.shape != (count,) or unordered:
                raise ValueError(f"{name} are not {count} different indices, ascending")
        if constant.dim() != 1 or (not outputs.is_meta and outputs.max() >= len(constant)):
            raise ValueError(f"the outputs reach beyond the {constant.numel()} that there are")
        self.layer, self.prenorm = layer, prenorm
        self.constant = nn.Parameter(constant)
        self.register_buffer("inputs", inputs)
        self.register_buffer("outputs", outputs)
        self.train()

    def train(self, mode: bool = True) -> "PrunedLinear":
        """As of any module; from then on edges that are gone get no gradient.

        Not in __init__ alone, because some loaders put other parameters in place of the first ones.
        """
        if mode and not self.layer.weight._backward_hooks:
            self.layer.weight.register_hook(self._of_edges_left)
        return super().train(mode)

    def _of_edges_left(self, gradient: Tensor) -> Tensor:
        return gradient * self.edges_left()[:, None]

    @property
    def has_groups(self) -> bool:
        """Whether groups of inputs share functions, so that no input can be dropped."""
        features = self.layer.features
        return features.is_learned and features.basis.groups > 1

    def edges_left(self) -> Tensor:
        """(m', n'): which edges between the remaining inputs and outputs are not pruned."""
        return (self.layer.weight.detach() != 0).any(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) or (..., n') -> (..., m)."""
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
    """A layer without some of its edges; the layer itself is left as it is.

    Args:
        layer: a KAN layer, or one that was pruned before.
        keep: (m', n') which of its edges stay.
        constant: (m',) added to its outputs in place of the edges that go.
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
    """A pruned layer with fewer rows and columns; what is dropped is dropped without replacement.

    Groups of inputs that share functions have to stay whole, so there no input is dropped.

    Args:
        pruned: left as it is.
        outputs: (m',) bool, which of the outputs that are left stay.
        inputs: (n',) bool, likewise.
    """
    if pruned.has_groups:
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
    """A pruned layer of the shape of a saved one, not yet filled.

    Args:
        layer: the whole layer, as the configuration makes it.
        saved: state of the pruned layer.

    Raises:
        ValueError: tensors that no pruned layer has.
    """
    try:
        weight, constant = saved["layer.weight"], saved["constant"]
        inputs, outputs = saved["inputs"], saved["outputs"]
    except KeyError as error:
        raise ValueError(f"{error} of a pruned layer is missing") from error
    if weight.dim() != 3 or 0 in weight.shape:
        raise ValueError(f"a weight of shape {tuple(weight.shape)} is no KAN layer's")
    inner = _whole(layer).layer
    inner.weight = nn.Parameter(torch.empty_like(weight))
    inner.out_features, inner.in_features = weight.shape[0], weight.shape[2]
    return PrunedLinear(inner, inputs, outputs, torch.empty_like(constant), layer.prenorm)


def _whole(layer: KANLinear) -> PrunedLinear:
    """A copy of a KAN layer as a pruned one that has lost nothing yet."""
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
    """A layer of no inputs or outputs cannot be: keep one, all of whose edges are zero."""
    keep = keep.clone()
    keep[0] |= ~keep.any()
    return keep
