"""Ablation of single edges: do importance scores predict its effect?

m outputs, n inputs.
"""

import copy
import math

import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

from nanogpkant.interpretation.judge.evaluator import Trial
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


def ablation_trials(
    layers: dict[str, KANLinear],
    scores: dict[str, dict[str, Tensor]],
    means: dict[str, Tensor],
) -> list[Trial]:
    """Single edges, evenly spaced in the order of ``std_grad`` over all layers.

    Labels: ``layer``, ``output``, ``input`` and every score of the edge.

    Args:
        scores: {score: {layer: (m, n)}}, from ``importance``.
        means: (m, n) mean of each edge of each layer.
    """
    ranked = torch.cat([scores["std_grad"][name].flatten() for name in layers])
    order = ranked.argsort(descending=True, stable=True)
    count = min(ABLATED, len(order))
    chosen = order[torch.linspace(0, len(order) - 1, count).round().long()].tolist()
    starts = torch.tensor([0, *(scores["std_grad"][name].numel() for name in layers)]).cumsum(0)
    trials = []
    for place in chosen:
        number = int((starts[1:] <= place).sum())
        name = list(layers)[number]
        output, input = divmod(place - int(starts[number]), layers[name].in_features)

        def modules(name: str = name, output: int = output, input: int = input):
            mean = means[name][output, input].item()
            return {name: WithoutEdge(layers[name], output, input, mean)}

        labels = {"layer": name, "output": output, "input": input}
        labels |= {score: scores[score][name][output, input].item() for score in scores}
        trials.append(Trial(f"{name} {output} {input}", modules, labels))
    return trials


def rank_correlations(table: pd.DataFrame, scores: list[str]) -> pd.DataFrame:
    """Spearman's rank correlation of every score with the effect of ablating the edge.

    Args:
        table: rows of ``ablation_trials``.

    Returns:
        columns ``score``; ``with_kl``, the divergence of the predictions; ``with_loss``, the size
        of the change of the loss, which for a single edge is near float32's resolution. NaN where
        all values are equal, as after text of one character.
    """

    def rank(score: str, effect: pd.Series) -> float:
        if table[score].nunique() == 1 or effect.nunique() == 1:
            return math.nan
        return float(stats.spearmanr(table[score], effect).statistic)

    effects = {"with_kl": table["kl"], "with_loss": table["added"].abs()}
    return pd.DataFrame(
        [{"score": s} | {name: rank(s, effect) for name, effect in effects.items()} for s in scores]
    )
