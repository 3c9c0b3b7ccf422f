"""Pictures as matplotlib figures. Many curves are one collection in one pair of axes."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from nanogpkant.interpretation.show.cards import EdgeCard
from nanogpkant.report.charts import COLOURS, Draw, plain

INK = "#1d2329"
CURVE, FORMULA, DENSITY = "#2f7fb0", "#c8553d", "#d9dfe5"
KEY = "blue: the curve, dashed red: its formula, grey: how often its input is there"
REPLACEMENT_COLOURS = {
    "formula": COLOURS[0],
    "line": COLOURS[1],
    "mean": COLOURS[2],
    "zero": COLOURS[7],
    "spline": COLOURS[3],
}


def sheet(cards: Sequence[EdgeCard], title: str, columns: int = 6) -> Figure:
    """Small pictures of edges: curve, formula (dashed) and density of the input (grey)."""
    rows = max(1, -(-len(cards) // columns))
    figure = Figure(figsize=(2.1 * columns, 1.6 * rows + 0.5), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, columns), ylim=(-rows, 0))
    axes.set_axis_off()
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_title(KEY, fontsize=8, loc="right", color="#5b6570")
    curves, formulas, areas = [], [], []
    for number, card in enumerate(cards):
        left, top = number % columns + 0.04, -(number // columns) - 0.24
        across = left + 0.92 * card.across
        low, high = bounds(card)

        def up(y: np.ndarray, low=low, high=high, top=top) -> np.ndarray:
            return top - 0.6 * (1 - (y - low) / (high - low))

        curves.append(np.column_stack([across, up(card.curve)]))
        if card.formula is not None:
            formulas.append(np.column_stack([across, up(card.formula)]))
        bottom = np.full_like(across, top - 0.6)
        outline = np.column_stack([across, bottom + 0.5 * card.density])
        areas.append(np.vstack([outline, np.column_stack([across, bottom])[::-1]]))
        head, small = card.title.splitlines(), {"fontsize": 6, "color": "#5b6570"}
        axes.text(left, top + 0.16, head[0], fontsize=7.5, color=INK)
        axes.text(left, top + 0.02, "\n".join(head[1:]), va="bottom", **small)
        axes.text(left, top - 0.68, f"{card.x[0]:.2g}", **small)
        axes.text(left + 0.92, top - 0.68, f"{card.x[-1]:.2g}", ha="right", **small)
        axes.text(left + 0.46, top - 0.68, f"y {low:.2g} to {high:.2g}", ha="center", **small)
    axes.add_collection(PolyCollection(areas, facecolors=DENSITY, edgecolors="none"))
    axes.add_collection(LineCollection(curves, colors=CURVE, linewidths=1.6))
    axes.add_collection(
        LineCollection(formulas, colors=FORMULA, linewidths=1.1, linestyles=(0, (3, 2)))
    )
    return figure


def bounds(card: EdgeCard) -> tuple[float, float]:
    """Lowest and highest value of a card's curves, or a unit interval around a flat one."""
    values = np.concatenate([card.curve] + ([] if card.formula is None else [card.formula]))
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def sorted_map(importance: np.ndarray, cells: int = 96) -> np.ndarray:
    """(m, n) -> at most (cells, cells): inputs and outputs by falling importance, means of blocks.

    Rows are outputs, columns are inputs; a block's mean is the root of the mean square.
    """
    power = np.square(importance, dtype=np.float64)
    power = power[np.argsort(-power.sum(1), kind="stable")]
    power = power[:, np.argsort(-power.sum(0), kind="stable")]
    for axis in (0, 1):
        count = power.shape[axis]
        edges = np.linspace(0, count, min(cells, count) + 1).astype(int)[:-1]
        sizes = np.diff(np.append(edges, count))
        shape = (-1, 1) if axis == 0 else (1, -1)
        power = np.add.reduceat(power, edges, axis=axis) / sizes.reshape(shape)
    return np.sqrt(power)


def importance_maps(importances: dict[str, np.ndarray]) -> Figure:
    """Importance of every edge, sorted by outputs and inputs: a map with its sums per layer."""
    columns = min(4, len(importances))
    rows = -(-len(importances) // columns)
    figure = Figure(figsize=(3.1 * columns + 0.6, 3.1 * rows + 0.3), layout="constrained")
    outer = figure.add_gridspec(rows, columns + 1, width_ratios=[1] * columns + [0.05])
    maps = {name: sorted_map(values) for name, values in importances.items()}
    norm = colour_scale(max(float(shown.max()) for shown in maps.values()))
    for number, (name, values) in enumerate(importances.items()):
        inner = outer[divmod(number, columns)].subgridspec(
            2, 2, width_ratios=[6, 1], height_ratios=[1, 6], wspace=0.02, hspace=0.02
        )
        above, axes, right = (figure.add_subplot(inner[at]) for at in ((0, 0), (1, 0), (1, 1)))
        image = axes.imshow(maps[name], norm=norm, cmap="viridis", aspect="auto")
        power = np.square(values, dtype=np.float64)
        by_input, by_output = (np.sort(np.sqrt(power.sum(axis)))[::-1] for axis in (0, 1))
        above.stairs(by_input, fill=True, color=CURVE)
        right.stairs(by_output, fill=True, color=CURVE, orientation="horizontal")
        above.set(xlim=(0, len(by_input)), ylim=(0, None))
        right.set(ylim=(len(by_output), 0), xlim=(0, None))
        axes.set_xlabel(f"{values.shape[1]} inputs", fontsize=7)
        axes.set_ylabel(f"{values.shape[0]} outputs", fontsize=7)
        above.set_title(name, fontsize=8)
        for each in (above, axes, right):
            each.set(xticks=[], yticks=[])
            each.spines[:].set_visible(False)
    figure.colorbar(image, cax=figure.add_subplot(outer[0, columns]), label="importance, nats")
    return figure


def colour_scale(highest: float) -> LogNorm:
    """The colours of importance: three decades below the highest."""
    highest = highest or 1.0
    return LogNorm(highest * 1e-3, highest, clip=True)


def faithfulness_charts(table: pd.DataFrame, least: float = 1e-5) -> dict[str, Draw]:
    """KL from the original's predictions: one chart per order, and one by layers."""
    whole = table[table["layers"] == "all"]
    ends = whole[whole["order"] == ""]
    limit = float(ends.loc[ends["replacement"] == "spline", "kl"].iloc[0])
    charts = {
        f"edges replaced, {order}": _share_chart(
            pd.concat([rows, ends[ends["replacement"] != "spline"]]), limit, least
        )
        for order, rows in whole[whole["order"] != ""].groupby("order", sort=False)
    }
    layers = table[table["layers"] != "all"]
    if len(layers):
        charts["one layer at a time, all its edges"] = _layer_chart(layers, least)
    return charts


def _share_chart(rows: pd.DataFrame, limit: float, least: float) -> Draw:
    def draw(axes: Axes) -> None:
        axes.set_yscale("log")
        for name, colour in REPLACEMENT_COLOURS.items():
            found = rows[rows["replacement"] == name].sort_values("share")
            if len(found):
                style = {"color": colour, "lw": 2.2 if name == "formula" else 1.4}
                values = found["kl"].clip(lower=least)
                axes.plot(found["share"], values, marker="o", ms=3, label=name, **style)
        colour = REPLACEMENT_COLOURS["spline"]
        axes.axhline(max(limit, least), color=colour, ls="--", lw=1.2, label="splines as tables")
        axes.set(xlabel="share of edges replaced", ylabel="KL to the original, nats per token")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(frameon=False, fontsize=7)

    return draw


def _layer_chart(rows: pd.DataFrame, least: float) -> Draw:
    def draw(axes: Axes) -> None:
        names = list(dict.fromkeys(rows["layers"]))
        axes.set_xscale("log")
        for name, colour in REPLACEMENT_COLOURS.items():
            found = rows[rows["replacement"] == name].set_index("layers").reindex(names)
            label = "splines as tables" if name == "spline" else name
            axes.plot(found["kl"].clip(lower=least), names, "o", ms=5, color=colour, label=label)
        axes.set(xlabel="KL to the original, nats per token")
        axes.invert_yaxis()
        axes.tick_params(axis="y", labelsize=7)
        axes.legend(frameon=False, fontsize=7)

    return draw


def pruning_charts(table: pd.DataFrame, least: float = 1e-3) -> dict[str, Draw]:
    """Added loss against the share of edges removed, one chart per ablation."""
    highest = max(float(table["added"].max()), 10 * least)

    def chart(rows: pd.DataFrame) -> Draw:
        def draw(axes: Axes) -> None:
            scores = rows.groupby("score", sort=False)
            for (name, found), colour in zip(scores, COLOURS, strict=False):
                style = {"marker": "o", "ms": 3, "lw": 1.6, "color": colour}
                axes.plot(found["share"], found["added"].clip(lower=least), label=name, **style)
            axes.set_yscale("log")
            axes.set(ylim=(least, 1.5 * highest), xlabel="share of edges removed")
            axes.set_ylabel("added loss, nats per token")
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axes.legend(frameon=False, fontsize=7)

        return draw

    words = {"mean": "removed edges become their mean", "zero": "removed edges become zero"}
    return {words[name]: chart(rows) for name, rows in table.groupby("ablation", sort=False)}


def family_chart(shares: pd.DataFrame) -> Draw:
    """Share of each family (columns) of the edges of each layer (rows)."""

    def draw(axes: Axes) -> None:
        start = np.zeros(len(shares))
        names = list(shares.index)
        for number, family in enumerate(shares):
            values = shares[family].to_numpy()
            colour = "#c9ced4" if family == "spline" else _family_colour(number)
            axes.barh(names, values, left=start, color=colour, label=family, height=0.75)
            start = start + values
        axes.invert_yaxis()
        axes.set(xlim=(0, 1), xlabel="share of edges")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.tick_params(axis="y", labelsize=7)
        axes.legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))

    return draw


def _family_colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)] + ("", "99", "55")[number // len(COLOURS) % 3]


def panels(charts: dict[str, Draw], title: str, columns: int = 3) -> Figure:
    """Charts side by side."""
    columns = min(columns, len(charts))
    rows = -(-len(charts) // columns)
    width = max(4.4 * columns, 7.0)
    figure = Figure(figsize=(width, 3.4 * rows + 0.4), layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (name, draw) in zip(places, charts.items(), strict=False):
        draw(axes)
        axes.set_title(name, fontsize=9)
        plain(axes)
    for axes in places[len(charts) :]:
        axes.set_axis_off()
    figure.suptitle(title, fontsize=11)
    return figure
