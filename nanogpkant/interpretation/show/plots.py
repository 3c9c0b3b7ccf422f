"""Pictures as matplotlib figures. Many curves are one collection in one pair of axes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from nanogpkant.interpretation.observe.curves import points
from nanogpkant.interpretation.show.cards import EdgeCard
from nanogpkant.report.charts import Draw
from nanogpkant.report.theme import COLOURS, colour_of

INK, QUIET = "#1d2329", "#5b6570"
CURVE, FORMULA, DENSITY = "#2f7fb0", "#c8553d", "#d9dfe5"
KEY = "blue: the curve, dashed red: its formula, grey: how often its input is there"
REPLACEMENT_COLOURS = {
    "formula": COLOURS[0],
    "line": COLOURS[1],
    "mean": COLOURS[2],
    "zero": COLOURS[7],
    "spline": COLOURS[3],
}
LEAST_KL, LEAST_LOSS = 1e-5, 1e-3  # drawn, nats per token
FAMILIES_SHOWN = 12  # by name


def sheet(cards: Sequence[EdgeCard], title: str, columns: int = 6) -> Figure:
    """Small pictures of edges: curve, formula (dashed) and density of the input (grey)."""
    rows = max(1, -(-len(cards) // columns))
    figure = Figure(figsize=(2.1 * columns, 1.6 * rows + 0.5), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, columns), ylim=(-rows, 0))
    axes.set_axis_off()
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_title(KEY, fontsize=8, loc="right", color=QUIET)
    curves, formulas, areas = [], [], []
    small: dict[str, Any] = {"fontsize": 6, "color": QUIET}
    for number, card in enumerate(cards):
        left, top = number % columns + 0.04, -(number // columns) - 0.24
        across, bottom = left + 0.92 * card.across, top - 0.6
        curves.append(np.column_stack([across, bottom + 0.6 * card.up(card.curve)]))
        formulas.append(np.column_stack([across, bottom + 0.6 * card.up(card.formula)]))
        outline = np.column_stack([across, bottom + 0.5 * card.density])
        areas.append([(across[0], bottom), *outline, (across[-1], bottom)])
        head, (low, high) = card.title.splitlines(), card.bounds
        axes.text(left, top + 0.16, head[0], fontsize=7.5, color=INK)
        axes.text(left, top + 0.02, "\n".join(head[1:]), va="bottom", **small)
        axes.text(left, top - 0.68, f"{card.x[0]:.2g}", **small)
        axes.text(left + 0.92, top - 0.68, f"{card.x[-1]:.2g}", ha="right", **small)
        axes.text(left + 0.46, top - 0.68, f"y {low:.2g} to {high:.2g}", ha="center", **small)
    axes.add_collection(PolyCollection(areas, facecolors=DENSITY, edgecolors="none"))
    axes.add_collection(LineCollection(curves, colors=CURVE, linewidths=1.6))
    dashed = {"colors": FORMULA, "linewidths": 1.1, "linestyles": (0, (3, 2))}
    axes.add_collection(LineCollection(formulas, **dashed))
    return figure


def parts_sheet(interpretation: Any, rows: pd.DataFrame, title: str) -> Figure:
    """Small pictures of edges: curve (grey), the base function's part and the basis' part."""
    columns = min(6, max(1, len(rows)))
    lines = max(1, -(-len(rows) // columns))
    figure = Figure(figsize=(2.3 * columns, 1.9 * lines + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for number, row in enumerate(rows.to_dict("records")):
        layer = interpretation.layers[row["layer"]]
        x = points(interpretation.observed[row["layer"]]).to(layer.weight)  # (G, n)
        base, rest = (part[:, row["output"], row["input"]].cpu() for part in layer.parts(x))
        axes, at = figure.add_subplot(lines, columns, number + 1), x[:, row["input"]]
        axes.plot(at.cpu(), base + rest, color="#a8b1ba", linewidth=3, label="curve")
        axes.plot(at.cpu(), base, color=COLOURS[0], label=f"base: {layer.features.base}")
        axes.plot(at.cpu(), rest, color=COLOURS[1], label="basis")
        axes.set_title(f"{row['input']} → {row['output']}", fontsize=8, loc="left")
        axes.tick_params(labelsize=6)
        if not number:
            axes.legend(fontsize=6, frameon=False)
    return figure


def sorted_map(importance: np.ndarray, cells: int = 96) -> np.ndarray:
    """(m, n) -> at most (cells, cells): inputs and outputs by falling importance, means of blocks.

    Rows are outputs, columns are inputs; a block's mean is the root of the mean square.
    """
    power = np.square(importance, dtype=np.float64)
    power = power[np.argsort(-power.sum(1), kind="stable")]
    power = power[:, np.argsort(-power.sum(0), kind="stable")]
    for axis, count in enumerate(power.shape):
        edges = np.linspace(0, count, min(cells, count) + 1).astype(int)
        sizes = np.expand_dims(np.diff(edges), 1 - axis)
        power = np.add.reduceat(power, edges[:-1], axis=axis) / sizes
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
        axes.imshow(maps[name], norm=norm, cmap="viridis", aspect="auto")
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
    image = ScalarMappable(norm, "viridis")
    figure.colorbar(image, cax=figure.add_subplot(outer[0, columns]), label="importance, nats")
    return figure


def colour_scale(highest: float) -> LogNorm:
    """The colours of importance: three decades below the highest."""
    highest = highest or 1.0
    return LogNorm(highest * 1e-3, highest, clip=True)


def faithfulness_charts(table: pd.DataFrame) -> dict[str, Draw]:
    """KL from the original's predictions: one chart per order, and one by layers."""
    table = table.assign(kl=table["kl"].clip(lower=LEAST_KL))
    whole, layers = table.query("layers == 'all'"), table.query("layers != 'all'")
    ends = whole.query("order == ''").set_index("replacement")["kl"].to_dict()
    widths = [2.2 if name == "formula" else 1.4 for name in REPLACEMENT_COLOURS]
    colours = list(REPLACEMENT_COLOURS.values())

    def chart(rows: pd.DataFrame) -> Draw:
        kl = rows.pivot(index="share", columns="replacement", values="kl")
        kl.loc[1.0] = pd.Series(ends)

        def draw(axes: Axes) -> None:
            axes.set_prop_cycle(color=colours, lw=widths)
            names = [name for name in REPLACEMENT_COLOURS if name in kl]
            axes.plot(kl[names], marker="o", ms=3, label=names)
            style = {"color": REPLACEMENT_COLOURS["spline"], "ls": "--", "lw": 1.2}
            axes.axhline(ends["spline"], label="splines as tables", **style)
            _finish(axes, "share of edges replaced", "KL to the original, nats per token")

        return draw

    def by_layer(axes: Axes) -> None:
        kl = layers.pivot(index="layers", columns="replacement", values="kl")
        kl = kl.loc[list(dict.fromkeys(layers["layers"]))]
        axes.set_prop_cycle(color=colours)
        for name in REPLACEMENT_COLOURS:
            label = "splines as tables" if name == "spline" else name
            axes.plot(kl[name], kl.index, "o", ms=5, label=label)
        axes.set(xlabel="KL to the original, nats per token", xscale="log")
        axes.invert_yaxis()
        axes.tick_params(axis="y", labelsize=7)
        axes.legend(frameon=False, fontsize=7)

    orders = whole.query("order != ''").groupby("order", sort=False)
    charts = {f"edges replaced, {order}": chart(rows) for order, rows in orders}
    return charts | {"one layer at a time, all its edges": by_layer}


def pruning_charts(table: pd.DataFrame) -> dict[str, Draw]:
    """Added loss against the share of edges removed, one chart per ablation."""
    table = table.assign(added=table["added"].clip(lower=LEAST_LOSS))
    highest = max(table["added"].to_numpy().max(), 10 * LEAST_LOSS)

    def chart(rows: pd.DataFrame) -> Draw:
        added = rows.pivot(index="share", columns="score", values="added")
        names = list(rows["score"].unique())

        def draw(axes: Axes) -> None:
            axes.set_prop_cycle(color=COLOURS)
            axes.plot(added[names], marker="o", ms=3, lw=1.6, label=names)
            _finish(axes, "share of edges removed", "added loss, nats per token")
            axes.set_ylim(LEAST_LOSS, 1.5 * highest)

        return draw

    ablations = table.groupby("ablation", sort=False)
    words = {"mean": "their mean", "zero": "zero"}
    return {f"removed edges become {words[str(name)]}": chart(rows) for name, rows in ablations}


def _finish(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Axes for a share from left to right, and a logarithm upwards."""
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(frameon=False, fontsize=7)


def family_charts(edges: pd.DataFrame, layers: Sequence[str]) -> dict[str, Draw]:
    """Share of each family of formulas in the edges of each layer, as one chart."""
    # A pair of families is "a + b + line": there are too many to tell apart.
    family = edges["family"].mask(edges["family"].str.count(r" \+ ") == 2, "two terms")
    common = list(family.value_counts().index[:FAMILIES_SHOWN])
    family = family.where(family.isin(common), "others")
    shares = pd.crosstab(edges["layer"], family, normalize="index").loc[list(layers)]
    shares = shares[shares.sum().sort_values(ascending=False).index]

    def draw(axes: Axes) -> None:
        start = shares.cumsum(axis=1) - shares
        for number, name in enumerate(shares):
            shade = ("", "99", "55")[number // len(COLOURS) % 3]
            colour = "#c9ced4" if name == "spline" else colour_of(number) + shade
            style = {"left": start[name], "height": 0.75, "color": colour, "label": name}
            axes.barh(list(layers), shares[name], **style)
        axes.invert_yaxis()
        axes.set(xlim=(0, 1), xlabel="share of edges")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.tick_params(axis="y", labelsize=7)
        axes.legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))

    return {"share of each layer's edges": draw}
