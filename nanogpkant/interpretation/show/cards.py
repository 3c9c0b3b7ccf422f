"""Cards: the content of a small picture of one edge."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from nanogpkant.interpretation.fit.atlas import Atlas
from nanogpkant.interpretation.interpretation import Interpretation
from nanogpkant.interpretation.observe.curves import points, weights
from nanogpkant.kan import KANLinear


@dataclass(frozen=True)
class EdgeCard:
    """One curve, its formula and the density of its input; all arrays are (G,)."""

    title: str  # short lines, the first the most important
    about: str  # one line with all details
    text: str  # of the formula
    kinds: dict[str, str]  # layer and family
    function: str  # its name in the playground; empty for what is no function of the model
    x: np.ndarray
    curve: np.ndarray
    formula: np.ndarray
    density: np.ndarray  # per unit of x; the largest is 1

    @property
    def across(self) -> np.ndarray:
        """x scaled to [0, 1]; evenly spaced where x is constant."""
        width = self.x[-1] - self.x[0]
        return (self.x - self.x[0]) / width if width > 0 else np.linspace(0, 1, len(self.x))

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of curve and formula, or a unit interval around a flat one."""
        low = float(min(self.curve.min(), self.formula.min()))
        high = float(max(self.curve.max(), self.formula.max()))
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    def up(self, y: np.ndarray) -> np.ndarray:
        """Values scaled so that the bounds are 0 and 1."""
        low, high = self.bounds
        return (y - low) / (high - low)


def all_cards(interpretation: Interpretation, top: int) -> dict[str, list[EdgeCard]]:
    """Cards of the atlas, of the ``worst`` fits and of the most important edges of each layer."""
    if not interpretation.layers:
        return {}
    edges, layers = interpretation.edges, interpretation.layers
    important = edges.iloc[: max(top, round(len(edges) / 10))]
    worst = important.sort_values("r2", kind="stable").iloc[:top]
    cards = {
        "atlas": _shape_cards(interpretation.atlas),
        "worst": edge_cards(interpretation, worst, "{title}\n{layer}"),
    }
    shown = {name: edges[edges["layer"] == name].iloc[:top] for name in layers}
    return cards | {name: edge_cards(interpretation, rows) for name, rows in shown.items()}


def edge_cards(interpretation: Any, rows: pd.DataFrame, form: str = "{title}") -> list[EdgeCard]:
    """The cards of some edges, in the order of their rows in the table of edges.

    Args:
        interpretation: with ``layers``, ``observed`` and ``fits``: of a run or of any module.
        form: of the title; ``layer`` is known too.
    """
    cards: dict[Any, EdgeCard] = {}
    for name, of_layer in rows.groupby("layer", sort=False):
        layer, observed = interpretation.layers[str(name)], interpretation.observed[str(name)]
        at = points(observed)  # (G, n)
        x = _numpy(at)
        density = _numpy(weights(observed, at)) / np.gradient(x, axis=0).clip(min=1e-30)
        curves = _numpy(layer.edges(at.to(layer.weight)))  # (G, m, n)
        formulas = _numpy(interpretation.fits[str(name)].evaluate(at))
        for row in of_layer.to_dict("records"):
            edge = row["output"], row["input"]
            title = "{input} → {output}\n{family}, R² {r2:.4f}".format(**row)
            about = "{layer}, input {input} → output {output}: {formula}, R² {r2:.4f}, importance "
            cards[(name, *edge)] = EdgeCard(
                form.format(title=title, layer=name),
                (about + "{importance:.3g}").format(**row),
                row["formula"],
                {"layer": str(name), "family": row["family"]},
                function_of(str(name), layer, *edge),
                x[:, edge[1]],
                curves[:, *edge].copy(),
                formulas[:, *edge].copy(),
                density[:, edge[1]] / density[:, edge[1]].max(),
            )
    return [cards[key] for key in zip(rows["layer"], rows["output"], rows["input"], strict=True)]


def function_of(name: str, layer: KANLinear, output: int, input: int) -> str:
    """The playground's name of an edge; where functions are shared, of the one it has most of."""
    features = layer.features
    if not features.is_learned:
        return f"{name}/{input}→{output}"
    most = int(layer.weight[output, :, input].abs().argmax())
    return f"{name}/{most}.{input // (layer.in_features // features.groups)}"


def _shape_cards(atlas: Atlas) -> list[EdgeCard]:
    """The cards of an atlas' shapes, with the number of edges of each and the main layer."""
    u, density = _numpy(atlas.u), _numpy(atlas.density)
    formulas = _numpy(atlas.fits.evaluate(atlas.u[:, None]))[:, :, 0]  # (G, k)
    title = "{number}: {edges:,} edges, {share:.1%}\nmost in {mostly_in}\n{family}"
    about = "shape {number}: {edges:,} edges, most in {mostly_in}; {formula}, R² {formula_r2:.4f}"
    return [
        EdgeCard(
            title.format(number=number + 1, **row),
            about.format(number=number + 1, **row),
            row["formula"],
            {"family": row["family"]},
            "",
            u,
            _numpy(atlas.shapes[number]),
            formulas[:, number],
            density / density.max(),
        )
        for number, row in enumerate(atlas.table().to_dict("records"))
    ]


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
