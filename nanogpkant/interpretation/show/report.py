"""Results of an interpretation: pictures, tables and one page."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nanogpkant.base.console import bar
from nanogpkant.base.errors import require_positive
from nanogpkant.base.files import write_atomic, write_json
from nanogpkant.interpretation.interpretation import Interpretation
from nanogpkant.interpretation.show import plots
from nanogpkant.interpretation.show.cards import EdgeCard, all_cards
from nanogpkant.interpretation.show.distance import curve_figure
from nanogpkant.interpretation.show.page import WORST, page
from nanogpkant.interpretation.show.summary import summary
from nanogpkant.report.charts import Draw, panels, save_figure


def figures(
    interpretation: Interpretation, top: int = 24, cards: dict[str, list[EdgeCard]] | None = None
) -> Iterator[tuple[str, Figure]]:
    """Every picture, by name, one after the other.

    Args:
        top: edges of a layer that are pictured.
        cards: ``all_cards`` of as many edges; None makes them.

    Raises:
        UsageError: fewer than one edge.
    """
    require_positive(top=top)
    if interpretation.curves:
        yield "curves", curve_figure(interpretation.curves, interpretation.curve_fits)
    if not interpretation.layers:
        return
    cards = cards or all_cards(interpretation, top)
    layers = list(interpretation.layers)

    def charts(title: str, drawn: dict[str, Draw], columns: int) -> Figure:
        figure, places = panels(drawn, columns, (max(4.4, 7 / columns), 3.4))
        for axes, name in zip(places, drawn, strict=True):
            axes.set_title(name, fontsize=9)
        figure.suptitle(title, fontsize=11)
        return figure

    drawn = plots.faithfulness_charts(interpretation.faithfulness)
    yield "faithfulness", charts("Edges replaced: how far the predictions move", drawn, 2)
    drawn = plots.pruning_charts(interpretation.pruning)
    yield "pruning", charts("Edges removed, the least by each score first", drawn, 2)
    drawn = plots.family_charts(interpretation.edges, layers)
    yield "families", charts("Families of the formulas", drawn, 1)
    importance = interpretation.importance["std_grad"]
    yield "importance", plots.importance_maps({n: each.numpy() for n, each in importance.items()})
    yield "atlas", plots.sheet(cards["atlas"], "The shapes of all edges", columns=8)
    yield "worst", plots.sheet(cards["worst"], WORST)
    for name in layers:
        title = f"{name}: the {top} most important edges"
        yield f"edges_{name}", plots.sheet(cards[name], title)


def write(interpretation: Interpretation, top: int = 24, playground: str = "") -> dict[str, Any]:
    """Write pictures, tables and the page into the interpretation's folder.

    Args:
        top: edges of a layer that are pictured.
        playground: see ``page``.

    Returns:
        ``summary``, with the ``page``.

    Raises:
        UserError: a file cannot be written.
        UsageError: ``top`` is below 1.
    """
    require_positive(top=top)
    folder = interpretation.folder
    for name, frame in _tables(interpretation).items():
        write_atomic(folder / f"{name}.csv", frame.to_csv(index=False))
    cards, written = all_cards(interpretation, top), []
    pictures = 6 * bool(interpretation.layers) + len(interpretation.layers)
    with bar("drawing", "pictures") as progress:
        for done, (name, figure) in enumerate(figures(interpretation, top, cards)):
            progress(done, pictures + bool(interpretation.curves))
            written.append(folder / "pictures" / f"{name}.png")
            save_figure(figure, written[-1], dpi=110)
    for old in {*(folder / "pictures").glob("*.png")} - {*written}:
        old.unlink()  # of layers selected before, and not now
    found = summary(interpretation)
    write_atomic(folder / "index.html", page(interpretation, found, cards, playground))
    found["page"] = str(folder / "index.html")
    write_json(folder / "summary.json", found)
    return found


def _tables(interpretation: Interpretation) -> dict[str, pd.DataFrame]:
    """The tables to write as CSV, by name: of edges, and of curves of distance."""
    tables = {}
    if interpretation.layers:
        tables |= {
            "faithfulness": interpretation.faithfulness,
            "totals": interpretation.totals,
            "pruning": interpretation.pruning,
            "ablations": interpretation.ablations,
            "atlas": interpretation.atlas.table(),
            "layers": interpretation.by_layer,
            "inputs": interpretation.inputs,
            "outputs": interpretation.outputs,
        }
    if interpretation.curves:
        tables |= {"curves": interpretation.heads, "curve_totals": interpretation.curve_totals}
    return tables
