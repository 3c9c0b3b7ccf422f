"""Ablation of single edges, and how well importance predicts its effect."""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

from nanogpkant.interpretation.judge.evaluator import SwapEvaluator
from nanogpkant.interpretation.store import Remember, rows_of
from nanogpkant.kan import KANLinear

ABLATED = 200  # edges, one at a time


class WithoutEdge(nn.Module):
    """A KAN layer whose edge from one input to one output gives its mean, whatever the input."""

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


def ablations(
    judge: SwapEvaluator,
    layers: dict[str, KANLinear],
    scores: dict[str, dict[str, Tensor]],
    means: dict[str, Tensor],
    remember: Remember,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Ablate single edges, one at a time: a row each, with the effect.

    The edges are evenly spaced in the order of ``std_grad`` over all layers, from the most
    important to the least.

    Args:
        scores: {score: {layer: (m, n)}}, as ``importance`` gives them.
        means: (m, n) the mean of each edge of each layer.
        remember: ``Stage.result``.
    """
    ranked = torch.cat([scores["std_grad"][name].flatten() for name in layers])
    order = ranked.argsort(descending=True, stable=True)
    count = min(ABLATED, len(order))
    chosen = order[torch.linspace(0, len(order) - 1, count).round().long()].tolist()
    starts = torch.tensor([0, *(scores["std_grad"][name].numel() for name in layers)]).cumsum(0)

    def take_out(name: str, output: int, input: int) -> dict[str, float]:
        without = WithoutEdge(layers[name], output, input, means[name][output, input].item())
        return judge.row({name: without})

    trials, edges = {}, []
    for place in chosen:
        number = int((starts[1:] <= place).sum())
        name = list(layers)[number]
        output, input = divmod(place - int(starts[number]), layers[name].in_features)
        trials[f"{name} {output} {input}"] = partial(take_out, name, output, input)
        of = {score: scores[score][name][output, input].item() for score in scores}
        edges.append({"layer": name, "output": output, "input": input} | of)
    rows = rows_of(trials, remember, progress)
    return [edge | row for edge, row in zip(edges, rows, strict=True)]


def rank_correlations(rows: list[dict[str, Any]], scores: list[str]) -> pd.DataFrame:
    """Spearman rank correlation of every score with the measured effect of ablation.

    Columns: ``score``; ``with_kl``, the divergence of the predictions; ``with_loss``, the size of
    the change of the loss, which for a single edge is near float32 precision. NaN for constant
    scores or effects.
    """
    table = pd.DataFrame(rows)

    def rank(score: str, effect: pd.Series) -> float:
        if table[score].nunique() == 1 or effect.nunique() == 1:
            return math.nan  # nothing is above anything else
        return float(stats.spearmanr(table[score], effect).statistic)

    effects = {"with_kl": table["kl"], "with_loss": table["added"].abs()}
    return pd.DataFrame(
        [{"score": s} | {name: rank(s, effect) for name, effect in effects.items()} for s in scores]
    )
