"""Summaries, intervals and tests of losses over seeds. Pure functions of numbers."""

import math
from dataclasses import dataclass

import numpy as np

from nanogpkant.base.errors import from_extra

with from_extra("compare", "a comparison"):
    from scipy import integrate, stats

CONFIDENCE = 0.95
ROUNDING = 1e-12  # standard deviation of differences that are equal but for rounding


@dataclass(frozen=True)
class Summary:
    """A sample. Spread and interval of a single value are None."""

    n: int
    mean: float
    sd: float | None  # standard deviation of the sample, with n - 1 degrees of freedom
    low: float | None  # end of the 95% confidence interval of the mean, by Student's t
    high: float | None  # the other end

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class Difference(Summary):
    """First minus second of paired values, one pair for each seed."""

    t: float | None
    p: float | None  # of the two-sided paired t-test
    effect_size: float | None
    """Cohen's d_z: the mean in units of the standard deviation of the differences"""


def summary(values: list[float]) -> Summary:
    """Mean, standard deviation and 95% interval of at least one value."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Summary(n, mean, None, None, None)
    sd = float(np.std(values, ddof=1))
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - margin, mean + margin)


def paired_difference(first: list[float], second: list[float]) -> Difference:
    """Compare paired values, at least one pair.

    One pair, or differences that are all equal, are not tested.
    """
    differences = np.subtract(first, second)
    of = summary(differences.tolist())
    if of.sd is None or of.sd <= ROUNDING:
        return Difference(of.n, of.mean, of.sd, of.low, of.high, None, None, None)
    test = stats.ttest_rel(first, second)
    t, p = float(test.statistic), float(test.pvalue)
    return Difference(of.n, of.mean, of.sd, of.low, of.high, t, p, of.mean / of.sd)


def holm(p_values: list[float]) -> list[float]:
    """p values of several tests, corrected so that the family-wise error rate is kept.

    Source: S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    order = np.argsort(p_values)
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(np.minimum(1, np.take(p_values, order) * factors))
    return corrected.tolist()


def mean_height(x: np.ndarray, y: np.ndarray, low: float, high: float) -> float:
    """Mean of a piecewise linear curve between low and high.

    Args:
        x, y: (points,), x increasing; low and high lie within it, low below high.
    """
    inside = x[(x > low) & (x < high)]
    at = np.concatenate([[low], inside, [high]])
    return float(integrate.trapezoid(np.interp(at, x, y), at) / (high - low))


def first_reach(x: np.ndarray, y: np.ndarray, target: float) -> float | None:
    """The x at which a piecewise linear curve first reaches the target from above, or None."""
    below = np.flatnonzero(y <= target)
    if len(below) == 0:
        return None
    after = int(below[0])
    if after == 0:
        return float(x[0])
    share = (y[after - 1] - target) / (y[after - 1] - y[after])
    return float(x[after - 1] + share * (x[after] - x[after - 1]))


def honest_best(halves: np.ndarray) -> float:
    """Loss of the best checkpoint, chosen on one half of the text and evaluated on the other.

    The minimum over many evaluations is biased low, because the same text selects and evaluates. So
    select on one half and evaluate on the other, both ways round; the mean is never below the best.

    Args:
        halves: (2, evaluations): the losses on either half of the text.
    """
    by_first, by_second = halves.argmin(axis=1)
    return float((halves[1, by_first] + halves[0, by_second]) / 2)


def mean_and_spread(
    curves: list[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of several curves: x, mean, and standard deviation (0 for one curve), (points,) each.

    Args:
        curves: (x, y) of each. The result has every x of any curve within the range of all.
    """
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    at = np.unique(np.concatenate([x for x, _ in curves] + [[low, high]]))
    at = at[(at >= low) & (at <= high)]
    heights = np.array([np.interp(at, x, y) for x, y in curves])  # (curves, points)
    spread = heights.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(at))
    return at, heights.mean(axis=0), spread


def p_not_above(first: list[float], second: list[float], margin: float) -> float | None:
    """p of the one-sided paired t-test that the first is not above the second by the margin.

    A small p says "no worse than". The larger p of both directions tests equivalence: the two
    one-sided tests of D. Schuirmann (1987). One pair is not tested; p of equal differences is 0
    below the margin and 1 above.
    """
    differences = np.subtract(first, second)
    if len(differences) < 2:
        return None
    if differences.std() <= ROUNDING:
        return float(differences.mean() >= margin)
    return float(stats.ttest_rel(first, np.add(second, margin), alternative="less").pvalue)


def bootstrap_interval(differences: np.ndarray, draws: int = 10_000) -> tuple[float, float]:
    """95% interval of the mean under new seeds and new text, both drawn with replacement.

    Args:
        differences: (seeds, parts): of two models' losses on each part of the text.
        draws: resamples; the same ones each time.

    Source: the two-way bootstrap of A. Owen, The pigeonhole bootstrap (2007).
    """
    random = np.random.default_rng(0)
    seeds, parts = (
        random.multinomial(count, np.full(count, 1 / count), draws) / count
        for count in differences.shape
    )
    means = np.einsum("ds,sp,dp->d", seeds, differences, parts)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)
