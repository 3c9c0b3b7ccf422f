"""Cards: the content of a small picture of one edge."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from nanogpkant.interpretation.fit.atlas import Atlas
from nanogpkant.interpretation.fit.fits import Fits
from nanogpkant.interpretation.observe.collect import Observed
from nanogpkant.interpretation.observe.curves import points, weights
from nanogpkant.kan import KANLinear


@dataclass(frozen=True)
class EdgeCard:
    """One curve, its formula and the density of its input; all arrays are (G,)."""

    title: str
    """short lines, the first the most important"""
    about: str
    """one line with all details"""
    x: np.ndarray
    curve: np.ndarray
    formula: np.ndarray | None
    density: np.ndarray
    """per unit of x; the largest is 1"""

    @property
    def across(self) -> np.ndarray:
        """x scaled to [0, 1]; evenly spaced where x is constant."""
        width = self.x[-1] - self.x[0]
        return (self.x - self.x[0]) / width if width > 0 else np.linspace(0, 1, len(self.x))


def edge_cards(
    rows: pd.DataFrame, layer: KANLinear, observed: Observed, fits: Fits
) -> list[EdgeCard]:
    """The cards of some edges of a layer.

    Args:
        rows: of the table of edges.
    """
    at, edges = points(observed), list[Any](rows.itertuples())  # (G, n)
    x = _numpy(at)
    density = _numpy(weights(observed, at)) / np.gradient(x, axis=0).clip(min=1e-30)
    outputs, inputs = rows["output"].to_numpy(), rows["input"].to_numpy()
    curves = _numpy(layer.edges(at.to(layer.weight)))[:, outputs, inputs]
    formulas = _numpy(fits.evaluate(at))[:, outputs, inputs]
    return [
        EdgeCard(
            f"{row.input} → {row.output}\n{row.family}, R² {row.r2:.4f}",
            f"{row.layer}, input {row.input} → output {row.output}: {row.formula}, "
            f"R² {row.r2:.4f}, importance {row.importance:.3g}",
            x[:, row.input],
            curves[:, number],
            formulas[:, number],
            density[:, row.input] / density[:, row.input].max(),
        )
        for number, row in enumerate(edges)
    ]


def shape_cards(atlas: Atlas) -> list[EdgeCard]:
    """The cards of an atlas' shapes, with the number of edges of each and the main layer."""
    shapes, fits = list[Any](atlas.table().itertuples()), atlas.fits
    u, density = _numpy(atlas.u), _numpy(atlas.density)
    formulas = _numpy(fits.evaluate(atlas.u[:, None]))[:, :, 0]  # (G, k)
    return [
        EdgeCard(
            f"{number + 1}: {row.edges:,} edges, {row.share:.1%}\n"
            f"most in {row.mostly_in}\n{row.family}",
            f"shape {number + 1}: {row.edges:,} edges, most in {row.mostly_in}; {row.formula}, "
            f"R² {row.formula_r2:.4f}",
            u,
            _numpy(atlas.shapes[number]),
            formulas[:, number],
            density / density.max(),
        )
        for number, row in enumerate(shapes)
    ]


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
