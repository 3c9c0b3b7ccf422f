"""Charts: functions that draw into matplotlib axes, as SVG for a page and as PNG.

Text and lines of the SVG have placeholder colours, which are replaced by those of the page's theme.
"""

import html
import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nanogpkant.base.escape import mathtext
from nanogpkant.base.files import replacing
from nanogpkant.report.theme import REFERENCE_COLOUR, colour_of

DASHES = ((4, 2), (1, 1.5), (6, 2, 1, 2), (8, 3), (2, 2, 6, 2))
# Placeholders in an SVG: the page's text colour, and the colour of its faint lines.
INK, FAINT = "#010203", "#040506"

Draw = Callable[[Axes], None]
Dashes = tuple[float, ...]  # lengths of dash and gap in turn, in line widths


def dashes_of(number: int) -> Dashes:
    return DASHES[number % len(DASHES)]


def plain(axes: Axes, faint: str = "#d5d8dc") -> None:
    """Remove the frame and draw a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=faint, lw=0.6)
    axes.set_axisbelow(True)


def name_rows(axes: Axes, names: Iterable[str]) -> None:
    """Name the rows of a chart, which are at y = 0, 1, 2, ... from its top."""
    labels = [mathtext(name) for name in names]
    size = min(matplotlib.rcParams["font.size"], 160 / max(1, len(labels)))  # rows do not touch
    axes.set_yticks(range(len(labels)), labels, fontsize=size)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def save_figure(figure: Figure, path: Path, dpi: int = 140) -> None:
    """Write a figure as PNG.

    Raises:
        UserError: the file cannot be written.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")


def panels(
    charts: dict[str, Draw], columns: int, size: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
    """All charts in one figure, and the axes of each; ``size`` is a chart's, in inches."""
    rows = -(-len(charts) // columns)
    figure = Figure(figsize=(columns * size[0], rows * size[1] + 0.5), layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, draw in zip(places, charts.values(), strict=False):
        draw(axes)
        plain(axes)
    for axes in places[len(charts) :]:
        axes.set_axis_off()
    return figure, places[: len(charts)]


def save_png(
    path: Path, charts: dict[str, Draw], lines: dict[str, int], dashed: dict[str, Dashes]
) -> None:
    """Write all charts into one picture, two in a row, with a legend above them.

    Args:
        lines: legend: colour number by name.
        dashed: legend of the references: dashes by name.

    Raises:
        UserError: the file cannot be written.
    """
    figure, _ = panels(charts, 2, (5, 3.3))
    keys = [Line2D([], [], color=colour_of(number), lw=2) for number in lines.values()]
    for dashes in dashed.values():
        keys.append(Line2D([], [], color=REFERENCE_COLOUR, lw=1.3, dashes=dashes))
    names = [mathtext(name) for name in [*lines, *dashed]]
    columns = 2 if max(map(len, names)) > 28 else 4
    figure.legend(keys, names, loc="outside upper left", ncols=columns, frameon=False)
    save_figure(figure, path)


def to_svg(title: str, draw: Draw) -> str:
    """One chart as an SVG element: as wide as its container, in the colours of the page."""
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9}
    style |= dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    buffer = io.StringIO()
    style["axes.edgecolor"] = FAINT
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.6, 3.3), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        plain(axes, FAINT)
        # Without metadata the SVG has no address, and nothing that differs from day to day.
        nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor").replace(FAINT, "var(--line)")
    text = re.sub(r"(?s)<defs>\s*<style.*?</style>\s*</defs>", "", text)  # page.css has it
    opening, _, body = text.partition(">")
    (box,) = re.findall(r'viewBox="[^"]+"', opening)
    return f'<svg {box} role="img" aria-label="{html.escape(title)}">{body}'
