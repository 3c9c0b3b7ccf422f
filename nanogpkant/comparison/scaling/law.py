"""The law of a study's losses, fitted: L = E + A (kappa N)^-alpha + B (lambda D)^-beta.

N are a model's parameters, D its training tokens. E, A, B, alpha and beta are shared; every family
has a kappa and a lambda of its own, which say how many parameters, or tokens, of the first family
one of its own is worth. For families of grids kappa = kappa0 (1 + G)^gamma.

Sources: the law and its fit (Huber loss of log L, L-BFGS from many starts) are those of Hoffmann
et al., arXiv 2203.15556, with the remarks of Besiroglu et al., arXiv 2404.10102: losses are summed,
not averaged, so that the optimiser does not stop early, and intervals come from a bootstrap.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nanogpkant.base.errors import UserError, from_extra

with from_extra("compare", "a scaling law"):
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

DELTA = 1e-3  # of Huber's loss of log L
LEAST = 3  # distinct sizes, and numbers of tokens, that a law needs
DRAWS = 300  # of the bootstrap
# Starts: shares of E in the loss at the middle of the points, and the two exponents.
STARTS = list(itertools.product((0.3, 0.6, 0.85), (0.15, 0.35, 0.7), (0.15, 0.35, 0.7)))
SHARED = 5  # unknowns: log E, log A and log B at the middle of the points, alpha, beta
EXPONENTS = (0.01, 3.0)
WORTHS = (-7.0, 7.0)  # bounds of log kappa and log lambda


@dataclass(frozen=True)
class Point:
    """A trained model."""

    family: str
    parameters: float
    tokens: float
    loss: float  # nats per token
    seed: int = 0

    @property
    def cell(self) -> tuple[str, float, float]:
        """What repeats with other seeds share."""
        return self.family, self.parameters, self.tokens


@dataclass(frozen=True)
class Law:
    """A law with numbers."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    kappa: dict[str, float]  # by family; 1 for the first
    lam: dict[str, float]
    kappa0: float | None = None  # of the families with grids
    gamma: float | None = None

    def loss(self, family: str, parameters: Any, tokens: Any) -> Any:
        """Loss of models, nats per token; numbers or arrays."""
        sizes, data = self.kappa[family] * parameters, self.lam[family] * tokens
        return self.E + self.A * sizes**-self.alpha + self.B * data**-self.beta

    def best(self, family: str, flops: float, cost: float) -> tuple[float, float]:
        """Parameters and tokens of the lowest loss for a budget of training FLOPs.

        Args:
            cost: FLOPs of training per parameter and token, 6 for a plain model without attention.
        """
        product = flops / cost  # of parameters and tokens
        a = self.alpha * self.A * self.kappa[family] ** -self.alpha
        b = self.beta * self.B * self.lam[family] ** -self.beta
        power = self.alpha + self.beta
        parameters = (a / b) ** (1 / power) * product ** (self.beta / power)
        return parameters, product / parameters

    def lowest(self, family: str, flops: Any, cost: float) -> Any:
        """Loss of the best model for a budget, see ``best``."""
        return self.loss(family, *self.best(family, flops, cost))

    def flops_for(self, family: str, loss: float, cost: float) -> float:
        """Training FLOPs of the cheapest model that reaches a loss; infinite where none does."""
        if loss <= self.E:
            return math.inf
        low, high = 0.0, 200.0  # log FLOPs
        for _ in range(100):
            middle = (low + high) / 2
            reached = self.lowest(family, math.exp(middle), cost)
            low, high = (low, middle) if reached <= loss else (middle, high)
        return math.exp(high)


@dataclass(frozen=True)
class Fit:
    """A fitted law, and those of resampled points."""

    law: Law
    draws: list[Law]
    points: list[Point] = field(repr=False)

    @property
    def error(self) -> float:
        """Root mean square of the residuals."""
        return float(np.sqrt(np.mean([self.residual(point) ** 2 for point in self.points])))

    def residual(self, point: Point) -> float:
        """log L measured less log L of the law."""
        return math.log(point.loss / self.law.loss(point.family, point.parameters, point.tokens))

    def interval(self, of: Callable[[Law], Any]) -> tuple[Any, Any]:
        """Ends of the 95% interval of what a function gives for a law: percentiles of the draws."""
        low, high = np.quantile([of(law) for law in self.draws], [0.025, 0.975], axis=0)
        return low, high

    def predicted(self, family: str, parameters: float, tokens: float) -> tuple[float, float]:
        """95% interval of the loss of one more model: the law's, widened by the residuals."""
        random = np.random.default_rng(0)
        noise = random.normal(0, self.error, (20, len(self.draws)))
        losses = np.array([law.loss(family, parameters, tokens) for law in self.draws])
        low, high = np.quantile(losses * np.exp(noise), [0.025, 0.975])
        return float(low), float(high)

    def trend(self, key: str) -> float:
        """Rise of the residuals, as a line, over the range of parameters or tokens."""
        logs = np.log([getattr(point, key) for point in self.points])
        slope = np.polyfit(logs, [self.residual(point) for point in self.points], 1)[0]
        return float(slope * np.ptp(logs))


def why_no_fit(points: Sequence[Point], families: Sequence[str] = ()) -> str | None:
    """Why these points determine no law of their families and of others; None if they may."""
    for family in dict.fromkeys([*families, *(point.family for point in points)]):
        own = [point for point in points if point.family == family]
        for what, values in (
            ("parameters", {point.parameters for point in own}),
            ("tokens", {point.tokens for point in own}),
        ):
            if len(values) < LEAST:
                given = f"{len(values)} distinct number{'s' * (len(values) != 1)} of {what}"
                return f"{family} has {given}; a law needs at least {LEAST}"
    return None if points else "there are no points"


def fit(
    points: Sequence[Point], grids: dict[str, int] | None = None, draws: int = DRAWS, seed: int = 0
) -> Fit:
    """Fit a law to the points; the first point's family is the one that others are measured in.

    Args:
        grids: grid intervals of families whose kappa is kappa0 (1 + G)^gamma; at least two.
        draws: resamplings of the bootstrap, each of cells within a family, then of seeds in a cell.

    Raises:
        UserError: points that determine no law.
    """
    if why := why_no_fit(points):
        raise UserError(f"no fit: {why}")
    problem = _Problem(list(points), grids or {})
    weights = np.ones(len(points))
    random = np.random.default_rng(seed)
    with threadpool_limits(1, "blas"):  # on busy cores two threads are 60 times as slow
        solved = [problem.solve(start, weights) for start in problem.starts()]
        found = min(solved, key=lambda each: each[0])
        again = [problem.solve(found[1], problem.resampled(random))[1] for _ in range(draws)]
    return Fit(problem.law(found[1]), [problem.law(each) for each in again], list(points))


class _Problem:
    """Points as arrays, and the unknowns as a vector: the shared ones, then those of families.

    log kappa and log lambda of the families are linear in the latter: a matrix each, of shape
    (families, unknowns).
    """

    def __init__(self, points: list[Point], grids: dict[str, int]) -> None:
        self.families = list(dict.fromkeys(point.family for point in points))
        self.family = np.array([self.families.index(point.family) for point in points])
        sizes = np.log([point.parameters for point in points])
        tokens = np.log([point.tokens for point in points])
        # Centred, A and alpha hardly depend on each other.
        self.middle = float(sizes.mean()), float(tokens.mean())
        self.sizes, self.tokens = sizes - self.middle[0], tokens - self.middle[1]
        self.losses = np.log([point.loss for point in points])
        others, self.gridded = self.families[1:], bool(grids)
        free = [family for family in others if family not in grids]
        unknowns = len(free) + 2 * self.gridded + len(others)
        self.kappa = np.zeros((len(self.families), unknowns))
        self.lam = np.zeros((len(self.families), unknowns))
        for number, family in enumerate(free):
            self.kappa[self.families.index(family), number] = 1
        for family, size in grids.items():
            row = 1, math.log(1 + size)
            self.kappa[self.families.index(family), len(free) : len(free) + 2] = row
        for number, family in enumerate(others):
            self.lam[self.families.index(family), unknowns - len(others) + number] = 1
        self.gamma = SHARED + len(free) + 1
        exponents, worth = [EXPONENTS] * 2, [WORTHS] * unknowns
        self.bounds = [(-10, 5), (-20, 5), (-20, 5), *exponents, *worth]
        cells: dict[tuple[str, float, float], list[int]] = {}
        for number, point in enumerate(points):
            cells.setdefault(point.cell, []).append(number)
        self.cells = [
            [np.array(of) for cell, of in cells.items() if cell[0] == family]
            for family in self.families
        ]

    def starts(self) -> list[np.ndarray]:
        typical, none = float(np.median(self.losses)), [0.0] * self.kappa.shape[1]
        starts = []
        for share, alpha, beta in STARTS:
            rest = typical + math.log((1 - share) / 2)
            starts.append(np.array([typical + math.log(share), rest, rest, alpha, beta, *none]))
        return starts

    def solve(self, start: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """The lowest weighted Huber loss that L-BFGS finds from a start, and where it lies."""
        options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-13, "gtol": 1e-9, "maxcor": 20}
        arguments: dict[str, Any] = {
            "jac": True,
            "method": "L-BFGS-B",
            "bounds": self.bounds,
            "options": options,
        }
        found = minimize(self.objective, start, (weights,), **arguments)
        return float(found.fun), found.x

    def terms(self, unknowns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logarithms of the law's three terms, (3, points), and log kappa N and log lambda D."""
        log_e, log_a, log_b, alpha, beta = unknowns[:SHARED]
        sizes = self.sizes + (self.kappa @ unknowns[SHARED:])[self.family]
        tokens = self.tokens + (self.lam @ unknowns[SHARED:])[self.family]
        flat = np.full(len(sizes), log_e)
        return np.stack([flat, log_a - alpha * sizes, log_b - beta * tokens]), sizes, tokens

    def objective(self, unknowns: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """Huber's loss in units of its delta, and its gradient."""
        terms, sizes, tokens = self.terms(unknowns)
        total = np.logaddexp.reduce(terms, axis=0)
        shares = np.exp(terms - total)  # (3, points): derivatives of log L by the terms' logarithms
        z = (self.losses - total) / DELTA
        small = np.abs(z) <= 1
        value = weights @ np.where(small, 0.5 * z**2, np.abs(z) - 0.5)
        pull = -weights * np.clip(z, -1, 1) / DELTA * shares  # (3, points)
        alpha, beta = unknowns[3:SHARED]
        by_kappa = np.bincount(self.family, -alpha * pull[1], len(self.families)) @ self.kappa
        by_lam = np.bincount(self.family, -beta * pull[2], len(self.families)) @ self.lam
        shared = [*pull.sum(1), -pull[1] @ sizes, -pull[2] @ tokens]
        return float(value), np.concatenate([shared, by_kappa + by_lam])

    def resampled(self, random: np.random.Generator) -> np.ndarray:
        """How often each point is drawn: cells of every family, then seeds of a drawn cell."""
        weights = np.zeros(len(self.losses))
        for cells in self.cells:
            for number in random.integers(len(cells), size=len(cells)):
                own = cells[number]
                np.add.at(weights, own[random.integers(len(own), size=len(own))], 1)
        return weights

    def law(self, unknowns: np.ndarray) -> Law:
        log_e, log_a, log_b, alpha, beta = unknowns[:SHARED]
        kappa, lam = (np.exp(each @ unknowns[SHARED:]) for each in (self.kappa, self.lam))
        return Law(
            E=math.exp(log_e),
            A=math.exp(log_a + alpha * self.middle[0]),
            B=math.exp(log_b + beta * self.middle[1]),
            alpha=float(alpha),
            beta=float(beta),
            kappa=dict(zip(self.families, kappa.tolist(), strict=True)),
            lam=dict(zip(self.families, lam.tolist(), strict=True)),
            kappa0=float(np.exp(unknowns[self.gamma - 1])) if self.gridded else None,
            gamma=float(unknowns[self.gamma]) if self.gridded else None,
        )
