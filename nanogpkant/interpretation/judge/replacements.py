"""Edges replaced by their formulas, and by lines, means or nothing.

Every single fit can be close and the model still be lost, because errors add up over a thousand
inputs and over layers. So formulas are judged by the loss of the whole model on unseen text. Every
replacement runs through the same lookup table with linear interpolation, so that differences in
loss are differences between the functions.

Source: explanations judged by the loss under replacement, after EAP-IG (Hanna et al., arXiv
2403.17806); formulas judged in context rather than alone, arXiv 2603.15250. That tables need a
stated policy beyond their ends is from LUT-KAN (arXiv 2601.03332): here inputs are clamped to them.

m outputs, n inputs, G points of a table.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.interpretation.judge.evaluator import Intervention
from nanogpkant.interpretation.observe.collect import Observed
from nanogpkant.interpretation.observe.curves import EdgeFunctions, even_points, points, weights
from nanogpkant.kan import KANLinear
from nanogpkant.kan.bases.base import wide
from nanogpkant.model.convolution import Taps

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)  # of all edges
CONTROLS = ("line", "mean", "zero")  # weighted least-squares line, weighted mean, nothing
REPLACEMENTS = ("spline", "formula", *CONTROLS)  # a spline is the edge itself
FITTING = "formula where it fits"
POINTS = 64  # of a table, evenly spaced; more where an edge has more than 8 basis functions
POINTS_A_FUNCTION = 8
ROWS = 4096  # input vectors looked up at a time: their indices take 2 * 8 bytes an input


def table_points(layer: KANLinear) -> int:
    """Points of a table of a layer's edges; 4 times as many change no loss by 1e-5."""
    shape = layer.features.coefficient_shape
    return max(POINTS, POINTS_A_FUNCTION * (shape[2] if shape else layer.features.size))


class Lookup(nn.Module):
    """A KAN layer whose edges are tables with linear interpolation.

    The tables, G * m * n numbers, are computed at every call and freed after it: with all layers of
    a model replaced, one layer's tables exist at a time.

    Args:
        layer: the layer to replace; its bias and its ``prenorm`` stay.
        low, high: (n,) first and last point of each input's tables; beyond them the functions are
            constant. Where both are equal they are constant everywhere.
        curves: the functions to tabulate.
        count: G, points of a table, at least 2; None is ``table_points``.
    """

    def __init__(
        self,
        layer: KANLinear,
        low: Tensor,
        high: Tensor,
        curves: EdgeFunctions,
        count: int | None = None,
    ) -> None:
        super().__init__()
        self.normalise, self.bias = layer.normalise, layer.bias
        self.low, self.high = low, high
        self.curves, self.count = curves, count or table_points(layer)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., m)."""
        tables = self.curves(even_points(self.low, self.high, self.count))  # (G, m, n)
        tables = tables.permute(2, 0, 1).flatten(0, 1).to(x.dtype)
        tables = tables.contiguous()  # (nG, m), of which rows are read
        rows = self.normalise(x).flatten(0, -2)
        y = torch.cat([self._look_up(part, tables) for part in rows.split(ROWS)])
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], -1)

    def _look_up(self, x: Tensor, tables: Tensor) -> Tensor:
        """(rows, n) and (n * G, m) -> (rows, m): two rows of the tables for every input."""
        position = (x - self.low) / (self.high - self.low) * (self.count - 1)
        position = position.nan_to_num(0.0).clamp(0, self.count - 1)  # width 0: the first point
        first = position.floor().clamp(max=self.count - 2)
        part = position - first
        index = first.long() + torch.arange(0, len(tables), self.count, device=x.device)
        index = torch.stack([index, index + 1], dim=-1).flatten(1)
        share = torch.stack([1 - part, part], dim=-1).flatten(1)
        return F.embedding_bag(index, tables, mode="sum", per_sample_weights=share.to(tables.dtype))


@dataclass(frozen=True)
class Replaceable:
    """A layer, and the possible replacements of its edges."""

    layer: KANLinear
    low: Tensor  # (n,) first point of each input's tables
    high: Tensor  # (n,) last point
    curves: dict[str, EdgeFunctions]  # replacements by name

    @classmethod
    def of(cls, layer: KANLinear, observed: Observed) -> "Replaceable":
        """A layer with its edges themselves and the controls."""
        like, at = wide(layer.weight), points(observed)
        at, share = at.to(like), weights(observed, at).to(like)
        share = share / share.sum(0)  # (G, n)
        values = layer.edges(at).detach()  # (G, m, n)
        mean = torch.einsum("gn,gmn->mn", share, values)
        centre = (share * at).sum(0)  # (n,)
        away = share * (at - centre)
        spread = (away * (at - centre)).sum(0)  # (n,)
        slope = torch.einsum("gn,gmn->mn", away, values) / spread.clamp(min=1e-30)
        curves: dict[str, EdgeFunctions] = {
            "spline": layer.edges,
            "line": lambda x: mean + slope * (x - centre)[:, None],
            "mean": lambda x: mean.expand(len(x), -1, -1),
            "zero": lambda x: torch.zeros_like(mean).expand(len(x), -1, -1),
        }
        return cls(layer, observed.low.to(like), observed.high.to(like), curves)

    def with_curves(self, **curves: EdgeFunctions) -> "Replaceable":
        """The same with more replacements."""
        return replace(self, curves=self.curves | curves)

    def means(self) -> Tensor:
        """(m, n) mean of every edge."""
        return self.curves["mean"](self.low[None])[0]

    def replaced(self, by: str, edges: Tensor | None = None) -> Lookup:
        """The layer with the edges of a mask (m, n), or all of them, replaced."""
        old, new = self.curves["spline"], self.curves[by]
        if edges is None:
            # Between two points a table is a line already.
            return Lookup(self.layer, self.low, self.high, new, 2 if by in CONTROLS else None)
        chosen = edges.to(self.low.device)

        def curves(x: Tensor) -> Tensor:
            return torch.where(chosen, new(x), old(x))

        return Lookup(self.layer, self.low, self.high, curves)


def replaced(
    layers: dict[str, Replaceable], by: str, edges: dict[str, Tensor] | None = None
) -> dict[str, nn.Module]:
    """The layers by name, with all their edges or those of a mask (m, n) replaced."""
    return {name: each.replaced(by, (edges or {}).get(name)) for name, each in layers.items()}


def first_share(ranks: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Masks (m, n) of the share of all layers' edges with the highest ranks (m, n)."""
    flat = torch.cat([rank.flatten() for rank in ranks.values()])
    first = torch.zeros_like(flat, dtype=torch.bool)
    first[flat.argsort(descending=True, stable=True)[: round(share * len(flat))]] = True
    parts = first.split([rank.numel() for rank in ranks.values()])
    return {name: p.view_as(ranks[name]) for name, p in zip(ranks, parts, strict=True)}


def random_ranks(like: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Ranks in random order, of the shapes of ``like``."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(t.shape, generator=generator) for name, t in like.items()}


def partial_replacements(
    layers: dict[str, Replaceable], orders: dict[str, dict[str, Tensor]]
) -> list[Intervention]:
    """Every replacement of all edges, of shares of them in each order, and of single layers.

    Labels: ``layers`` ("all" or a name), ``replacement``, ``order`` ("" where all edges of these
    layers are replaced) and ``share`` of their edges. Orders are ranks, the largest first.
    """

    def replacing(of: str, by: str, order: str = "", share: float = 1.0) -> Intervention:
        def modules() -> dict[str, nn.Module]:
            edges = first_share(orders[order], share) if order else None
            return replaced(layers if of == "all" else {of: layers[of]}, by, edges)

        labels = {"layers": of, "replacement": by, "order": order, "share": share}
        return Intervention(labels, modules)

    names = ("formula", *CONTROLS)
    return [
        *(replacing("all", by) for by in REPLACEMENTS),
        *(replacing("all", by, o, s) for o, s, by in itertools.product(orders, SHARES, names)),
        *(replacing(name, by) for name, by in itertools.product(layers, REPLACEMENTS)),
    ]


def total_replacements(
    layers: dict[str, Replaceable], accepted: dict[str, Tensor]
) -> list[Intervention]:
    """All edges by each replacement, beside "original" and "formula where it fits".

    In the latter, edges without an ``accepted`` formula stay splines. Label: ``replacement``.
    """
    modules: dict[str, Callable[[], dict[str, nn.Module]]] = {"original": dict}
    modules |= {by: lambda by=by: replaced(layers, by) for by in REPLACEMENTS}
    modules[FITTING] = lambda: replaced(layers, "formula", accepted)
    return [Intervention({"replacement": name}, make) for name, make in modules.items()]


def curve_replacements(
    values: dict[str, dict[str, Tensor]], device: torch.device
) -> list[Intervention]:
    """Curves of distance by each replacement beside "original", and one layer's by its formulas.

    Labels: ``layers`` ("all" or a name) and ``replacement``.

    Args:
        values: (heads, distances) of every replacement, by layer and name.
    """

    def tables(by: str, names: list[str]) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {}
        for name in names:
            found[name] = table = Taps(*values[name][by].shape)
            table.weight = nn.Parameter(values[name][by].to(device), requires_grad=False)
        return found

    def replacing(layers: str, by: str, names: list[str]) -> Intervention:
        labels = {"layers": layers, "replacement": by}
        return Intervention(labels, lambda: tables(by, names))

    every = list(values)
    return [
        Intervention({"layers": "all", "replacement": "original"}, dict),
        *(replacing("all", by, every) for by in next(iter(values.values()))),
        *(replacing(name, "formula", [name]) for name in every),
    ]
