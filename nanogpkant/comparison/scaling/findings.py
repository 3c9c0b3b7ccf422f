"""What a study says: its cells measured, the law fitted to them, and how well that predicts."""

from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from nanogpkant.base.errors import UsageError, UserError, nearest
from nanogpkant.base.files import read_json, write_json
from nanogpkant.comparison.runs import load_run
from nanogpkant.comparison.scaling.cells import Cell
from nanogpkant.comparison.scaling.law import Fit, Law, Point, fit, why_no_fit
from nanogpkant.report.table import Row

KEYS = ("E", "A", "B", "alpha", "beta")  # numbers of a law that all families share


@dataclass(frozen=True)
class Measured:
    """A cell, trained."""

    cell: Cell
    loss: float  # of the last evaluation, nats per token
    seconds: float  # of training, the trunk's included

    @property
    def point(self) -> Point:
        cell = self.cell
        return Point(cell.family, cell.parameters, cell.tokens, self.loss, cell.seed)


@dataclass(frozen=True)
class Prediction:
    """A held-out cell: its loss, and the one that the fit without it expects."""

    point: Point
    expected: float
    low: float
    high: float

    @property
    def is_inside(self) -> bool:
        return self.low <= self.point.loss <= self.high


@dataclass(frozen=True)
class Findings:
    """The content of a report."""

    measured: list[Measured]
    left_out: dict[str, str]  # reason by the cell's name
    why_no_fit: str | None
    shared: Fit | None = None
    freed: dict[str, Fit] | None = None  # each family by itself: all its numbers its own
    gridded: Fit | None = None
    """kappa of the families with grids is kappa0 (1 + G)^gamma, of N counted as plain weights"""
    gamma_of_weights: float | None = None
    """gamma if every coefficient of a grid were worth a weight"""
    held_out: tuple[Prediction, ...] = ()

    @property
    def families(self) -> list[str]:
        return list(dict.fromkeys(each.cell.family for each in self.measured))

    def of(self, family: str) -> list[Measured]:
        return [each for each in self.measured if each.cell.family == family]

    def cost(self, family: str) -> float:
        """FLOPs of training a parameter and token: the geometric mean of a family's cells."""
        logs = [np.log(e.cell.flops / e.cell.parameters / e.cell.tokens) for e in self.of(family)]
        return float(np.exp(np.mean(logs)))

    def flops_per_second(self, family: str) -> float:
        """Training FLOPs a second: the median of a family's cells."""
        own = self.of(family)
        return float(np.median([each.cell.flops / max(each.seconds, 1e-9) for each in own]))

    def rows(self) -> list[Row]:
        """A row for each cell measured."""
        return [
            {
                "family": each.cell.family,
                "parameters": each.cell.parameters,
                "edges": each.cell.edges,
                "grid": each.cell.grid,
                "tokens": each.cell.tokens,
                "seed": each.cell.seed,
                "loss": each.loss,
                "flops": each.cell.flops,
                "seconds": each.seconds,
                "expected": self.expected(each.point),
                "held_out": self.is_held_out(each.point),
            }
            for each in self.measured
        ]

    def expected(self, point: Point) -> float | None:
        if self.shared is None:
            return None
        return float(self.shared.law.loss(point.family, point.parameters, point.tokens))

    def is_held_out(self, point: Point) -> bool:
        return point.cell in {each.point.cell for each in self.held_out}


def why_of_cells(cells: list[Cell]) -> str | None:
    """Why these cells, once trained, will determine no law; None if they may."""
    points = [Point(c.family, c.parameters, c.tokens, 1.0, c.seed) for c in cells]
    return why_no_fit(_kept(points), [point.family for point in points])


def measure(cells: list[Cell], failed: dict[str, str]) -> tuple[list[Measured], dict[str, str]]:
    """The cells that were trained, and why others were not.

    A cell is left out, by rule, if its training failed, or ended above the loss of guessing all
    tokens alike.

    Raises:
        UserError: the cells were trained on different data.
    """
    measured, left_out = [], {}
    prints: dict[str, str] = {}
    for cell in cells:
        if cell.name in failed or not cell.run.path.exists():
            left_out[cell.name] = failed.get(cell.name, "missing")
            continue
        run = load_run(cell.run.path)
        prints.setdefault(run.fingerprint, cell.name)
        loss, guess = run.last_loss("all"), float(np.log(cell.run.vocab_size))
        if not run.finished:
            left_out[cell.name] = f"unfinished: {run.reached}"
        elif not loss < guess:
            left_out[cell.name] = f"diverged: its loss {loss:.3f} is not below {guess:.3f}"
        else:
            measured.append(Measured(cell, loss, float(run.curve.seconds[-1])))
    if len(prints) > 1:
        first, second = list(prints.values())[:2]
        remedy = "train one of them again, on the other's data"
        raise UserError(f"{first} and {second} were trained on different data: {remedy}")
    return measured, left_out


def find(measured: list[Measured], left_out: dict[str, str]) -> Findings:
    """Fit the law to all cells but the largest of each family, and predict those."""
    points = [each.point for each in measured]
    kept = _kept(points)
    if why := why_no_fit(kept, [point.family for point in points]):
        return Findings(measured, left_out, why)
    shared = fit(kept)
    families = list(dict.fromkeys(point.family for point in kept))
    freed = {name: fit([p for p in kept if p.family == name]) for name in families}
    seen, predictions = {point.cell for point in kept}, []
    for point in points:
        if point.cell not in seen:
            where = point.family, point.parameters, point.tokens
            ends = shared.predicted(*where)
            predictions.append(Prediction(point, float(shared.law.loss(*where)), *ends))
    gridded, gamma = _gridded([each for each in measured if each.point.cell in seen])
    held_out = tuple(predictions)
    return Findings(measured, left_out, None, shared, freed, gridded, gamma, held_out)


def _kept(points: list[Point]) -> list[Point]:
    """All but the cell of each family with the most parameters and, of those, tokens."""
    largest: dict[str, tuple[str, float, float]] = {}
    for point in points:
        largest[point.family] = max(point.cell, largest.get(point.family, point.cell))
    return [point for point in points if point.cell != largest[point.family]]


def _gridded(measured: list[Measured]) -> tuple[Fit | None, float | None]:
    """The fit with gamma, and the gamma of grids whose coefficients are all worth a weight.

    (None, None) without two families whose grids differ, or where one is the first family.
    """
    cells = [each.cell for each in measured]
    grids = {cell.family: cell.grid for cell in cells if cell.grid is not None}
    if len(set(grids.values())) < 2 or cells[0].family in grids:
        return None, None
    points = [replace(each.point, parameters=each.cell.edges) for each in measured]
    own = [cell for cell in cells if cell.grid is not None]
    worths = np.log([cell.parameters / cell.edges for cell in own])
    sizes = np.log([1 + grids[cell.family] for cell in own])
    return fit(points, grids), float(np.polyfit(sizes, worths, 1)[0])


def save_fit(found: Findings, study: str, path: Path) -> None:
    """Write a fit, for ``nanogpkant plan --fit``."""
    assert found.shared is not None
    law = found.shared.law
    intervals = {key: found.shared.interval(attrgetter(key)) for key in KEYS}
    families = {
        name: {
            "kappa": law.kappa[name],
            "kappa_interval": list(found.shared.interval(lambda each, name=name: each.kappa[name])),
            "lambda": law.lam[name],
            "lambda_interval": list(found.shared.interval(lambda each, name=name: each.lam[name])),
            "flops_per_parameter_and_token": found.cost(name),
        }
        for name in law.kappa
    }
    points = [each.point for each in found.measured]
    value: dict[str, Any] = {
        "study": study,
        "law": "L = E + A (kappa N)^-alpha + B (lambda D)^-beta",
        **{key: getattr(law, key) for key in KEYS},
        "intervals": {key: list(ends) for key, ends in intervals.items()},
        "families": families,
        "error": found.shared.error,
        "parameters": [min(p.parameters for p in points), max(p.parameters for p in points)],
        "tokens": [min(p.tokens for p in points), max(p.tokens for p in points)],
    }
    if (grids := found.gridded) is not None:
        value["gamma"] = grids.law.gamma
        value["gamma_interval"] = list(grids.interval(lambda each: each.gamma))
        value["gamma_of_weights"] = found.gamma_of_weights
    write_json(path, value)


@dataclass(frozen=True)
class SavedLaw:
    """A law from a file, and where it was measured."""

    law: Law
    costs: dict[str, float]  # FLOPs of training a parameter and token, by family
    parameters: tuple[float, float]  # of the smallest and largest model measured
    tokens: tuple[float, float]

    def expected(
        self, family: str | None, parameters: int, tokens: int, flops: int
    ) -> dict[str, Any]:
        """Loss of a model, and the best model of its family for as many training FLOPs.

        Raises:
            UsageError: the law knows no such family.
        """
        name = family or next(iter(self.costs))
        if name not in self.costs:
            raise UsageError(f"--family {name}: {nearest(name, self.costs)}")
        best = self.law.best(name, flops, self.costs[name])
        inside = [
            low <= value <= high
            for value, (low, high) in ((parameters, self.parameters), (tokens, self.tokens))
        ]
        return {
            "family": name,
            "loss": self.law.loss(name, parameters, tokens),
            "best_parameters": best[0],
            "best_tokens": best[1],
            "best_loss": self.law.loss(name, *best),
            "is_measured": all(inside),
        }


def load_fit(path: Path) -> SavedLaw:
    """Read a fit that ``save_fit`` wrote.

    Raises:
        UserError: it cannot be read, or is no fit.
    """
    value = read_json(path)
    try:
        families = value["families"]
        law = Law(
            **{key: float(value[key]) for key in KEYS},
            kappa={name: float(each["kappa"]) for name, each in families.items()},
            lam={name: float(each["lambda"]) for name, each in families.items()},
        )
        key = "flops_per_parameter_and_token"
        costs = {name: float(each[key]) for name, each in families.items()}
        ends = [(float(low), float(high)) for low, high in (value["parameters"], value["tokens"])]
        return SavedLaw(law, costs, *ends)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        remedy = "name the fit.json of a study's report"
        raise UserError(f"--fit {path}: is no fit of nanogpkant scale; {remedy}") from error
