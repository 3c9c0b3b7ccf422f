"""Ablation of single edges: do importance scores predict its effect?

m outputs, n inputs.
"""

import copy
import math
from functools import partial

import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

from nanogpkant.interpretation.judge.evaluator import Intervention
from nanogpkant.kan import KANLinear

ABLATED = 200  # edges ablated, one at a time


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
    layers: dict[str, KANLinear],
    scores: dict[str, dict[str, Tensor]],
    means: dict[str, Tensor],
) -> list[Intervention]:
    """Removal of single edges, evenly spaced in the order of ``std_grad`` over all layers.

    Labels: ``layer``, ``output``, ``input`` and every score of the edge.

    Args:
        scores: {score: {layer: (m, n)}}, from ``importance``.
        means: (m, n) mean of each edge of each layer.
    """

    def ablated(name: str, output: int, input: int) -> dict[str, nn.Module]:
        mean = means[name][output, input].item()
        return {name: WithoutEdge(layers[name], output, input, mean)}

    ranked = [scores["std_grad"][name].flatten() for name in layers]
    order = torch.cat(ranked).argsort(descending=True, stable=True)
    count = min(ABLATED, len(order))
    places = order[torch.linspace(0, len(order) - 1, count).round().long()]
    ends = torch.tensor([len(each) for each in ranked]).cumsum(0)
    found = []
    for place, number in zip(places, torch.bucketize(places, ends, right=True), strict=True):
        name = list(layers)[number]
        in_layer = int(place - ends[number]) + len(ranked[number])
        edge = (name, *divmod(in_layer, layers[name].in_features))
        labels = dict(zip(("layer", "output", "input"), edge, strict=True))
        labels |= {score: each[name][edge[1:]].item() for score, each in scores.items()}
        found.append(Intervention(labels, partial(ablated, *edge), " ".join(map(str, edge))))
    return found


def rank_correlations(table: pd.DataFrame, scores: list[str]) -> pd.DataFrame:
    """Spearman's rank correlation of every score with the effect of ablating the edge.

    Args:
        table: rows of ``edge_ablations``.

    Returns:
        columns ``score``; ``with_kl``, the divergence of the predictions; ``with_loss``, the size
        of the change of the loss, which for a single edge is near float32's resolution. NaN where
        all values are equal, as after text of one character.
    """

    def correlation(score: pd.Series, effect: pd.Series) -> float:
        if score.nunique() == 1 or effect.nunique() == 1:
            return math.nan
        return float(stats.spearmanr(score, effect).statistic)

    effects = {"with_kl": table["kl"], "with_loss": table["added"].abs()}
    rows = [{name: correlation(table[s], e) for name, e in effects.items()} for s in scores]
    return pd.DataFrame(rows).assign(score=scores)[["score", *effects]]
