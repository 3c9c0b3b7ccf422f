"""How much each edge of a KAN layer matters: cheap scores, and how well they tell the truth.

m outputs, n inputs.
"""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

from nanogpkant.interpretation.collect import Observed
from nanogpkant.interpretation.curves import points, tabulate, weights
from nanogpkant.interpretation.judge import Judge
from nanogpkant.interpretation.store import Remember, rows_of
from nanogpkant.kan import KANLinear

ABLATED = 200  # edges that are really taken out


@torch.no_grad()
def importance(layer: KANLinear, observed: Observed) -> dict[str, Tensor]:
    """Scores (m, n) of every edge, float32 on the CPU: more is more important.

    Returns:
        ``std``: standard deviation of the edge's values over the inputs that were seen, what is
        lost when its mean takes its place; ``std_grad``: that times the root mean square of the
        loss's gradient at its output, the loss to first order; ``norm``: length of the edge's
        coefficients, which knows nothing of the data.
    """
    at = points(observed)
    share, values = weights(observed, at), tabulate(layer, at)
    mean = torch.einsum("gn,gmn->mn", share, values)
    std = torch.einsum("gn,gmn->mn", share, (values - mean).square_()).sqrt()
    norm = layer.effective_weight().float().norm(dim=1).cpu()
    return {"std_grad": std * observed.grad_rms[:, None], "std": std, "norm": norm}


def ends_of_edges(
    scores: dict[str, Tensor], observed: dict[str, Observed]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row for every input, and one for every output, of all layers, the most important first.

    The importance of either is the root of the summed squares of its edges'. Inputs besides have
    their mean, standard deviation, 0.1% and 99.9% quantiles and the share outside the grid, outputs
    the root mean square of the loss's gradient.

    Args:
        scores: (m, n) of each layer's edges.
    """
    inputs, outputs = [], []
    for name, score in scores.items():
        seen, power = observed[name], score.double().square()
        known = ("mean", "std", "low", "high", "outside")
        for rows, end, axis, about in (
            (inputs, "input", 0, {key: getattr(seen, key).numpy() for key in known}),
            (outputs, "output", 1, {"grad_rms": seen.grad_rms.numpy()}),
        ):
            total = power.sum(axis).sqrt().numpy()
            at = {"layer": name, end: range(len(total)), "importance": total}
            rows.append(pd.DataFrame(at | about))
    most = {"by": "importance", "ascending": False, "ignore_index": True, "kind": "stable"}
    return tuple(pd.concat(rows).sort_values(**most) for rows in (inputs, outputs))


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
    judge: Judge,
    layers: dict[str, KANLinear],
    scores: dict[str, dict[str, Tensor]],
    means: dict[str, Tensor],
    remember: Remember,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Take single edges out of the model, one at a time: a row each, with what that did.

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
    """Spearman's rank correlation of every score with what taking the edge out really did.

    Columns: ``score``; ``with_kl``, the divergence of the predictions; ``with_loss``, the size of
    the change of the loss, which for a single edge is near what float32 can tell. NaN where there
    is no order, as after text of one character.
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
