"""Pruning: layers without their least important edges, and the loss without them.

A pruned edge becomes its mean, added to a constant of its output, or nothing. Three things then
leave the matrices, with the same outputs:

- an input that no edge of the layer reads: the layer skips it in the residual stream.
- an output that no edge writes: the layer adds its constant to the stream.
- a unit between two KAN layers that nothing reads or that is constant: a hidden unit of the MLP, or
  a value dimension of an attention head, which only the output projection reads.

Queries and keys keep their width: a dimension missing in one is still multiplied by the other.

Source: the loss under mean and zero ablation by score is common in circuit analysis (EAP-IG, arXiv
2403.17806).
"""

import itertools
from functools import partial

import torch
from torch import Tensor, nn

from nanogpkant.interpretation.judge.evaluator import Intervention
from nanogpkant.interpretation.judge.replacements import first_share
from nanogpkant.kan.pruned import PrunedLinear, narrowed, prune
from nanogpkant.model.gpt import GPT

SHARES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)  # of all edges removed
ABLATIONS = ("mean", "zero")


def by_input(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scores (m, n) of edges -> scores of inputs, repeated for all edges of an input.

    The root mean square, so that layers with many outputs do not rank higher by their size.
    """
    return {name: s.square().mean(0).sqrt().expand_as(s) for name, s in scores.items()}


def pruned_layers(
    model: GPT, keep: dict[str, Tensor], means: dict[str, Tensor] | None
) -> dict[str, PrunedLinear]:
    """The layers of a model without some of their edges, by module name.

    Args:
        model: left as it is.
        keep: masks (m, n) of the edges of each KAN layer that stay, by its name.
        means: (m, n) constants that replace the edges; None is zero.
    """
    made: dict[str, PrunedLinear] = {}
    for name, kept in keep.items():
        kept = kept.to(model.tokens.weight.device)
        parent, _, last = name.rpartition(".")
        whole = model.get_submodule(parent)
        is_pruned = last == "layer" and isinstance(whole, PrunedLinear)
        layer = whole if is_pruned else model.get_submodule(name)
        # (m,)
        constant = torch.zeros(len(kept)) if means is None else (means[name] * ~kept).sum(1)
        made[parent if is_pruned else name] = prune(layer, kept, constant)
    values = 2 * model.config.n_embd  # first output of the values, behind queries and keys
    for block in (f"blocks.{number}" for number in range(model.config.n_layer)):
        _drop_units(made, f"{block}.attention.qkv", f"{block}.attention.out", values)
        if model.config.mlp != "swiglu":  # a gate and its value are two outputs for one input
            _drop_units(made, f"{block}.mlp.into", f"{block}.mlp.out", 0)
    return made


def prunings(
    model: GPT, scores: dict[str, dict[str, Tensor]], means: dict[str, Tensor]
) -> list[Intervention]:
    """Shares of the edges removed, by every score and ablation.

    Labels: ``score``, ``ablation`` ("mean" or "zero") and ``share`` of edges removed.

    Args:
        scores: by name of the score, (m, n) for each layer.
        means: (m, n) mean of each edge of each layer.
    """

    def pruned(score: str, ablation: str, share: float) -> dict[str, PrunedLinear]:
        keep = first_share(scores[score], 1 - share)
        return pruned_layers(model, keep, means if ablation == "mean" else None)

    return [
        Intervention(
            {"score": score, "ablation": ablation, "share": share},
            partial(pruned, score, ablation, share),
            f"{share:g} by {score}, {ablation}",
        )
        for score, ablation, share in itertools.product(scores, ABLATIONS, SHARES)
    ]


def _drop_units(made: dict[str, PrunedLinear], before: str, after: str, start: int) -> None:
    """Drop the units between two layers that are not read or are constant.

    A unit is an input of the layer after and, counted from ``start``, an output of the layer
    before. Attention averages over tokens, so a constant value stays that constant.
    """
    into, out = made.get(before), made.get(after)
    if into is None or out is None or out.prenorm != "none":  # a norm reads every unit
        return
    units = len(into.constant) - start
    is_written, is_read = torch.zeros(2, units, dtype=torch.bool, device=out.inputs.device)
    is_written[into.outputs[into.outputs >= start] - start] = True
    is_read[out.inputs] = True
    stay = is_written & is_read
    if not stay.any() or out.has_groups:
        return
    same = (is_read & ~is_written)[out.inputs]  # (n',)
    value = into.constant.detach()[start:][out.inputs]
    said = (out.layer.edges(value[None])[0].detach() * same).sum(1)  # (m',)
    rows = (into.outputs < start) | stay[(into.outputs - start).clamp(min=0)]
    into = narrowed(into, rows, torch.ones_like(into.inputs, dtype=torch.bool))
    out = narrowed(out, torch.ones_like(out.outputs, dtype=torch.bool), stay[out.inputs])
    with torch.no_grad():
        out.constant.index_add_(0, out.outputs, said.to(out.constant))
    if start == 0:  # an MLP: the number of units shrinks
        count = torch.arange(int(stay.sum()), device=stay.device)
        into.constant = nn.Parameter(into.constant.detach()[stay])
        into.outputs, out.inputs = count, count.clone()
    made[before], made[after] = into, out
