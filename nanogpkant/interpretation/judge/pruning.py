"""Pruning edges: the loss for every score and share, and the layers of a smaller model.

A pruned edge becomes its mean, added to its output, or zero. Three things are then removed from the
matrices, which leaves the model's outputs unchanged:

- an input that no edge of the layer reads. The residual stream goes on carrying it for others; the
  layer skips it.
- an output that no edge writes. It is a constant; the layer adds it to the stream.
- a unit between two KAN layers that is never read or is constant: a hidden unit of the MLP, or a
  component of an attention head's values, which only the output projection reads.

Queries and keys keep their width: a constant component of one still multiplies the other's.

Source: the loss under mean and zero ablation by score follows the practice of circuit analysis
(EAP-IG, arXiv 2403.17806).
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nanogpkant.interpretation.judge.evaluator import SwapEvaluator
from nanogpkant.interpretation.judge.faithfulness import first_share
from nanogpkant.interpretation.store import Remember, rows_of
from nanogpkant.kan.pruned import PrunedLinear, narrowed, prune
from nanogpkant.model.gpt import GPT

SHARES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)  # of all edges removed
ABLATIONS = ("mean", "zero")


def by_input(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scores (m, n) of edges -> scores of whole inputs, the same for all edges of one.

    The root of the mean square, so that layers with many outputs are not ahead by their number.
    """
    return {name: s.square().mean(0).sqrt().expand_as(s) for name, s in scores.items()}


def kept_edges(scores: dict[str, Tensor], removed: float) -> dict[str, Tensor]:
    """Which edges (m, n) of each layer stay when a share of all is removed, the lowest first."""
    return first_share(scores, 1 - removed)


def pruned_layers(
    model: GPT, keep: dict[str, Tensor], means: dict[str, Tensor] | None
) -> dict[str, nn.Module]:
    """The layers of a model without some of their edges, by the name that they go under in it.

    Args:
        model: left as it is.
        keep: which edges (m, n) of each KAN layer stay, by its name.
        means: (m, n) the mean of each edge, which takes its place; None leaves nothing.
    """
    made: dict[str, nn.Module] = {}
    for name, kept in keep.items():
        kept = kept.to(model.tokens.weight.device)
        parent, _, last = name.rpartition(".")
        whole = model.get_submodule(parent)
        is_pruned = last == "layer" and isinstance(whole, PrunedLinear)
        layer = whole if is_pruned else model.get_submodule(name)
        # (m,), what takes the place of the edges that go
        constant = torch.zeros(len(kept)) if means is None else (means[name] * ~kept).sum(1)
        made[parent if is_pruned else name] = prune(layer, kept, constant)
    values = 2 * model.config.n_embd  # where they begin, behind queries and keys
    for block in (f"blocks.{number}" for number in range(model.config.n_layer)):
        _drop_units(made, f"{block}.attention.qkv", f"{block}.attention.out", values)
        if model.config.mlp != "swiglu":  # a gate and its value are two outputs for one input
            _drop_units(made, f"{block}.mlp.into", f"{block}.mlp.out", 0)
    return made


def pruning(
    judge: SwapEvaluator,
    scores: dict[str, dict[str, Tensor]],
    means: dict[str, Tensor],
    remember: Remember,
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """The loss of the model without some of its edges, a row for each choice of them.

    Args:
        judge: the model and the text.
        scores: by name of the score, (m, n) for each layer.
        means: (m, n) the mean of each edge of each layer.
        remember: finds a row, or takes it from where it was kept.
        progress: called with (rows done, rows in all).

    Returns:
        rows of ``score``, ``ablation`` ("mean" or "zero"), ``share`` of edges removed, ``loss``,
        ``kl``, ``tokens`` and ``added``: loss above the original's.
    """

    def row(name: str, ablation: str, share: float) -> dict[str, Any]:
        keep = kept_edges(scores[name], share)
        made = pruned_layers(judge.model, keep, means if ablation == "mean" else None)
        return {"score": name, "ablation": ablation, "share": share} | judge.row(made)

    trials = {
        f"{share:g} by {name}, {ablation}": partial(row, name, ablation, share)
        for name, ablation, share in itertools.product(scores, ABLATIONS, SHARES)
    }
    return rows_of(trials, remember, progress)


def _drop_units(made: dict[str, nn.Module], before: str, after: str, start: int) -> None:
    """Drop the units between two layers that are never read or are constant.

    Such a number, or unit, is an input of the layer after and, counted from ``start``, an output of
    the layer before. A mean of equal values is that value, so attention changes nothing about it.
    """
    into, out = made.get(before), made.get(after)
    if into is None or out is None or out.prenorm != "none":  # in a norm every unit counts
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
    if start == 0:  # nothing else is between them: the units themselves become fewer
        count = torch.arange(int(stay.sum()), device=stay.device)
        into.constant = nn.Parameter(into.constant.detach()[stay])
        into.outputs, out.inputs = count, count.clone()
    made[before], made[after] = into, out
