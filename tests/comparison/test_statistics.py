"""Statistics against scipy's own, against slow loops and against what must always hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from nanogpkant.comparison.statistics import (
    bootstrap_interval,
    first_reach,
    holm,
    honest_best,
    mean_and_spread,
    mean_height,
    p_not_above,
    paired_difference,
    summary,
)

losses = st.floats(0.5, 5.0)


@given(st.lists(losses, min_size=2, max_size=8, unique=True))
def test_the_interval_is_that_of_scipys_t_test(values):
    found = summary(values)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert (found.n, found.mean) == (len(values), pytest.approx(np.mean(values)))
    assert found.sd == pytest.approx(stats.tstd(values))


def test_one_value_has_a_mean_and_no_interval():
    found = summary([1.5])
    assert (found.n, found.mean) == (1, 1.5)
    assert (found.sd, found.low, found.high) == (None, None, None)


@given(st.lists(st.tuples(losses, losses), min_size=2, max_size=8))
def test_pairs_are_tested_as_scipy_tests_them(pairs):
    first, second = zip(*pairs, strict=True)
    found = paired_difference(list(first), list(second))
    differences = np.subtract(first, second)
    assert found.mean == pytest.approx(differences.mean())
    if np.std(differences) < 1e-9:
        return
    test = stats.ttest_1samp(differences, 0)  # the same test by another road
    assert (found.t, found.p) == pytest.approx((test.statistic, test.pvalue))
    interval = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.effect_size == pytest.approx(found.t / np.sqrt(len(pairs)))  # Cohen's d_z


ALIKE = [[(2.0, 1.0)], [(2.0, 1.5), (1.0, 0.5)], [(2.3, 2.0), (2.6, 2.3)]]


@pytest.mark.parametrize("pairs", ALIKE, ids=["one", "alike", "rounded"])
def test_without_spread_there_is_nothing_to_test(pairs):
    found = paired_difference(*map(list, zip(*pairs, strict=True)))
    assert found.mean == pytest.approx(pairs[0][0] - pairs[0][1])
    assert (found.t, found.p, found.effect_size) == (None, None, None)


def test_holms_correction_of_a_known_case():
    # R: p.adjust(c(0.04, 0.01, 0.03, 0.005), "holm")
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7]) == [0.7]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferronis(p_values):
    corrected = holm(p_values)
    for p, q in zip(p_values, corrected, strict=True):
        assert p <= q <= min(1, p * len(p_values)) + 1e-12
    ranked = [corrected[i] for i in np.argsort(p_values)]
    assert ranked == sorted(ranked)


@given(st.lists(losses, min_size=2, max_size=8), st.floats(0, 0.45), st.floats(0.55, 1))
def test_the_mean_height_is_the_integral(heights, start, end):
    x = np.arange(len(heights)) * 10.0
    low, high = start * x[-1], end * x[-1]
    area, _ = integrate.quad(np.interp, low, high, args=(x, heights), points=x[1:-1], limit=200)
    assert mean_height(x, np.array(heights), low, high) == pytest.approx(area / (high - low))


@given(st.lists(losses, min_size=2, max_size=8), losses)
def test_a_target_is_first_reached_where_the_line_first_comes_down_to_it(heights, target):
    x, y = np.arange(len(heights)) * 10.0, np.array(heights)
    found = first_reach(x, y, target)
    if found is None:
        assert min(heights) > target
        return
    before = np.linspace(0, found, 50)[:-1]
    assert np.interp(found, x, y) <= target + 1e-9
    assert found == 0 or (np.interp(before, x, y) > target - 1e-9).all()


halves = st.lists(st.tuples(losses, losses), min_size=1, max_size=10)


@given(halves)
def test_the_honest_best_is_a_slow_loops_and_never_below_the_best(pairs):
    first, second = zip(*pairs, strict=True)
    by_first = min(range(len(pairs)), key=lambda k: first[k])
    by_second = min(range(len(pairs)), key=lambda k: second[k])
    found = honest_best(np.array([first, second]))
    assert found == pytest.approx((second[by_first] + first[by_second]) / 2)
    assert found >= min((a + b) / 2 for a, b in pairs) - 1e-12


def test_luck_is_found_where_there_is_nothing_but_luck():
    """Of 20 equally good checkpoints with noise, the best looks better than it is; not honestly."""
    random = np.random.default_rng(0)
    noisy = 2 + 0.1 * random.standard_normal((2000, 2, 20))
    best = np.mean([run.mean(axis=0).min() for run in noisy])
    honest = np.mean([honest_best(run) for run in noisy])
    assert best < 1.88
    assert honest == pytest.approx(2, abs=0.005)


def test_curves_are_averaged_where_all_of_them_are():
    first = np.array([0.0, 10.0, 20.0]), np.array([4.0, 2.0, 1.0])
    second = np.array([0.0, 5.0, 15.0]), np.array([4.0, 3.0, 2.0])
    x, mean, spread = mean_and_spread([first, second])
    assert x.tolist() == [0, 5, 10, 15]
    assert mean.tolist() == [4, 3, 2.25, 1.75]
    assert spread.tolist() == pytest.approx(
        [0, 0, np.std([2, 2.5], ddof=1), np.std([1.5, 2], ddof=1)]
    )
    assert mean_and_spread([first])[2].tolist() == [0, 0, 0]


@given(st.lists(st.tuples(losses, losses), min_size=2, max_size=8), st.floats(-1, 1))
def test_no_worse_is_a_one_sided_test(pairs, margin):
    first, second = map(list, zip(*pairs, strict=True))
    found = p_not_above(first, second, margin)
    if not (differences := np.subtract(first, second)).std():
        assert found == (differences.mean() >= margin)
    else:
        moved = np.add(second, margin)
        assert found == pytest.approx(stats.ttest_rel(first, moved, alternative="less").pvalue)


def test_the_bootstrap_covers_new_seeds_and_new_text():
    """Of 300 experiments of crossed effects, about 95% of the intervals hold the truth."""
    random, held = np.random.default_rng(1), 0
    for _ in range(300):
        seeds, parts = random.normal(0, 0.01, (12, 1)), random.normal(0, 0.01, (1, 16))
        low, high = bootstrap_interval(0.05 + seeds + parts + random.normal(0, 0.01, (12, 16)), 400)
        held += low < 0.05 < high
    assert 0.88 < held / 300 <= 1


def test_the_bootstrap_of_one_effect_is_scipys():
    values = np.random.default_rng(0).normal(size=30)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
    ours = bootstrap_interval(values[:, None])
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.02)
