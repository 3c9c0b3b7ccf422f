"""Edges removed: one at a time, to test importance scores, or many, as layers that are smaller.

A removed edge becomes its mean, added to a constant of its output, or nothing. Three things then
leave the matrices, with the same outputs:

- an input that no edge of the layer reads: the layer skips it in the residual stream.
- an output that no edge writes: the layer adds its constant to the stream.
- a unit between two KAN layers that nothing reads or that is constant: a hidden unit of the MLP, or
  a value dimension of an attention head, which only the output projection reads.

Queries and keys keep their width: a dimension missing in one is still multiplied by the other.

Source: the loss under mean and zero ablation by score is common in circuit analysis (EAP-IG, arXiv
2403.17806).

m outputs, n inputs. Scores are {score: {layer: (m, n)}}, means {layer: (m, n)}.
"""

import copy
import itertools
import math
from functools import partial
from typing import Any, cast

import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

from nanogpkant.interpretation.judge.evaluator import Intervention
from nanogpkant.interpretation.judge.replacements import first_share
from nanogpkant.kan import KANLinear
from nanogpkant.kan.pruned import PrunedLinear, narrowed, prune
from nanogpkant.model.gpt import GPT

ABLATED = 200  # edges ablated, one at a time
SHARES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)  # of all edges removed
ABLATIONS = ("mean", "zero")

Scores = dict[str, dict[str, Tensor]]


class WithoutEdge(nn.Module):
    """A KAN layer in which one edge is replaced by its mean."""

    def __init__(self, layer: KANLinear, output: int, input: int, mean: float) -> None:
        super().__init__()
        self.rest, self.output, self.mean = copy.deepcopy(layer), output, mean
        with torch.no_grad():
            self.rest.weight[output, :, input] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., m)."""
        y = self.rest(x)
        y[..., self.output] += self.mean
        return y


def edge_ablations(
    layers: dict[str, KANLinear], scores: Scores, means: dict[str, Tensor]
) -> list[Intervention]:
    """Removal of single edges, evenly spaced in the order of ``std_grad`` over all layers.

    Labels: ``layer``, ``output``, ``input`` and every score of the edge.
    """

    def without(name: str, output: int, input: int) -> dict[str, nn.Module]:
        mean = means[name][output, input].item()
        return {name: WithoutEdge(layers[name], output, input, mean)}

    ranked = [scores["std_grad"][name].flatten() for name in layers]
    order = torch.cat(ranked).argsort(descending=True, stable=True)
    count = min(ABLATED, len(order))
    places = order[torch.linspace(0, len(order) - 1, count, dtype=torch.float64).round().long()]
    starts = torch.tensor([0, *map(len, ranked)]).cumsum(0)
    numbers = torch.bucketize(places, starts[1:], right=True)
    found = []
    for place, number in zip((places - starts[numbers]).tolist(), numbers.tolist(), strict=True):
        name = list(layers)[number]
        output, input = divmod(place, layers[name].in_features)
        labels = {"layer": name, "output": output, "input": input}
        labels |= {score: each[name][output, input].item() for score, each in scores.items()}
        make = partial(without, name, output, input)
        found.append(Intervention(labels, make, f"{name} {output} {input}"))
    return found


def rank_correlations(table: pd.DataFrame, scores: list[str]) -> pd.DataFrame:
    """Spearman's rank correlation of every score with the effect of ablating the edge.

    Args:
        table: a row for each of the ``edge_ablations``.

    Returns:
        columns ``score``; ``with_kl``, the divergence of the predictions; ``with_loss``, the size
        of the change of the loss, which for a single edge is near float32's resolution. NaN where
        all values are equal, as after text of one character.
    """

    def correlation(score: Any, effect: Any) -> float:
        if score.nunique() == 1 or effect.nunique() == 1:
            return math.nan
        found: Any = stats.spearmanr(score, effect)
        return float(found.statistic)

    effects = {"with_kl": table["kl"], "with_loss": table["added"].abs()}
    rows = [[s, *(correlation(table[s], effect) for effect in effects.values())] for s in scores]
    return pd.DataFrame(rows, columns=["score", *effects])


def by_input(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scores of inputs, repeated for all edges of an input.

    The root mean square, so that layers with many outputs do not rank higher by their size.
    """
    return {name: s.square().mean(0).sqrt().expand_as(s) for name, s in scores.items()}


def prunings(model: GPT, scores: Scores, means: dict[str, Tensor]) -> list[Intervention]:
    """Shares of the edges removed, by every score and ablation.

    Labels: ``score``, ``ablation`` ("mean" or "zero") and ``share`` of edges removed.
    """

    def pruned(score: str, ablation: str, share: float) -> dict[str, nn.Module]:
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


def pruned_layers(
    model: GPT, keep: dict[str, Tensor], means: dict[str, Tensor] | None
) -> dict[str, nn.Module]:
    """The layers of a model without some of their edges, by module name.

    Args:
        model: left as it is.
        keep: masks (m, n) of the edges of each KAN layer that stay, by its name.
        means: (m, n) constants that replace the edges; None is zero.
    """
    made: dict[str, PrunedLinear] = {}
    for name, kept in keep.items():
        kept = kept.to(model.tokens.weight.device)
        parent = name.rpartition(".")[0]
        layer = model.get_submodule(parent)  # of a layer that was pruned before
        if not isinstance(layer, PrunedLinear):
            parent, layer = name, cast(KANLinear, model.get_submodule(name))
        constant = torch.zeros(len(kept)) if means is None else (means[name] * ~kept).sum(1)
        made[parent] = prune(layer, kept, constant)
    values = 2 * model.config.n_embd  # first output of the values, behind queries and keys
    for block in (f"blocks.{number}" for number in range(model.config.n_layer)):
        if not model.config.value_residual:  # else values are mixed with those of the first block
            _drop_units(made, f"{block}.attention.qkv", f"{block}.attention.out", values)
        # A gate and its value are two outputs for one input.
        if model.config.activation != "swiglu":
            _drop_units(made, f"{block}.mlp.into", f"{block}.mlp.out", 0)
    return dict(made)


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
    if not stay.any() or out.layer.features.groups > 1:
        return
    is_constant = (is_read & ~is_written)[out.inputs]  # (n',)
    value = into.constant.detach()[start:][out.inputs]
    added = (out.layer.edges(value[None])[0].detach() * is_constant).sum(1)  # (m',)
    rows = (into.outputs < start) | stay[(into.outputs - start).clamp(min=0)]
    into = narrowed(into, rows, torch.ones_like(into.inputs, dtype=torch.bool))
    out = narrowed(out, torch.ones_like(out.outputs, dtype=torch.bool), stay[out.inputs])
    with torch.no_grad():
        out.constant.index_add_(0, out.outputs, added.to(out.constant))
    if start == 0:  # an MLP: the number of units shrinks
        count = torch.arange(int(stay.sum()), device=stay.device)
        into.constant = nn.Parameter(into.constant.detach()[stay])
        into.outputs, out.inputs = count, count.clone()
    made[before], made[after] = into, out
