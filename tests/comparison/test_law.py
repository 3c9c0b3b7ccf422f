"""The fit: planted laws come back, the published one too; points that determine none are named."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import GRIDS, PLANTED, planted
from scipy.optimize import check_grad

from nanogpkant.base.errors import UserError
from nanogpkant.comparison.scaling.law import Law, Point, _Problem, fit, why_no_fit


def test_the_gradient_is_that_of_the_objective() -> None:
    problem = _Problem(planted(0, noise=0.05), GRIDS)
    weights = problem.resampled(np.random.default_rng(0))
    at = problem.starts()[0] + np.linspace(0.1, 0.3, problem.kappa.shape[1] + 5)
    value, gradient = problem.objective(at, weights)
    wrong = check_grad(
        lambda x: problem.objective(x, weights)[0], lambda x: problem.objective(x, weights)[1], at
    )
    assert value > 0
    assert wrong < 1e-3 * np.linalg.norm(gradient)


def test_a_law_without_noise_comes_back() -> None:
    found = fit(planted(0, noise=0.0), GRIDS, draws=0).law
    for key in ("E", "A", "B", "alpha", "beta", "kappa0", "gamma"):
        assert getattr(found, key) == pytest.approx(getattr(PLANTED, key), rel=0.02), key
    assert found.kappa == pytest.approx(PLANTED.kappa, rel=0.02)
    assert found.lam == pytest.approx(PLANTED.lam, rel=0.02)


def test_intervals_hold_planted_numbers() -> None:
    """The whole check, of 100 laws with all families, is tests/soak/planted_laws.py."""
    held = []
    for seed in range(8):
        found = fit(planted(seed, ("plain", "curve")), draws=60, seed=seed)
        for of in (lambda law: law.kappa["curve"], lambda law: law.alpha, lambda law: law.beta):
            low, high = found.interval(of)
            held.append(low <= of(PLANTED) <= high)
    assert np.mean(held) >= 0.75


def test_the_published_law_of_chinchilla() -> None:
    """Besiroglu et al. report 1.817, 482.01, 2085.43, 0.3478 and 0.3658, without the five worst."""
    text = (Path(__file__).parent / "chinchilla.csv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(line for line in text if not line.startswith("#")))
    points = [
        Point("plain", *(float(row[k]) for k in ("parameters", "tokens", "loss"))) for row in rows
    ]
    kept = sorted(points, key=lambda point: point.loss)[:-5]
    assert len(kept) == 240
    law = fit(kept, draws=0).law
    assert pytest.approx(1.8172, abs=2e-3) == law.E
    assert law.alpha == pytest.approx(0.3478, abs=2e-3)
    assert law.beta == pytest.approx(0.3658, abs=3e-3)
    assert pytest.approx(482.01, rel=0.02) == law.A
    assert pytest.approx(2085.43, rel=0.05) == law.B


def test_the_same_points_give_the_same_fit() -> None:
    points = planted(3, ("plain", "curve"))
    assert fit(points, draws=5) == fit(points, draws=5)


def test_a_held_out_cell_is_predicted() -> None:
    points = planted(1, ("plain", "curve"))
    largest = points[-1]
    found = fit(points[:-1], draws=40)
    low, high = found.predicted(largest.family, largest.parameters, largest.tokens)
    assert low <= largest.loss <= high
    assert high - low < 0.1 * largest.loss


def test_the_frontier_is_where_no_other_size_is_better() -> None:
    for family in ("plain", "curve"):
        parameters, tokens = PLANTED.best(family, 1e15, 7.0)
        assert parameters * tokens * 7.0 == pytest.approx(1e15)
        here = PLANTED.loss(family, parameters, tokens)
        for factor in (0.9, 1.1):
            assert PLANTED.loss(family, parameters * factor, tokens / factor) > here
        assert PLANTED.flops_for(family, float(here), 7.0) == pytest.approx(1e15, rel=1e-6)
    assert PLANTED.flops_for("plain", PLANTED.E, 6.0) == math.inf


def test_too_few_points_are_no_law() -> None:
    points = planted(0, ("plain", "curve"))
    sizes = sorted({point.parameters for point in points})
    two = [p for p in points if p.family == "plain" or p.parameters in sizes[:2]]
    assert why_no_fit(two) == "curve has 2 distinct numbers of parameters; a law needs at least 3"
    one = [replace(point, tokens=1e6) for point in points]
    with pytest.raises(UserError, match="no fit: plain has 1 distinct number of tokens"):
        fit(one)
    assert why_no_fit([]) == "there are no points"
    assert why_no_fit(points, ["plain", "gone"]) == (
        "gone has 0 distinct numbers of parameters; a law needs at least 3"
    )
    assert isinstance(fit(points, draws=1).law, Law)
