"""The charts of a study: losses and the fitted law against every axis, residuals and worths."""

from collections.abc import Callable
from functools import partial
from operator import attrgetter, methodcaller
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from nanogpkant.base.escape import mathtext
from nanogpkant.comparison.charts import LOSS
from nanogpkant.comparison.scaling.cells import short
from nanogpkant.comparison.scaling.findings import Findings, Measured
from nanogpkant.comparison.scaling.law import Fit
from nanogpkant.report.charts import Draw, name_rows
from nanogpkant.report.theme import REFERENCE_COLOUR, colour_of

POINTS = 60  # of a drawn curve


def loss_charts(found: Findings) -> dict[str, Draw]:
    """Loss against parameters, tokens, FLOPs and seconds, by the name of the axis."""
    return {
        "parameters": partial(_slice, found=found, vary="parameters", fix="tokens"),
        "tokens": partial(_slice, found=found, vary="tokens", fix="parameters"),
        "training FLOPs": partial(_spent, found=found, seconds=False),
        "seconds of training": partial(_spent, found=found, seconds=True),
    }


def law_charts(found: Findings) -> dict[str, Draw]:
    """Residuals of the fit, loss for a budget against the size, and the best size."""
    return {
        "residuals against parameters": partial(_residuals, found=found, key="parameters"),
        "residuals against tokens": partial(_residuals, found=found, key="tokens"),
        "equal FLOPs": partial(_equal_flops, found=found),
        "best size": partial(_best_size, found=found),
    }


def worth_charts(found: Findings) -> dict[str, Draw]:
    """kappa and lambda of every family, with their intervals."""
    assert found.shared is not None
    first = found.families[0]
    kappa = f"kappa: parameters of {first} that one is worth"
    lam = f"lambda: tokens of {first} that one is worth"
    return {
        kappa: partial(_worth, fit=found.shared, of=attrgetter("kappa"), words=kappa),
        lam: partial(_worth, fit=found.shared, of=attrgetter("lam"), words=lam),
    }


def _slice(axes: Axes, found: Findings, vary: str, fix: str) -> None:
    """Loss against one of N and D; the other is fixed where the first family has most cells.

    Sizes of families are never quite equal: of each family the nearest is drawn.
    """
    pairs = {(getattr(e.point, fix), getattr(e.point, vary)) for e in found.of(found.families[0])}
    values = [value for value, _ in pairs]
    common = max(values, key=lambda value: (values.count(value), value))
    for number, family in enumerate(found.families):
        own = found.of(family)
        at = min((getattr(e.point, fix) for e in own), key=lambda v: abs(np.log(v / common)))
        shown = [each for each in own if getattr(each.point, fix) == at]
        x = np.array([getattr(each.point, vary) for each in shown])
        _dots(axes, found, number, x, shown)
        if found.shared is not None:
            ends = [getattr(each.point, vary) for each in own]
            line = np.geomspace(min(ends), max(ends), POINTS)
            where = (line, at) if vary == "parameters" else (at, line)
            _band(axes, found.shared, number, line, lambda law, f=family, w=where: law.loss(f, *w))
    _logarithmic(axes, f"{vary}, at about {short(common)} {fix}")


def _spent(axes: Axes, found: Findings, seconds: bool) -> None:
    """Loss against FLOPs or seconds, and the lowest that the law expects for so many."""
    for number, family in enumerate(found.families):
        own = found.of(family)
        x = np.array([each.seconds if seconds else each.cell.flops for each in own])
        _dots(axes, found, number, x, own)
        if found.shared is not None:
            flops = [each.cell.flops for each in own]
            line, cost = np.geomspace(min(flops), max(flops), POINTS), found.cost(family)
            scale = found.flops_per_second(family) if seconds else 1.0
            lowest = methodcaller("lowest", family, line, cost)
            _band(axes, found.shared, number, line / scale, lowest)
    _logarithmic(axes, "seconds of training" if seconds else "training FLOPs")


def _residuals(axes: Axes, found: Findings, key: str) -> None:
    assert found.shared is not None
    for number, family in enumerate(found.families):
        own = [each.point for each in found.of(family)]
        off = [100 * found.shared.residual(point) for point in own]
        x, gid = [getattr(point, key) for point in own], f"{key}-v{number}-line"
        axes.scatter(x, off, color=colour_of(number), s=14, gid=gid)
    axes.axhline(0, color=REFERENCE_COLOUR, lw=1)
    _logarithmic(axes, key, "measured less expected loss, %")


def _equal_flops(axes: Axes, found: Findings) -> None:
    """Loss of models that take the same FLOPs, against their size: the law, and its lowest."""
    assert found.shared is not None
    most = max(each.cell.flops for each in found.measured)
    sizes = [each.cell.parameters for each in found.measured]
    line, law = np.geomspace(min(sizes) / 3, max(sizes) * 3, POINTS), found.shared.law
    for number, family in enumerate(found.families):
        cost = found.cost(family)
        for flops in (most / 100, most / 10, most):
            colour, gid = colour_of(number), f"equal{flops:.0e}-v{number}-line"
            best = law.best(family, flops, cost)
            losses = law.loss(family, line, flops / cost / line)
            axes.plot(line, losses, lw=1.4, color=colour, gid=gid)
            axes.plot(best[0], law.loss(family, *best), marker="o", ms=3.5, color=colour, gid=gid)
    _logarithmic(axes, f"parameters, for {most / 100:.1g}, {most / 10:.1g} and {most:.1g} FLOPs")
    lows = [each.loss for each in found.measured]
    axes.set_ylim(min(lows) * 0.95, max(lows) * 1.05)


def _best_size(axes: Axes, found: Findings) -> None:
    assert found.shared is not None
    flops = [each.cell.flops for each in found.measured]
    line = np.geomspace(min(flops), 100 * max(flops), POINTS)
    for number, family in enumerate(found.families):
        cost = found.cost(family)
        _band(
            axes, found.shared, number, line, lambda law, f=family, c=cost: law.best(f, line, c)[0]
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_minor_locator(NullLocator())
    _logarithmic(axes, "training FLOPs", "parameters of the lowest loss")
    axes.axvline(max(flops), color=REFERENCE_COLOUR, lw=1)


def _worth(axes: Axes, fit: Fit, of: Callable[[Any], dict[str, float]], words: str) -> None:
    families = list(of(fit.law))
    for number, family in enumerate(families):
        low, high = fit.interval(lambda law, family=family: of(law)[family])
        style: dict[str, Any] = {"color": colour_of(number), "gid": f"worth-v{number}-line"}
        axes.plot([low, high], [number, number], lw=2, **style)
        axes.plot([of(fit.law)[family]], [number], marker="o", ms=5, **style)
    axes.axvline(1, color=REFERENCE_COLOUR, lw=1)
    name_rows(axes, families)
    axes.set_xlabel(mathtext(words))


def _dots(axes: Axes, found: Findings, number: int, x: np.ndarray, of: list[Measured]) -> None:
    """Cells as dots, hollow where they were held out."""
    colour, y = colour_of(number), np.array([each.loss for each in of])
    held = np.array([found.is_held_out(each.point) for each in of], bool)
    style: dict[str, Any] = {"s": 16, "edgecolors": colour, "gid": f"dots-v{number}-line"}
    axes.scatter(x[~held], y[~held], facecolors=colour, **style)
    axes.scatter(x[held], y[held], facecolors="none", **style)


def _band(axes: Axes, fit: Fit, number: int, x: np.ndarray, of: Callable[[Any], Any]) -> None:
    colour, (low, high) = colour_of(number), fit.interval(of)
    axes.plot(x, of(fit.law), color=colour, lw=1.4, gid=f"law-v{number}-line")
    axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0, gid=f"law-v{number}-band")


def _logarithmic(axes: Axes, xlabel: str, ylabel: str = LOSS) -> None:
    axes.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    if "FLOPs" not in xlabel or "parameters" in xlabel:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
