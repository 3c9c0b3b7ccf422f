"""KANRegressor and KANClassifier pass scikit-learn's own checks, and tell their formulas."""

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils.estimator_checks import parametrize_with_checks

from nanogpkant import KANClassifier, KANRegressor

SMALL = {"hidden": (2,), "grid_size": 2, "max_iter": 15}


@parametrize_with_checks([KANRegressor(**SMALL), KANClassifier(**SMALL)])
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def table(rows: int = 300) -> tuple[pd.DataFrame, np.ndarray]:
    random = np.random.default_rng(0)
    X = pd.DataFrame(random.uniform(-2, 2, (rows, 2)), columns=["height", "width"])
    return X, 3 * np.sin(X["height"]) + X["width"] ** 2 + 5


def test_formulas_compute_what_the_model_predicts() -> None:
    X, y = table()
    model = KANRegressor(hidden=(), random_state=0).fit(X, y)
    assert model.score(X, y) > 0.999
    lines = model.formulas_
    assert lines[0].startswith("z0 = (height ")
    assert lines[-1].startswith("y = ")
    known = {name: X[name].to_numpy() for name in X} | {"sin": np.sin, "cos": np.cos}
    known |= {name: getattr(np, name) for name in ("tanh", "exp", "log", "sqrt", "abs")}
    known |= {"sigmoid": lambda z: 1 / (1 + np.exp(-z)), "gauss": lambda z: np.exp(-z * z)}
    for line in lines:
        name, _, formula = line.partition(" = ")
        known[name] = eval(formula.replace("^", "**"), {}, known)
    inner = (np.abs(X) < 1.9).all(axis=1)
    errors = np.abs(known["y"] - model.predict(X))[inner]
    assert np.sqrt((errors**2).mean()) < 0.1 * y.std()
    assert model.interpretation_.edges["accepted"].all()


def test_formulas_of_numbers_far_from_zero() -> None:
    """Years and pressures: 4 digits of a mean would be wrong by more than their spread."""
    X = pd.DataFrame({"year": np.linspace(1990, 2021, 200)})
    y = 101325 + 0.02 * (X["year"] - 2005) ** 2
    model = KANRegressor(hidden=(), random_state=0).fit(X, y)
    scaling, formula = (line.partition(" = ")[2].replace("^", "**") for line in model.formulas_)
    z0 = eval(scaling, {}, {"year": X["year"].to_numpy()})
    found = eval(formula, {}, {"z0": z0} | vars(np))
    assert np.sqrt(((found - model.predict(X)) ** 2).mean()) < 0.1 * y.std()


def test_a_hidden_layer_and_a_classifier_of_words() -> None:
    X, y = table()
    labels = np.where(y > y.median(), "high", "low")
    model = KANClassifier((3,), random_state=0, max_iter=60).fit(X, labels)
    assert model.score(X, labels) > 0.95
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)
    assert {line.partition(" ")[0] for line in model.formulas_} == {
        *("z0", "z1", "h0_0", "h0_1", "h0_2", "score_high", "score_low")
    }
    again = pickle.loads(pickle.dumps(model))
    assert (again.predict(X) == model.predict(X)).all()


def test_it_is_part_of_pipelines_and_searches() -> None:
    X, y = table(80)
    pipeline = make_pipeline(PolynomialFeatures(2), KANRegressor((), max_iter=20))
    search = GridSearchCV(pipeline, {"kanregressor__grid_size": [2, 3]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.9


@pytest.mark.parametrize("columns", [1, 2])
def test_several_targets(columns: int) -> None:
    X, y = table(50)
    y = np.stack([y, -y], 1)[:, :columns]
    model = KANRegressor((), max_iter=20).fit(X, y)
    assert model.predict(X).shape == (50, columns)
    assert model.formulas_[-1].startswith(f"y{columns - 1} = ")
