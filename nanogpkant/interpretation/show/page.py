"""The page: one HTML file that opens without a network, in light and dark, wide and narrow."""

import base64
import io
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from matplotlib import colormaps
from matplotlib.image import imsave

from nanogpkant.interpretation.interpretation import Interpretation
from nanogpkant.interpretation.show import plots
from nanogpkant.interpretation.show.cards import EdgeCard, function_of
from nanogpkant.interpretation.show.columns import FORMS, column
from nanogpkant.interpretation.show.distance import KEY as KEY_OF_CURVES
from nanogpkant.interpretation.show.distance import curve_charts, head_cards
from nanogpkant.interpretation.show.mathml import spoken
from nanogpkant.interpretation.show.summary import words
from nanogpkant.report.html import as_html
from nanogpkant.report.section import Card, Cell, Map, Section

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


def page(
    interpretation: Interpretation,
    found: dict[str, Any],
    cards: dict[str, list[EdgeCard]],
    playground: str = "",
) -> str:
    """The whole page as HTML.

    Args:
        found: ``summary``.
        cards: ``all_cards``.
        playground: address of the run's playground, which functions are linked to; "" is none.
    """
    has_edges, has_curves = interpretation.layers, interpretation.curves
    counts = [f"{found['edges']:,} edges"] if has_edges else []
    counts += [f"{found['curves']['heads']:,} curves of distance"] if has_curves else []
    answer = _table(interpretation.totals[TOTALS]) if has_edges else {}
    sections = [Section("The answer", words(found), **answer)]
    sections += _sections_of_curves(interpretation, playground) if has_curves else []
    sections += _sections_of_edges(interpretation, cards, playground) if has_edges else []
    shown = [card.kinds for section in sections for card in section.cards]
    kinds = {name: sorted({of[name] for of in shown if name in of}) for name in ("layer", "family")}
    links = {"Open the playground: bend these functions, and read what changes": playground}
    return as_html(
        f"Inside {interpretation.run.path.name}",
        f"Step {found['step']}, {', '.join(counts)}.",
        sections,
        filters={name: values for name, values in kinds.items() if len(values) > 1},
        links=links if playground else {},
        first_sort="descending",
    )


def _sections_of_curves(interpretation: Interpretation, playground: str) -> list[Section]:
    shown = ["layer", "head", "verdict", "family", "formula", "r2", "rms", "complexity"]
    shown += ["runner_up"]
    return [
        Section(
            "Curves of distance",
            [f"What every head adds to its scores, by the distance of two tokens. {KEY_OF_CURVES}"],
            charts=curve_charts(interpretation.curves, interpretation.curve_fits),
        ),
        Section(
            "Their formulas",
            [
                "In the distance d, or in log2(1 + d), fitted where the curve itself directs "
                "attention (grey); rms is in units of the scores. A constant added to a curve "
                "changes nothing. In the pictures x is log2(1 + d)."
            ],
            cards=[_card(each, playground) for each in head_cards(interpretation)],
            is_searched=True,
            **_table(interpretation.heads.rename(columns={"best": "family"})[shown]),
        ),
        Section(
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
    interpretation: Interpretation, cards: dict[str, list[EdgeCard]], playground: str
) -> list[Section]:
    shown = ["layer", "input", "output", "importance", "family", "formula", "r2", "complexity"]
    most = interpretation.edges[[*shown, "runner_up", "margin"]].iloc[:TABLE_ROWS]
    places = zip(most["layer"], most["output"], most["input"], strict=True)
    names = [function_of(name, interpretation.layers[name], *edge) for name, *edge in places]
    drawn = {name: [_card(each, playground) for each in of] for name, of in cards.items()}
    layers = [
        Section(
            name,
            [f"Importance of its edges, and the {len(cards[name])} most important. {KEY}"],
            map=_map(importance.numpy()),
            cards=drawn[name],
            is_searched=True,
            is_folded=number > 0,
        )
        for number, (name, importance) in enumerate(interpretation.importance["std_grad"].items())
    ]
    return [
        Section(
            "Are the formulas faithful?",
            [
                "Edges replaced by share, in three orders, and one layer at a time. Values below "
                "0.00001 are drawn there."
            ],
            charts=plots.faithfulness_charts(interpretation.faithfulness),
            is_table_folded=True,
            **_table(interpretation.faithfulness),
        ),
        Section(
            "What can be pruned?",
            ["Edges removed, the lowest score first; inputs go with all their edges."],
            charts=plots.pruning_charts(interpretation.pruning),
            is_table_folded=True,
            **_table(interpretation.pruning),
        ),
        Section(
            "Does importance predict the effect of an edge?",
            [
                f"{len(interpretation.ablations)} edges, from the most to the least important, "
                "were removed one at a time. Spearman's rank correlation of each score with the KL "
                "of the predictions, and with the change of the loss, which for one edge is near "
                "the resolution of 32-bit numbers."
            ],
            **_table(interpretation.rank_correlations),
        ),
        Section(
            "Which layers matter, and which families are in them?",
            [
                "Importance is the layer's share of the importance of all edges, outside the share "
                "of its inputs outside the grid, accepted the share of edges with a formula."
            ],
            charts=plots.family_charts(interpretation.edges, list(interpretation.layers)),
            **_table(interpretation.by_layer),
        ),
        Section(
            "The atlas: which shapes are there?",
            [
                "The shapes that stand for all edges, the most frequent first, over each input's "
                "range from -1 to 1. Dashed is the nearest formula."
            ],
            cards=drawn["atlas"],
            is_searched=True,
        ),
        Section(WORST, [KEY], cards=drawn["worst"], is_searched=True),
        *layers,
        Section(
            f"The {len(most):,} most important edges",
            ["All edges are in the tables beside this page. A click on a heading sorts."],
            is_searched=True,
            **_table(most, [_address(name, playground) for name in names]),
        ),
        Section("How to read this", METHOD),
    ]


def _table(frame: Any, links: Sequence[str] = ()) -> dict[str, Any]:
    """A section's table; the first cells of its rows are linked."""
    names = list(frame.columns)
    rows = [
        [_cell(name, value) for name, value in zip(names, row, strict=True)]
        for row in frame.itertuples(index=False)
    ]
    for row, link in zip(rows, links, strict=False):
        row[0] = Cell(row[0].text, row[0].value, link)
    return {"head": [column(name) for name in names], "rows": rows}


def _cell(name: str, value: Any) -> Cell:
    if isinstance(value, float | np.floating):
        return Cell(format(value, FORMS.get(name, ".3g")), float(value))
    if isinstance(value, int | np.integer):
        return Cell(f"{value:,}", int(value))
    return Cell(str(value), str(value))


def _address(function: str, playground: str) -> str:
    return f"{playground}#function={quote(function, safe='/')}" if playground and function else ""


def _card(card: EdgeCard, playground: str) -> Card:
    """A card with its outlines in the units of its picture."""

    def path(y: np.ndarray) -> str:
        places = zip(WIDTH * card.across, HEIGHT * (1 - y), strict=True)
        return "L".join(f"{a:.1f} {b:.1f}" for a, b in places)

    title, *lines = card.title.splitlines()
    return Card(
        title,
        lines,
        card.about,
        _address(card.function, playground),
        spoken(card.text),
        card.kinds,
        density=path(0.75 * card.density),
        curve=path(0.04 + 0.92 * card.up(card.curve)),
        fitted=path(0.04 + 0.92 * card.up(card.formula)),
        x=[f"{x:.4g}" for x in card.x],
        y=[f"{y:.4g}" for y in card.curve],
        bounds=card.bounds,
    )


def _map(importance: np.ndarray) -> Map:
    """A layer's importance, sorted."""
    cells = plots.sorted_map(importance, MAP_CELLS)
    scale = plots.colour_scale(float(cells.max()))
    rows, columns = importance.shape
    values = [[float(f"{value:.2e}") for value in row] for row in cells]
    low, high = float(scale.vmin or 0), float(scale.vmax or 0)
    ends = f"{low:.1g} or less", f"{high:.2g} nats"
    picture = _png(colormaps["viridis"](scale(cells)))
    colours = _png(colormaps["viridis"](np.linspace(0, 1, 64)[None]))
    return Map(picture, colours, ends, rows, columns, values)


def _png(colours: np.ndarray) -> str:
    """(rows, columns, 4) as PNG in base64."""
    buffer = io.BytesIO()
    imsave(buffer, colours, format="png", metadata=dict[str, Any](Software=None))
    return base64.b64encode(buffer.getvalue()).decode()
