"""Curves of distance: a picture of each block, cards of the heads, and their formulas in words."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nanogpkant.interpretation.fit.distance import CurveFits, values_of
from nanogpkant.interpretation.interpretation import Interpretation
from nanogpkant.interpretation.show.cards import EdgeCard
from nanogpkant.kan.curve import DistanceCurve
from nanogpkant.report.charts import Draw, panels
from nanogpkant.report.theme import colour_of

KEY = "Lines are learned, dashed are formulas, faint is what each head started from."
LOWEST = -12.0  # drawn: e^-12 of a token's weight is nothing
LISTED = 24  # heads whose formulas are listed in the terminal


def curve_charts(curves: dict[str, DistanceCurve], fits: dict[str, CurveFits]) -> dict[str, Draw]:
    """A chart for each curve by its name, with two lines a head over log2(1 + distance)."""

    def chart(name: str, curve: DistanceCurve) -> Draw:
        start = curve.initial.numpy()
        distance = np.arange(start.shape[1])
        learned = values_of(curve, torch.from_numpy(distance)).numpy()

        def draw(axes: Axes) -> None:
            at = np.log2(1 + distance)
            for head, values in enumerate(learned):
                colour = colour_of(head)
                if curve.weight.requires_grad:
                    axes.plot(at, start[head], color=colour, lw=1, alpha=0.3)
                axes.plot(at, values, color=colour, lw=1.8, label=f"head {head}")
                formula = fits[name].formulas[head].numpy()
                axes.plot(at, formula, color=colour, lw=1.2, ls=(0, (3, 2)))
            low, high = max(LOWEST, learned.min()), learned.max()
            margin = 0.05 * (high - low) + 1e-6
            ticks = [0, *(2**k for k in range(int(at[-1]) + 1) if 2**k < len(distance))]
            axes.set_xticks(np.log2(1 + np.array(ticks)), list(map(str, ticks)))
            axes.set(xlabel="distance, in tokens", ylim=(low - margin, high + margin))
            axes.set_ylabel(
                "weight of the lag" if name.endswith("kernel") else "added to the score"
            )
            axes.legend(frameon=False, fontsize=7, ncols=1 + len(learned) // 5)

        return draw

    return {name: chart(name, curve) for name, curve in curves.items()}


def curve_figure(curves: dict[str, DistanceCurve], fits: dict[str, CurveFits]) -> Figure:
    """All charts in one picture."""
    charts = curve_charts(curves, fits)
    figure, places = panels(charts, min(len(charts), 2), (5, 3.3))
    for axes, name in zip(places, charts, strict=True):
        axes.set_title(name, fontsize=9)
    is_learned = any(curve.weight.requires_grad for curve in curves.values())
    title = f"Learned curves of distance.\n{KEY}" if is_learned else "Fixed curves of distance"
    figure.suptitle(title, fontsize=8)
    return figure


def head_cards(interpretation: Interpretation) -> list[EdgeCard]:
    """A card for every head; there x is log2(1 + distance)."""
    cards = []
    for name, rows in interpretation.heads.groupby("layer", sort=False):
        fits = interpretation.curve_fits[str(name)]
        x = np.log2(1 + np.arange(fits.share.shape[1]))
        density = fits.share.numpy() / np.gradient(x)  # (H, L)
        for row in rows.to_dict("records"):
            title = "{layer}, head {head}\n{verdict}\nR² {r2:.4f}, off by {rms:.2g}"
            about = "{layer}, head {head}: {formula}, R² {r2:.4f}; x is log2(1 + d)"
            learned, formula = fits.values[row["head"]].numpy(), fits.formulas[row["head"]].numpy()
            said = title.format(**row), about.format(**row), row["formula"]
            kinds = {"layer": str(name), "family": row["best"]}
            drawn = f"{name}/{row['head']}", x, learned, formula
            share = density[row["head"]] / density[row["head"]].max()
            cards.append(EdgeCard(*said, kinds, *drawn, share))
    return cards


def formula_lines(interpretation: Interpretation) -> list[str]:
    """The formula of every head as a line; of many heads, of the first ones."""
    line = "{layer}, head {head}: {formula}  ({verdict}; R² {r2:.4f}, off by {rms:.2g})"
    found = [line.format(**row) for row in interpretation.heads.head(LISTED).to_dict("records")]
    more = len(interpretation.heads) - LISTED
    return [*found, f"and {more} more in curves.csv"] if more > 0 else found
