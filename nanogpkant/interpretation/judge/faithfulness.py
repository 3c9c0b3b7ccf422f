"""Faithfulness of formulas: the loss of the model with edges replaced.

Close fits of single curves do not guarantee a faithful model, since errors accumulate over inputs
and layers. So the whole model is evaluated on unseen text with its edges replaced by formulas and,
for comparison, by lines, means and zero.

Source: loss under replacement as the criterion, after EAP-IG (Hanna et al.,
arXiv 2403.17806); formulas judged in context rather than alone, arXiv 2603.15250.
"""

from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nanogpkant.interpretation.judge.evaluator import SwapEvaluator
from nanogpkant.interpretation.judge.lookup import Lookup, controls, mixed
from nanogpkant.interpretation.observe.collect import Observed
from nanogpkant.interpretation.observe.curves import EdgeFunctions, points, weights
from nanogpkant.interpretation.store import Remember, rows_of
from nanogpkant.kan import KANLinear

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)  # of all edges
REPLACEMENTS = ("spline", "formula", "line", "mean", "zero")


@dataclass(frozen=True)
class Replaceable:
    """A layer and the possible replacements of its edges."""

    layer: KANLinear
    low: Tensor
    """(n,) where the tables of each input begin"""
    high: Tensor
    """(n,) where they end"""
    curves: dict[str, EdgeFunctions]
    """by name; "spline" is the learned edges"""

    def with_curves(self, **curves: EdgeFunctions) -> "Replaceable":
        """A copy with further replacements."""
        return replace(self, curves=self.curves | curves)

    def means(self) -> Tensor:
        """(m, n) the mean of every edge."""
        return self.curves["mean"](self.low[None])[0]

    def replaced(self, by: str, edges: Tensor | None = None) -> Lookup:
        """The layer with the edges of a mask (m, n), or all of them, replaced."""
        new = self.curves[by]
        # Two points determine a line.
        count = 2 if edges is None and by in ("line", "mean", "zero") else None
        if edges is not None:
            new = mixed(self.curves["spline"], new, edges.to(self.low.device))
        return Lookup(self.layer, self.low, self.high, new, count)


def replaceable(layer: KANLinear, observed: Observed) -> Replaceable:
    """A layer with its controls."""
    like = layer.weight
    at = points(observed)
    known = controls(layer, at.to(like), weights(observed, at).to(like))
    return Replaceable(layer, observed.low.to(like), observed.high.to(like), known)


def first_share(ranks: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The first edges of all layers together, as a mask (m, n) for each layer.

    Args:
        ranks: (m, n) for each layer; edges with the largest come first.
        share: of all edges, 0 to 1.
    """
    flat = torch.cat([rank.flatten() for rank in ranks.values()])
    first = torch.zeros_like(flat, dtype=torch.bool)
    first[flat.argsort(descending=True, stable=True)[: round(share * len(flat))]] = True
    parts = first.split([rank.numel() for rank in ranks.values()])
    return {name: p.view_as(ranks[name]) for name, p in zip(ranks, parts, strict=True)}


def random_ranks(like: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Random ranks, as a control."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(t.shape, generator=generator) for name, t in like.items()}


@dataclass(frozen=True)
class Trial:
    """One way of replacing edges."""

    layers: str
    """a name, or "all" """
    replacement: str
    order: str = ""
    share: float = 1.0


def faithfulness(
    judge: SwapEvaluator,
    layers: dict[str, Replaceable],
    orders: dict[str, dict[str, Tensor]],
    remember: Remember,
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """The loss of the model with edges replaced, a row for each way of doing so.

    Args:
        judge: the text.
        layers: all that is to be replaced, by name.
        orders: by name, ranks (m, n) for each layer, the largest first.
        remember: finds a row, or takes it from where it was kept.
        progress: called with (rows done, rows in all).

    Returns:
        rows of ``layers`` ("all" or a name), ``replacement``, ``order``, ``share`` of the edges of
        these layers, ``loss``, ``kl``, ``tokens``, and ``added``: loss above the original's. All
        edges at once have no order.
    """
    trials = [Trial("all", by) for by in REPLACEMENTS]
    trials += [
        Trial("all", by, order, share)
        for order in orders
        for share in SHARES
        for by in REPLACEMENTS
        if by != "spline"
    ]
    trials += [Trial(name, by) for name in layers for by in REPLACEMENTS]

    def row(trial: Trial) -> dict[str, Any]:
        names = layers if trial.layers == "all" else [trial.layers]
        edges = first_share(orders[trial.order], trial.share) if trial.order else {}
        by = trial.replacement
        modules = {name: layers[name].replaced(by, edges.get(name)) for name in names}
        return asdict(trial) | judge.row(modules)

    named = {" ".join(map(str, astuple(trial))): partial(row, trial) for trial in trials}
    return rows_of(named, remember, progress)


def totals(
    judge: SwapEvaluator,
    layers: dict[str, Replaceable],
    accepted: dict[str, Tensor],
    remember: Remember,
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """The loss of the model with all edges replaced, a row for each replacement.

    Args:
        judge: the text.
        layers: all that is to be replaced, by name.
        accepted: (m, n) for each layer, which edges have a formula that fits.

    Returns:
        rows of ``replacement``, ``loss``, ``kl``, ``tokens`` and ``added``. Besides the known
        replacements there are "original", and "formula where it fits": other edges stay splines.
    """
    fitting = "formula where it fits"

    def row(name: str) -> dict[str, float]:
        if name == "original":
            return judge.row({})
        by, edges = ("formula", accepted) if name == fitting else (name, {})
        return judge.row({n: each.replaced(by, edges.get(n)) for n, each in layers.items()})

    trials = {name: partial(row, name) for name in ("original", *REPLACEMENTS, fitting)}
    rows = rows_of(trials, remember, progress)
    return [{"replacement": name} | row for name, row in zip(trials, rows, strict=True)]
