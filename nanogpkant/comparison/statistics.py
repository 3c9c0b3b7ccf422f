"""What losses over seeds say, and how surely. Pure functions of numbers."""

import math
from dataclasses import dataclass

import numpy as np

from nanogpkant.base.errors import UserError

try:
    from scipy import integrate, stats
except ImportError as error:
    remedy = "pip install 'nanogpkant[compare]'"
    raise UserError(f"reports and experiments need scipy, which is not here: {remedy}") from error

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """A sample. With a single value nothing is known of its spread, and that is None."""

    n: int
    mean: float
    sd: float | None
    """standard deviation of the sample, with n - 1 below"""
    low: float | None
    high: float | None
    """the interval that holds the true mean with 95% confidence, by Student's t"""


@dataclass(frozen=True)
class Difference:
    """Pairs of values, one pair for each seed, compared."""

    n: int
    mean: float
    """of first minus second"""
    sd: float | None
    low: float | None
    high: float | None
    """95% interval of the mean"""
    t: float | None
    p: float | None
    """of the paired t-test, two-sided: how often chance alone would differ by as much"""
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
    """Compare values that belong together in pairs, at least one of them.

    With one pair, or with differences that are all the same, there is nothing to test.
    """
    differences = np.subtract(first, second)
    of = summary(differences.tolist())
    if not of.sd:
        return Difference(of.n, of.mean, of.sd, of.low, of.high, None, None, None)
    test = stats.ttest_rel(first, second)
    t, p = float(test.statistic), float(test.pvalue)
    return Difference(of.n, of.mean, of.sd, of.low, of.high, t, p, of.mean / of.sd)


def holm(p_values: list[float]) -> list[float]:
    """p values of several tests, corrected so that finding one by chance stays as unlikely.

    Source: S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    order = np.argsort(p_values)
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(np.minimum(1, np.take(p_values, order) * factors))
    return corrected.tolist()


def mean_height(x: np.ndarray, y: np.ndarray, low: float, high: float) -> float:
    """The area under a curve of straight lines from low to high, divided by the width.

    Args:
        x, y: (points,), x increasing; low and high lie within it, low below high.
    """
    inside = x[(x > low) & (x < high)]
    at = np.concatenate([[low], inside, [high]])
    return float(integrate.trapezoid(np.interp(at, x, y), at) / (high - low))


def first_reach(x: np.ndarray, y: np.ndarray, target: float) -> float | None:
    """Where a curve of straight lines first comes down to the target; None where it never does."""
    below = np.flatnonzero(y <= target)
    if len(below) == 0:
        return None
    after = int(below[0])
    if after == 0:
        return float(x[0])
    share = (y[after - 1] - target) / (y[after - 1] - y[after])
    return float(x[after - 1] + share * (x[after] - x[after - 1]))


def honest_best(halves: np.ndarray) -> float:
    """The loss of the best checkpoint, each half of the text judged by the choice of the other.

    The best of many evaluations is partly lucky on the very text that it was chosen by. So choose
    by one half and report the other, both ways round, and take the mean: never below the best.

    Args:
        halves: (2, evaluations): the losses on either half of the text.
    """
    by_first, by_second = halves.argmin(axis=1)
    return float((halves[1, by_first] + halves[0, by_second]) / 2)


def mean_and_spread(
    curves: list[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where several curves agree to be: x, their mean, and their standard deviation (0 for one).

    Args:
        curves: (x, y) of each. The result has every x of any of them that lies within them all.
    """
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    at = np.unique(np.concatenate([x for x, _ in curves] + [[low, high]]))
    at = at[(at >= low) & (at <= high)]
    heights = np.array([np.interp(at, x, y) for x, y in curves])  # (curves, points)
    spread = heights.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(at))
    return at, heights.mean(axis=0), spread
