"""Results of an interpretation: sentences, pictures, tables and one page."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nanogpkant.base.console import bar
from nanogpkant.base.errors import UsageError
from nanogpkant.base.files import write_atomic, write_json
from nanogpkant.interpretation.fit.formulas import ACCEPTED
from nanogpkant.interpretation.interpretation import Interpretation
from nanogpkant.interpretation.show import plots
from nanogpkant.interpretation.show.cards import EdgeCard, edge_cards, shape_cards
from nanogpkant.interpretation.show.page import EdgeSection, page, with_table
from nanogpkant.machine.device import peak_memory
from nanogpkant.report.charts import Draw, save_figure

IMPORTANT = 0.1  # share of edges among which the worst fits are searched
FAMILIES_SHOWN = 12  # by name, in the chart
TABLE_ROWS = 1000  # of the most important edges, in the page
METHOD = (
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
)


def summary(interpretation: Interpretation) -> dict[str, Any]:
    """The results as numbers.

    ``explained`` is the share of the splines' gain over means that formulas keep: (mean - formula)
    / (mean - spline) of the losses; None where means are no worse than splines. Shares
    ``of_importance`` are of the sum of squared importances.
    """
    edges, totals = interpretation.edges, interpretation.totals.set_index("replacement")
    loss, power = totals["loss"], np.square(edges["importance"].to_numpy(dtype=np.float64))
    power = power / max(power.sum(), 1e-300)
    ranks = interpretation.rank_correlations.set_index("score").astype(object)
    has_formula = edges["accepted"].to_numpy()
    return {
        "run": str(interpretation.run.path),
        "step": interpretation.trained.step,
        "layers": list(interpretation.layers),
        "edges": len(edges),
        "accepted": float(has_formula.mean()),
        "accepted_of_importance": float(power[has_formula].sum()),
        "families": edges["family"].value_counts(normalize=True).round(6).to_dict(),
        "totals": totals.drop(columns="tokens").to_dict("index"),
        "total_tokens": int(totals["tokens"].iloc[0]),
        "explained": _explained(loss),
        "rank_correlations": ranks.where(ranks.notna(), None).to_dict("index"),
        "layer_importance": interpretation.by_layer.set_index("layer")["importance"].to_dict(),
        "atlas": {
            "shapes": len(interpretation.atlas.shapes),
            "variance_of_components": interpretation.atlas.variance,
            **interpretation.atlas_score,
        },
        "seconds": {name: round(spent, 2) for name, spent in interpretation.seconds.items()},
        "peak_memory_bytes": peak_memory(interpretation.model.tokens.weight.device),
    }


def _explained(loss: pd.Series) -> float | None:
    contributed = loss["mean"] - loss["spline"]
    return float((loss["mean"] - loss["formula"]) / contributed) if contributed > 0 else None


def words(found: dict[str, Any]) -> list[str]:
    """The results in sentences, the most important first."""
    totals = found["totals"]

    def loss(name: str) -> str:
        return f"{totals[name]['loss']:.4f} ({totals[name]['added']:+.4f})"

    atlas, rank = found["atlas"], found["rank_correlations"]["std_grad"]["with_kl"]
    predicted = (  # no rank is above another where no edge matters, as after text of one character
        "which cannot be measured: none of them matters"
        if rank is None
        else f"with a rank correlation of {rank:.2f}"
    )
    contributed = (
        "The curves contribute nothing to be explained, as after little training"
        if found["explained"] is None
        else f"Formulas explain {found['explained']:.2%} of what the curves contribute"
    )
    return [
        f"With every one of {found['edges']:,} edges replaced by its formula, the model's loss is "
        f"{loss('formula')} nats per token, where the splines themselves as tables give "
        f"{loss('spline')} and the model as it is {totals['original']['loss']:.4f}.",
        f"{contributed}: the loss is {loss('line')} with every edge a line, {loss('mean')} with "
        f"its mean, {loss('zero')} with nothing. Measured on {found['total_tokens']:,} tokens of "
        "the validation split.",
        f"R² is {1 - ACCEPTED} or above for {found['accepted']:.1%} of the edges, which hold "
        f"{found['accepted_of_importance']:.1%} of the importance; with the others left as splines "
        f"the loss is {loss('formula where it fits')}.",
        f"Importance predicts the effect of removing single edges, {predicted}.",
        f"{atlas['shapes']} shapes, each with a gain and an offset an edge, stand for all edges at "
        f"{atlas['added']:+.4f} nats per token; three principal components hold "
        f"{sum(atlas['variance_of_components'][:3]):.1%} of the variance of their shapes.",
    ]


def figures(interpretation: Interpretation, top: int = 24) -> Iterator[tuple[str, Figure]]:
    """Every picture, by name, one after the other.

    Args:
        top: edges of a layer that are pictured.

    Raises:
        UsageError: fewer than one.
    """
    check_top(top)
    yield from _figures(interpretation, top, _all_cards(interpretation, top))


def _figures(
    interpretation: Interpretation, top: int, cards: dict[str, list[EdgeCard]]
) -> Iterator[tuple[str, Figure]]:
    charts = plots.faithfulness_charts(interpretation.faithfulness)
    title = "Edges replaced: how far the predictions move"
    yield "faithfulness", plots.panels(charts, title, columns=2)
    charts = plots.pruning_charts(interpretation.pruning)
    yield "pruning", plots.panels(charts, "Edges removed, the least by each score first")
    yield (
        "families",
        plots.panels(_family_charts(interpretation), "Families of the formulas", columns=1),
    )
    yield "importance", plots.importance_maps(_importances(interpretation))
    yield "atlas", plots.sheet(cards["atlas"], "The shapes of all edges", columns=8)
    yield "worst", plots.sheet(cards["worst"], _WORST)
    for name in interpretation.layers:
        title = f"{name}: the {top} most important edges"
        yield f"edges_{name}", plots.sheet(cards[name], title)


def write(interpretation: Interpretation, top: int = 24) -> dict[str, Any]:
    """Write pictures, tables and the page into the run's folder ``interpret``.

    Returns:
        ``summary``, with the ``page``.

    Raises:
        UserError: a file cannot be written.
        UsageError: ``top`` is below 1.
    """
    check_top(top)
    tables = {
        "faithfulness": interpretation.faithfulness,
        "totals": interpretation.totals,
        "pruning": interpretation.pruning,
    }
    tables |= {"ablations": interpretation.ablations, "atlas": interpretation.atlas.table()}
    tables |= {
        "layers": interpretation.by_layer,
        "inputs": interpretation.inputs,
        "outputs": interpretation.outputs,
    }
    for name, frame in tables.items():
        write_atomic(interpretation.folder / f"{name}.csv", frame.to_csv(index=False))
    cards, written = _all_cards(interpretation, top), []
    with bar("drawing", "pictures") as progress:
        for done, (name, figure) in enumerate(_figures(interpretation, top, cards)):
            progress(done, 6 + len(interpretation.layers))
            written.append(interpretation.folder / "pictures" / f"{name}.png")
            save_figure(figure, written[-1], dpi=110)
    for old in {*(interpretation.folder / "pictures").glob("*.png")} - {*written}:
        old.unlink()  # of layers selected before, and not now
    found = summary(interpretation)
    title, about = (
        f"Inside {interpretation.run.path.name}",
        f"Step {found['step']}, {found['edges']:,} edges.",
    )
    write_atomic(
        interpretation.folder / "index.html",
        page(title, about, _sections(interpretation, found, cards)),
    )
    found["page"] = str(interpretation.folder / "index.html")
    write_json(interpretation.folder / "summary.json", found)
    return found


def check_top(top: int) -> None:
    """
    Raises:
        UsageError: fewer edges than one.
    """
    if top < 1:
        raise UsageError(f"--top {top}: must be at least 1")


def worst_edges(edges: pd.DataFrame, top: int) -> pd.DataFrame:
    """The edges with the worst fits among the most important tenth.

    Args:
        edges: the table of edges, the most important first.
    """
    important = edges.iloc[: max(top, round(IMPORTANT * len(edges)))]
    return important.sort_values("r2", kind="stable").iloc[:top]


_WORST = "The worst fits among the most important tenth"


def _all_cards(interpretation: Interpretation, top: int) -> dict[str, list[EdgeCard]]:
    """Cards of the atlas, the worst fits and the most important edges of each layer."""
    cards = {"atlas": shape_cards(interpretation.atlas)}
    worst = worst_edges(interpretation.edges, top)
    shown = zip(_cards(interpretation, worst), worst["layer"], strict=True)
    cards["worst"] = [replace(card, title=f"{card.title}\n{layer}") for card, layer in shown]
    for name in interpretation.layers:
        cards[name] = _cards(
            interpretation, interpretation.edges[interpretation.edges["layer"] == name].iloc[:top]
        )
    return cards


def _cards(interpretation: Interpretation, rows: pd.DataFrame) -> list[EdgeCard]:
    """The cards of edges of any layers, in the order of the rows."""
    found: dict[int, EdgeCard] = {}
    for name, of_layer in rows.groupby("layer", sort=False):
        cards = edge_cards(
            of_layer,
            interpretation.layers[name],
            interpretation.observed[name],
            interpretation.fits[name],
        )
        found |= dict(zip(of_layer.index, cards, strict=True))
    return [found[index] for index in rows.index]


def _importances(interpretation: Interpretation) -> dict[str, np.ndarray]:
    return {name: each.numpy() for name, each in interpretation.importance["std_grad"].items()}


def _family_charts(interpretation: Interpretation) -> dict[str, Draw]:
    edges = interpretation.edges
    # A pair of families is "a + b + line": there are too many to tell apart.
    family = edges["family"].mask(edges["family"].str.count(r" \+ ") == 2, "two terms")
    common = family.value_counts().index[:FAMILIES_SHOWN]
    family = family.where(family.isin(common), "others")
    counts = pd.crosstab(edges["layer"], family, normalize="index")
    common = counts.sum().sort_values(ascending=False).index
    return {
        "share of each layer's edges": plots.family_chart(
            counts.loc[list(interpretation.layers), common]
        )
    }


def _sections(
    interpretation: Interpretation, found: dict[str, Any], cards: dict[str, list[EdgeCard]]
) -> list[EdgeSection]:
    totals = interpretation.totals[["replacement", "loss", "added", "kl", "tokens"]]
    shown = ["layer", "input", "output", "importance", "family", "formula", "r2", "complexity"]
    shown += ["runner_up", "margin"]
    key = "Blue is the learned curve, dashed red its formula, grey how often the input is there."
    faithful = EdgeSection(
        "Are the formulas faithful?",
        [
            "Edges replaced by share, in three orders, and one layer at a time. Values below "
            "0.00001 are drawn there."
        ],
        charts=plots.faithfulness_charts(interpretation.faithfulness),
        is_table_folded=True,
    )
    pruning = EdgeSection(
        "What can be pruned?",
        ["Edges removed, the lowest score first; inputs go with all their edges."],
        charts=plots.pruning_charts(interpretation.pruning),
        is_table_folded=True,
    )
    ablations = EdgeSection(
        "Does importance predict the effect of an edge?",
        [
            f"{len(interpretation.ablations)} edges, from the most to the least important, were "
            "removed one at a time. Spearman's rank correlation of each score with the KL of the "
            "predictions, and with the change of the loss, which for one edge is near the "
            "resolution of 32-bit numbers."
        ],
    )
    by_layer = EdgeSection(
        "Which layers matter, and which families are in them?",
        [
            "Importance is the layer's share of the importance of all edges, outside the share of "
            "its inputs outside the grid, accepted the share of edges with a formula."
        ],
        charts=_family_charts(interpretation),
    )
    shapes = EdgeSection(
        "The atlas: which shapes are there?",
        [
            "The shapes that stand for all edges, the most frequent first, over each input's "
            "range from -1 to 1. Dashed is the nearest formula."
        ],
        cards=cards["atlas"],
    )
    layers = [
        EdgeSection(
            name,
            [f"Importance of its edges, and the {len(cards[name])} most important. {key}"],
            map=_importances(interpretation)[name],
            cards=cards[name],
            is_folded=number > 0,
        )
        for number, name in enumerate(interpretation.layers)
    ]
    most = interpretation.edges[shown].iloc[:TABLE_ROWS]
    top = EdgeSection(
        f"The {len(most):,} most important edges",
        ["All edges are in the tables beside this page. A click on a heading sorts."],
    )
    return [
        with_table(EdgeSection("The answer", words(found)), totals),
        with_table(faithful, interpretation.faithfulness),
        with_table(pruning, interpretation.pruning),
        with_table(ablations, interpretation.rank_correlations),
        with_table(by_layer, interpretation.by_layer),
        shapes,
        EdgeSection(_WORST, [key], cards=cards["worst"]),
        *layers,
        with_table(top, most),
        EdgeSection("How to read this", list(METHOD)),
    ]
