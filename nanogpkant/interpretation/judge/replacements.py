"""Trials of faithfulness: edges replaced by their formulas, and by lines, means or nothing.

Every single fit can be close and the model still be lost, because errors add up over a thousand
inputs and over layers. So formulas are judged by the loss of the whole model on unseen text.

Source: explanations judged by the loss under replacement, after EAP-IG (Hanna et al., arXiv
2403.17806); formulas judged in context rather than alone, arXiv 2603.15250.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nanogpkant.interpretation.judge.evaluator import Trial
from nanogpkant.interpretation.judge.lookup import Lookup, controls, mixed
from nanogpkant.interpretation.observe.collect import Observed
from nanogpkant.interpretation.observe.curves import EdgeFunctions, points, weights
from nanogpkant.kan import KANLinear

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)  # of all edges
REPLACEMENTS = ("spline", "formula", "line", "mean", "zero")
FITTING = "formula where it fits"


@dataclass(frozen=True)
class Replaceable:
    """A layer, and the possible replacements of its edges."""

    layer: KANLinear
    low: Tensor
    """(n,) first point of each input's tables"""
    high: Tensor
    """(n,) last point"""
    curves: dict[str, EdgeFunctions]
    """replacements by name; "spline" is the edges themselves"""

    @classmethod
    def of(cls, layer: KANLinear, observed: Observed) -> "Replaceable":
        """A layer with its controls."""
        like, at = layer.weight, points(observed)
        known = controls(layer, at.to(like), weights(observed, at).to(like))
        return cls(layer, observed.low.to(like), observed.high.to(like), known)

    def with_curves(self, **curves: EdgeFunctions) -> "Replaceable":
        """The same with more replacements."""
        return replace(self, curves=self.curves | curves)

    def means(self) -> Tensor:
        """(m, n) mean of every edge."""
        return self.curves["mean"](self.low[None])[0]

    def replaced(self, by: str, edges: Tensor | None = None) -> Lookup:
        """The layer with the edges of a mask (m, n), or all of them, replaced."""
        new = self.curves[by]
        # Between two points a table is a line already.
        count = 2 if edges is None and by in ("line", "mean", "zero") else None
        if edges is not None:
            new = mixed(self.curves["spline"], new, edges.to(self.low.device))
        return Lookup(self.layer, self.low, self.high, new, count)


def first_share(ranks: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Masks (m, n) of the highest-ranked edges of all layers together.

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
    """Ranks in random order, of the shapes of ``like``."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(t.shape, generator=generator) for name, t in like.items()}


def faithfulness_trials(
    layers: dict[str, Replaceable], orders: dict[str, dict[str, Tensor]]
) -> list[Trial]:
    """Every replacement of all edges, of shares of them in each order, and of single layers.

    Labels: ``layers`` ("all" or a name), ``replacement``, ``order`` ("" where all edges of these
    layers are replaced) and ``share`` of their edges.

    Args:
        orders: by name, ranks (m, n) for each layer, the largest first.
    """
    trials = [_trial(layers, "all", by) for by in REPLACEMENTS]
    trials += [
        _trial(layers, "all", by, order, share, orders[order])
        for order in orders
        for share in SHARES
        for by in REPLACEMENTS
        if by != "spline"
    ]
    return trials + [_trial(layers, name, by) for name in layers for by in REPLACEMENTS]


def _trial(
    layers: dict[str, Replaceable],
    of: str,
    by: str,
    order: str = "",
    share: float = 1.0,
    ranks: dict[str, Tensor] | None = None,
) -> Trial:
    chosen = layers if of == "all" else {of: layers[of]}

    def modules() -> dict[str, nn.Module]:
        return replaced(chosen, by, first_share(ranks, share) if ranks else {})

    labels = {"layers": of, "replacement": by, "order": order, "share": share}
    return Trial(" ".join(map(str, labels.values())), modules, labels)


def total_trials(layers: dict[str, Replaceable], accepted: dict[str, Tensor]) -> list[Trial]:
    """All edges by each replacement, beside "original" and "formula where it fits".

    Args:
        accepted: (m, n) for each layer, edges with an accepted formula; in "formula where it fits"
            the others stay splines.
    """
    modules = {"original": dict}
    modules |= {by: lambda by=by: replaced(layers, by) for by in REPLACEMENTS}
    modules[FITTING] = lambda: replaced(layers, "formula", accepted)
    return [Trial(name, make, {"replacement": name}) for name, make in modules.items()]


def replaced(
    layers: dict[str, Replaceable], by: str, edges: dict[str, Tensor] | None = None
) -> dict[str, nn.Module]:
    """The layers by name, with all their edges or those of a mask (m, n) replaced."""
    return {name: each.replaced(by, (edges or {}).get(name)) for name, each in layers.items()}
