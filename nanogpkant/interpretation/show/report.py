"""What an interpretation found: in a few sentences, as pictures and tables, and as one page."""

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
from nanogpkant.interpretation.show.page import EdgeSection, page, table
from nanogpkant.machine.device import peak_memory
from nanogpkant.report.charts import Draw, save_figure

IMPORTANT = 0.1  # share of edges among which the worst fits are looked for
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


def summary(look: Interpretation) -> dict[str, Any]:
    """The findings in numbers.

    ``explained`` is how far formulas bring the model back from the loss of means to that of its
    splines: (mean - formula) / (mean - spline), 1 is all the way; None where means are no worse
    than splines, and there is nothing to explain. Shares ``of_importance`` are of the sum of
    squared importances.
    """
    edges, totals = look.edges, look.totals.set_index("replacement")
    loss, power = totals["loss"], np.square(edges["importance"].to_numpy(dtype=np.float64))
    power = power / max(power.sum(), 1e-300)
    ranks = look.rank_correlations.set_index("score").astype(object)
    has_formula = edges["accepted"].to_numpy()
    return {
        "run": str(look.run.path),
        "step": look.trained.step,
        "layers": list(look.layers),
        "edges": len(edges),
        "accepted": float(has_formula.mean()),
        "accepted_of_importance": float(power[has_formula].sum()),
        "families": edges["family"].value_counts(normalize=True).round(6).to_dict(),
        "totals": totals.drop(columns="tokens").to_dict("index"),
        "total_tokens": int(totals["tokens"].iloc[0]),
        "explained": _explained(loss),
        "rank_correlations": ranks.where(ranks.notna(), None).to_dict("index"),
        "layer_importance": look.by_layer.set_index("layer")["importance"].to_dict(),
        "atlas": {
            "shapes": len(look.atlas.shapes),
            "variance_of_components": look.atlas.variance,
            **look.atlas_score,
        },
        "seconds": {name: round(spent, 2) for name, spent in look.seconds.items()},
        "peak_memory_bytes": peak_memory(look.model.tokens.weight.device),
    }


def _explained(loss: pd.Series) -> float | None:
    contributed = loss["mean"] - loss["spline"]
    return float((loss["mean"] - loss["formula"]) / contributed) if contributed > 0 else None


def words(found: dict[str, Any]) -> list[str]:
    """The findings in sentences, the most important first."""
    totals = found["totals"]

    def loss(name: str) -> str:
        return f"{totals[name]['loss']:.4f} ({totals[name]['added']:+.4f})"

    atlas, rank = found["atlas"], found["rank_correlations"]["std_grad"]["with_kl"]
    foretold = (  # no rank is above another where no edge matters, as after text of one character
        "of which nothing can be said: none of them matters"
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
        f"Importance foretells what taking single edges out does to the predictions, {foretold}.",
        f"{atlas['shapes']} shapes, each with a gain and an offset an edge, stand for all edges at "
        f"{atlas['added']:+.4f} nats per token; three principal components hold "
        f"{sum(atlas['variance_of_components'][:3]):.1%} of the variance of their shapes.",
    ]


def figures(look: Interpretation, top: int = 24) -> Iterator[tuple[str, Figure]]:
    """Every picture, by name, one after the other.

    Args:
        top: edges of a layer that are pictured.

    Raises:
        UsageError: fewer than one.
    """
    check_top(top)
    yield from _figures(look, top, _all_cards(look, top))


def _figures(
    look: Interpretation, top: int, cards: dict[str, list[EdgeCard]]
) -> Iterator[tuple[str, Figure]]:
    charts = plots.faithfulness_charts(look.faithfulness)
    title = "Edges replaced: how far the predictions move"
    yield "faithfulness", plots.panels(charts, title, columns=2)
    charts = plots.pruning_charts(look.pruning)
    yield "pruning", plots.panels(charts, "Edges removed, the least by each score first")
    yield "families", plots.panels(_family_charts(look), "Families of the formulas", columns=1)
    yield "importance", plots.importance_maps(_importances(look))
    yield "atlas", plots.sheet(cards["atlas"], "The shapes of all edges", columns=8)
    yield "worst", plots.sheet(cards["worst"], _WORST)
    for name in look.layers:
        title = f"{name}: the {top} most important edges"
        yield f"edges_{name}", plots.sheet(cards[name], title)


def write(look: Interpretation, top: int = 24) -> dict[str, Any]:
    """Write pictures, tables and the page into the run's folder ``interpret``.

    Returns:
        ``summary``, with the ``page``.

    Raises:
        UserError: a file cannot be written.
        UsageError: ``top`` is below 1.
    """
    check_top(top)
    tables = {"faithfulness": look.faithfulness, "totals": look.totals, "pruning": look.pruning}
    tables |= {"ablations": look.ablations, "atlas": look.atlas.table()}
    tables |= {"layers": look.by_layer, "inputs": look.inputs, "outputs": look.outputs}
    for name, frame in tables.items():
        write_atomic(look.folder / f"{name}.csv", frame.to_csv(index=False))
    cards, written = _all_cards(look, top), []
    with bar("drawing", "pictures") as progress:
        for done, (name, figure) in enumerate(_figures(look, top, cards)):
            progress(done, 6 + len(look.layers))
            written.append(look.folder / "pictures" / f"{name}.png")
            save_figure(figure, written[-1], dpi=110)
    for old in {*(look.folder / "pictures").glob("*.png")} - {*written}:
        old.unlink()  # of layers that were looked at before, and now are not
    found = summary(look)
    title, about = (
        f"Inside {look.run.path.name}",
        f"Step {found['step']}, {found['edges']:,} edges.",
    )
    write_atomic(look.folder / "index.html", page(title, about, _sections(look, found, cards)))
    found["page"] = str(look.folder / "index.html")
    write_json(look.folder / "summary.json", found)
    return found


def check_top(top: int) -> None:
    """
    Raises:
        UsageError: fewer edges than one.
    """
    if top < 1:
        raise UsageError(f"--top {top}: must be at least 1")


def worst_edges(edges: pd.DataFrame, top: int) -> pd.DataFrame:
    """Those whose formulas fit least, of the most important tenth.

    Args:
        edges: the table of edges, the most important first.
    """
    important = edges.iloc[: max(top, round(IMPORTANT * len(edges)))]
    return important.sort_values("r2", kind="stable").iloc[:top]


_WORST = "The worst fits among the most important tenth"


def _all_cards(look: Interpretation, top: int) -> dict[str, list[EdgeCard]]:
    """Those of the atlas, of the worst fits and of the most important edges of each layer."""
    cards = {"atlas": shape_cards(look.atlas)}
    worst = worst_edges(look.edges, top)
    shown = zip(_cards(look, worst), worst["layer"], strict=True)
    cards["worst"] = [replace(card, title=f"{card.title}\n{layer}") for card, layer in shown]
    for name in look.layers:
        cards[name] = _cards(look, look.edges[look.edges["layer"] == name].iloc[:top])
    return cards


def _cards(look: Interpretation, rows: pd.DataFrame) -> list[EdgeCard]:
    """The cards of edges of any layers, in the order of the rows."""
    found: dict[int, EdgeCard] = {}
    for name, of_layer in rows.groupby("layer", sort=False):
        cards = edge_cards(of_layer, look.layers[name], look.observed[name], look.fits[name])
        found |= dict(zip(of_layer.index, cards, strict=True))
    return [found[index] for index in rows.index]


def _importances(look: Interpretation) -> dict[str, np.ndarray]:
    return {name: each.numpy() for name, each in look.importance["std_grad"].items()}


def _family_charts(look: Interpretation) -> dict[str, Draw]:
    edges = look.edges
    # A pair of families is "a + b + line": there are too many to tell apart.
    family = edges["family"].mask(edges["family"].str.count(r" \+ ") == 2, "two terms")
    common = family.value_counts().index[:FAMILIES_SHOWN]
    family = family.where(family.isin(common), "others")
    counts = pd.crosstab(edges["layer"], family, normalize="index")
    common = counts.sum().sort_values(ascending=False).index
    return {
        "share of each layer's edges": plots.family_chart(counts.loc[list(look.layers), common])
    }


def _sections(
    look: Interpretation, found: dict[str, Any], cards: dict[str, list[EdgeCard]]
) -> list[EdgeSection]:
    totals = look.totals[["replacement", "loss", "added", "kl", "tokens"]]
    shown = ["layer", "input", "output", "importance", "family", "formula", "r2", "complexity"]
    shown += ["runner_up", "margin"]
    key = "Blue is the learned curve, dashed red its formula, grey how often the input is there."
    layer_sections = [
        EdgeSection(
            name,
            [f"Importance of its edges, and the {len(cards[name])} most important. {key}"],
            map=_importances(look)[name],
            cards=cards[name],
            is_folded=number > 0,
        )
        for number, name in enumerate(look.layers)
    ]
    return [
        EdgeSection("The answer", words(found), **table(totals)),
        EdgeSection(
            "Are the formulas faithful?",
            [
                "The share of edges that are replaced, in three orders, and one layer at a time. "
                "What is below 0.00001 is drawn there."
            ],
            charts=plots.faithfulness_charts(look.faithfulness),
            **table(look.faithfulness),
            is_table_folded=True,
        ),
        EdgeSection(
            "What can be taken away?",
            ["Edges removed, those with the lowest score first; inputs go with all their edges."],
            charts=plots.pruning_charts(look.pruning),
            **table(look.pruning),
            is_table_folded=True,
        ),
        EdgeSection(
            "Does importance foretell what an edge does?",
            [
                f"{len(look.ablations)} edges, from the most important to the least, were taken "
                "out one at a time. Spearman's rank correlation of each score with the KL of the "
                "predictions, and with the change of the loss, which for one edge is near what "
                "32-bit numbers can tell."
            ],
            **table(look.rank_correlations),
        ),
        EdgeSection(
            "Which layers matter, and what are they made of?",
            [
                "Importance is the layer's share of that of all edges, outside how much of its "
                "inputs lies outside the grid, accepted the share of edges with a formula."
            ],
            charts=_family_charts(look),
            **table(look.by_layer),
        ),
        EdgeSection(
            "The atlas: which shapes are there?",
            [
                "The shapes that stand for all edges, the most frequent first, over each input's "
                "range from -1 to 1. Dashed is the nearest formula."
            ],
            cards=cards["atlas"],
        ),
        EdgeSection(_WORST, [key], cards=cards["worst"]),
        *layer_sections,
        EdgeSection(
            f"The {min(TABLE_ROWS, len(look.edges)):,} most important edges",
            ["All edges are in the tables beside this page. A click on a heading sorts."],
            **table(look.edges[shown].iloc[:TABLE_ROWS]),
        ),
        EdgeSection("How to read this", list(METHOD)),
    ]
