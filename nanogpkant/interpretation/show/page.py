"""The page: one HTML file that opens without a network, in light and dark, wide and narrow."""

import base64
import io
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.image import imsave

from nanogpkant.interpretation.show.cards import EdgeCard
from nanogpkant.interpretation.show.plots import bounds, colour_scale, sorted_map
from nanogpkant.report.html import render
from nanogpkant.report.section import Cell, Section

WIDTH, HEIGHT = 100, 60  # of a card's picture, in its own units
MAP_CELLS = 64  # of a map, each way at most


@dataclass(frozen=True)
class EdgeSection(Section):
    """A section that may also show edges."""

    map: np.ndarray | None = None
    """importance (m, n) of a layer"""
    cards: list[EdgeCard] = field(default_factory=list)


def page(title: str, about: str, sections: list[EdgeSection]) -> str:
    """The whole page as HTML."""
    filters = {"picture": _picture, "heat": _heat}
    return render(
        title, about, sections, "edges.html.jinja", "nanogpkant.interpretation.show", filters
    )


def with_table(section: EdgeSection, frame: pd.DataFrame) -> EdgeSection:
    """The section with a table."""
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    return replace(section, head=list(frame.columns), rows=rows)


def _picture(card: EdgeCard) -> dict[str, Any]:
    """A card's paths, in the units of its picture, and their values."""
    low, high = bounds(card)

    def path(y: np.ndarray) -> str:
        places = zip(WIDTH * card.across, HEIGHT * (1 - y), strict=True)
        return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)

    def scaled(y: np.ndarray) -> np.ndarray:
        return 0.04 + 0.92 * (y - low) / (high - low)

    return {
        "density": f"{path(0.75 * card.density)}L{WIDTH} {HEIGHT}L0 {HEIGHT}Z",
        "curve": path(scaled(card.curve)),
        "formula": None if card.formula is None else path(scaled(card.formula)),
        "x": [f"{x:.4g}" for x in card.x],
        "y": [f"{y:.4g}" for y in card.curve],
        "low": low,
        "high": high,
    }


def _heat(importance: np.ndarray) -> dict[str, Any]:
    """A layer's sorted map as a picture, and its values for the tooltip."""
    cells = sorted_map(importance, MAP_CELLS)
    colours = colormaps["viridis"](colour_scale(float(cells.max()))(cells))
    buffer = io.BytesIO()
    imsave(buffer, colours, format="png", metadata={"Software": None})
    return {
        "picture": base64.b64encode(buffer.getvalue()).decode(),
        "rows": cells.shape[0],
        "columns": cells.shape[1],
        "outputs": importance.shape[0],
        "inputs": importance.shape[1],
        "values": [[float(f"{value:.2e}") for value in row] for row in cells],
    }


def _cell(value: Any) -> Cell:
    if isinstance(value, float | np.floating):
        return Cell(f"{value:.5g}", float(value))
    if isinstance(value, int | np.integer):
        return Cell(f"{value:,}", int(value))
    return Cell(str(value), str(value))
