"""The page: one HTML file that opens without a network, in light and dark, wide and narrow."""

import base64
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.image import imsave

from nanogpkant.interpretation.interpretation import Interpretation
from nanogpkant.interpretation.show import plots
from nanogpkant.interpretation.show.cards import EdgeCard
from nanogpkant.interpretation.show.distance import KEY as KEY_OF_CURVES
from nanogpkant.interpretation.show.distance import curve_charts, head_cards
from nanogpkant.interpretation.show.summary import words
from nanogpkant.report.html import render
from nanogpkant.report.section import Cell, Section

WIDTH, HEIGHT = 100, 60  # of a card's picture, in its own units
MAP_CELLS = 64  # of a map, each way at most
TABLE_ROWS = 1000  # of the most important edges
WORST = "The worst fits among the most important tenth"
KEY = "Blue is the learned curve, dashed red its formula, grey how often the input is there."
TOTALS = ["replacement", "loss", "added", "kl", "tokens"]
METHOD = [
    "A KAN layer from n inputs to m outputs is m · n learned functions of one number, its edges. "
    "Importance is the standard deviation of an edge over real inputs times the root mean square "
    "of the loss's gradient at its output: to first order, how much the edge moves the loss.",
    "A formula is a description, not a discovered law: for many edges several families fit about "
    "as well, and the table names the runner-up. What counts is whether the model with formulas in "
    "place of its edges predicts as before: KL is the mean divergence of its predictions from the "
    "original's, on text that neither the model nor the formulas have seen.",
    "All replacements run through the same tables of points in straight lines, constant beyond the "
    "0.1% and 99.9% quantiles of each input; splines as tables show what that alone costs. A line "
    "is an edge's best line, a mean its mean, zero nothing.",
]


@dataclass(frozen=True)
class EdgeSection(Section):
    """A section that may also show edges."""

    map: np.ndarray | None = None  # importance (m, n) of a layer
    cards: list[EdgeCard] = field(default_factory=list)


def page(
    interpretation: Interpretation, found: dict[str, Any], cards: dict[str, list[EdgeCard]]
) -> str:
    """The whole page as HTML.

    Args:
        found: ``summary``.
        cards: ``all_cards``.
    """
    has_edges, has_curves = interpretation.layers, interpretation.curves
    counts = [f"{found['edges']:,} edges"] if has_edges else []
    counts += [f"{found['curves']['heads']:,} curves of distance"] if has_curves else []
    answer = _table(interpretation.totals[TOTALS]) if has_edges else {}
    sections = [EdgeSection("The answer", words(found), **answer)]
    sections += _sections_of_curves(interpretation) if has_curves else []
    sections += _sections_of_edges(interpretation, cards) if has_edges else []
    return render(
        f"Inside {interpretation.run.path.name}",
        f"Step {found['step']}, {', '.join(counts)}.",
        sections,
        "edges.html.jinja",
        "nanogpkant.interpretation.show",
        {"picture": _picture, "heat": _heat},
    )


def _sections_of_curves(interpretation: Interpretation) -> list[EdgeSection]:
    shown = ["layer", "head", "verdict", "formula", "r2", "rms", "complexity", "runner_up"]
    return [
        EdgeSection(
            "Curves of distance",
            [f"What every head adds to its scores, by the distance of two tokens. {KEY_OF_CURVES}"],
            charts=curve_charts(interpretation.curves, interpretation.curve_fits),
        ),
        EdgeSection(
            "Their formulas",
            [
                "In the distance d, or in log2(1 + d), fitted where the curve itself directs "
                "attention (grey); rms is in units of the scores. A constant added to a curve "
                "changes nothing. In the pictures x is log2(1 + d)."
            ],
            cards=head_cards(interpretation),
            **_table(interpretation.heads[shown]),
        ),
        EdgeSection(
            "Are the formulas of distance faithful?",
            [
                "Curves replaced by their formulas, by their best lines in d, by their means (no "
                "dependence on distance), and by what they started from; then those of one layer "
                "at a time by their formulas."
            ],
            **_table(interpretation.curve_totals[["layers", *TOTALS]]),
        ),
    ]


def _sections_of_edges(
    interpretation: Interpretation, cards: dict[str, list[EdgeCard]]
) -> list[EdgeSection]:
    shown = ["layer", "input", "output", "importance", "family", "formula", "r2", "complexity"]
    most = interpretation.edges[[*shown, "runner_up", "margin"]].iloc[:TABLE_ROWS]
    layers = [
        EdgeSection(
            name,
            [f"Importance of its edges, and the {len(cards[name])} most important. {KEY}"],
            map=importance.numpy(),
            cards=cards[name],
            is_folded=number > 0,
        )
        for number, (name, importance) in enumerate(interpretation.importance["std_grad"].items())
    ]
    return [
        EdgeSection(
            "Are the formulas faithful?",
            [
                "Edges replaced by share, in three orders, and one layer at a time. Values below "
                "0.00001 are drawn there."
            ],
            charts=plots.faithfulness_charts(interpretation.faithfulness),
            is_table_folded=True,
            **_table(interpretation.faithfulness),
        ),
        EdgeSection(
            "What can be pruned?",
            ["Edges removed, the lowest score first; inputs go with all their edges."],
            charts=plots.pruning_charts(interpretation.pruning),
            is_table_folded=True,
            **_table(interpretation.pruning),
        ),
        EdgeSection(
            "Does importance predict the effect of an edge?",
            [
                f"{len(interpretation.ablations)} edges, from the most to the least important, "
                "were removed one at a time. Spearman's rank correlation of each score with the KL "
                "of the predictions, and with the change of the loss, which for one edge is near "
                "the resolution of 32-bit numbers."
            ],
            **_table(interpretation.rank_correlations),
        ),
        EdgeSection(
            "Which layers matter, and which families are in them?",
            [
                "Importance is the layer's share of the importance of all edges, outside the share "
                "of its inputs outside the grid, accepted the share of edges with a formula."
            ],
            charts=plots.family_charts(interpretation.edges, list(interpretation.layers)),
            **_table(interpretation.by_layer),
        ),
        EdgeSection(
            "The atlas: which shapes are there?",
            [
                "The shapes that stand for all edges, the most frequent first, over each input's "
                "range from -1 to 1. Dashed is the nearest formula."
            ],
            cards=cards["atlas"],
        ),
        EdgeSection(WORST, [KEY], cards=cards["worst"]),
        *layers,
        EdgeSection(
            f"The {len(most):,} most important edges",
            ["All edges are in the tables beside this page. A click on a heading sorts."],
            **_table(most),
        ),
        EdgeSection("How to read this", METHOD),
    ]


def _table(frame: Any) -> dict[str, Any]:
    """A section's table."""
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    return {"head": list(frame.columns), "rows": rows}


def _cell(value: Any) -> Cell:
    if isinstance(value, float | np.floating):
        return Cell(f"{value:.5g}", float(value))
    if isinstance(value, int | np.integer):
        return Cell(f"{value:,}", int(value))
    return Cell(str(value), str(value))


def _picture(card: EdgeCard) -> dict[str, Any]:
    """A card's paths, in the units of its picture, and their values."""

    def path(y: np.ndarray) -> str:
        places = zip(WIDTH * card.across, HEIGHT * (1 - y), strict=True)
        return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)

    low, high = card.bounds
    return {
        "density": f"{path(0.75 * card.density)}L{WIDTH} {HEIGHT}L0 {HEIGHT}Z",
        "curve": path(0.04 + 0.92 * card.up(card.curve)),
        "formula": path(0.04 + 0.92 * card.up(card.formula)),
        "x": [f"{x:.4g}" for x in card.x],
        "y": [f"{y:.4g}" for y in card.curve],
        "low": low,
        "high": high,
    }


def _heat(importance: np.ndarray) -> dict[str, Any]:
    """A layer's sorted map as a picture, and its values for the tooltip."""
    cells = plots.sorted_map(importance, MAP_CELLS)
    colours = colormaps["viridis"](plots.colour_scale(float(cells.max()))(cells))
    buffer = io.BytesIO()
    imsave(buffer, colours, format="png", metadata=dict[str, Any](Software=None))
    return {
        "picture": base64.b64encode(buffer.getvalue()).decode(),
        "outputs": importance.shape[0],
        "inputs": importance.shape[1],
        "values": [[float(f"{value:.2e}") for value in row] for row in cells],
    }
