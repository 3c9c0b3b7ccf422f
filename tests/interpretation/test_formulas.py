"""Formulas for edges: planted functions are found, whatever their scale, and bad edges say so."""

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch import Tensor

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.interpretation.fit.families import FAMILIES
from nanogpkant.interpretation.fit.fits import Fits
from nanogpkant.interpretation.fit.formulas import fit
from nanogpkant.interpretation.store import Stage

G = 64

# Functions written out here, in numpy, at x in [-2, 3].
PLANTED = {
    "line": lambda x: 0.7 * x - 2,
    "square": lambda x: (x - 0.4) ** 2,
    "cubic": lambda x: x**3 - 2 * x**2 + 0.3 * x,
    "quartic": lambda x: 0.2 * x**4 - 0.5 * x**3 + x,
    "quintic": lambda x: 0.1 * x**5 - 0.3 * x**4 + x**2,
    "cube": lambda x: (x - 0.3) ** 3,
    "exp": lambda x: np.exp(0.9 * x),
    "abs": lambda x: np.abs(x - 0.5),
    "relu": lambda x: np.maximum(1.0 * x - 0.5, 0),
    "sqrt": lambda x: np.sqrt(x + 2.05),
    "log": lambda x: np.log(x + 2.1),
    "reciprocal": lambda x: 1 / (x + 2.4),
    "silu": lambda x: 3 * x / (1 + np.exp(-3 * x)),
    "gelu": lambda x: (2 * x - 1) * ndtr(2 * x - 1),
    "softplus": lambda x: np.log1p(np.exp(3 * x - 1)),
    "tanh": lambda x: np.tanh(2 * x - 1),
    "sigmoid": lambda x: 1 / (1 + np.exp(-4 * x)),
    "gaussian": lambda x: np.exp(-((1.5 * x - 1) ** 2)),
    "sin": lambda x: np.sin(3 * x + 0.4),
    "x*sin": lambda x: (2 * x + 0.3) * np.sin(2 * x + 0.3),
    "sin + line": lambda x: np.sin(3 * x + 0.4) + 0.8 * x,
    "tanh + line": lambda x: np.tanh(3 * x) - 0.5 * x,
    "two terms": lambda x: np.exp(-((2 * x - 3) ** 2)) + np.tanh(3 * x + 3) + 0.2 * x,
}


def problem(functions, scale: float = 1.0, shift: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Points (G, 1), weights (G, 1) and curves (G, functions, 1), denser in the middle."""
    x = np.linspace(-2, 3, G)
    curves = np.stack([scale * (f(x) + shift) for f in functions], axis=1)[..., None]
    weights = np.exp(-((x - 0.5) ** 2) / 2)[:, None]
    share = weights / weights.sum()
    return tuple(torch.tensor(a, dtype=torch.float32) for a in (x[:, None], share, curves))


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-4, 0.0), (30.0, 5.0)])
def test_planted_functions_are_explained(scale: float, shift: float) -> None:
    points, weights, curves = problem(PLANTED.values(), scale, shift)
    fits = fit(points, weights, curves)
    assert fits.accepted.all()
    named = dict(zip(PLANTED, fits.r2[:, 0].tolist(), strict=True))
    assert min(named.values()) > 0.997, named


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_function_is_found_by_its_own_family(name: str) -> None:
    """Names are ambiguous, but the family itself, asked for alone, fits almost exactly."""
    points, weights, curves = problem([PLANTED[name]])
    families = {"two terms": None, "sin + line": ["sin", "line"], "tanh + line": ["tanh", "line"]}
    fits = fit(points, weights, curves, families.get(name, [name]))
    assert fits.r2.item() > (0.997 if name == "two terms" else 0.9999)


def test_the_simplest_that_is_good_enough_is_chosen() -> None:
    names = ["line", "square", "abs", "sin", "gaussian"]
    table = fit(*problem([PLANTED[name] for name in names])).table()
    assert table["family"].tolist() == names
    assert (table["margin"] >= 0).all()


def test_noise_is_not_explained_and_stays_a_spline() -> None:
    points, weights, _ = problem([np.sin])
    noise = torch.randn(G, 200, 1, generator=torch.Generator().manual_seed(0))
    fits = fit(points, weights, noise)
    assert not fits.accepted.any()
    assert set(fits.table()["family"]) == {"spline"}


def test_noisy_functions_are_still_found() -> None:
    points, weights, curves = problem(PLANTED.values())
    mean = (weights[..., None] * curves).sum(0)
    std = (weights[..., None] * (curves - mean).square()).sum(0).sqrt()
    noise = 0.03 * std * torch.randn(curves.shape, generator=torch.Generator().manual_seed(0))
    away = (fit(points, weights, curves + noise).evaluate(points) - curves) / std
    explained = 1 - (weights[..., None] * away.square()).sum(0)[:, 0]
    assert (explained > 0.99).all(), dict(zip(PLANTED, explained.tolist(), strict=True))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_with_a_line_of_its_own(family) -> None:
    points, weights, _ = problem([np.sin])
    starts = family.starts()
    rate, offset = starts[starts[:, 1].abs().argmin()]  # bends far from the ends
    z = rate * (points - 0.5) / 2.5 + offset
    planted = (2 * family.value(z) - 0.7 * points)[..., None]
    names = {"abs": "relu", "cube": "cubic"}  # with a line these are the same
    fits = fit(points, weights, planted, [names.get(family.name, family.name), "line"])
    assert fits.front.min() < 1e-4  # a simpler one may be good enough to be chosen


def test_r2_is_the_weighted_one_that_numpy_finds() -> None:
    points, weights, curves = problem(PLANTED.values())
    fits = fit(points, weights, curves, ["tanh"])
    y, guess = curves[..., 0].double().numpy(), fits.evaluate(points)[..., 0].double().numpy()
    share = 0.999 * weights.double().numpy() + 0.001 / G  # a thousandth is spread evenly
    mean = (share * y).sum(0)
    r2 = 1 - (share * (y - guess) ** 2).sum(0) / (share * (y - mean) ** 2).sum(0)
    assert np.allclose(fits.r2[:, 0].numpy(), r2, atol=1e-4)


def test_a_quiet_edge_is_judged_as_a_loud_one_is() -> None:
    points, weights, curves = problem(PLANTED.values())
    both = fit(points, weights, torch.cat([curves, 1e-4 * curves], dim=2).reshape(G, -1, 1))
    loud, quiet = both.r2.view(-1, 2).unbind(1)
    assert torch.allclose(loud, quiet, atol=2e-3)


def test_flat_edges_are_constants() -> None:
    points, weights, curves = problem([np.zeros_like, lambda x: 3 + 0 * x, np.sin])
    fits = fit(points, weights, curves)
    assert fits.table()["family"].tolist()[:2] == ["constant", "constant"]
    assert fits.r2[:2].eq(1).all()
    assert torch.allclose(fits.evaluate(points)[:, :2, 0], torch.tensor([0.0, 3.0]))


def test_a_constant_input_is_no_problem() -> None:
    points = torch.full((G, 1), 0.3)
    fits = fit(points, torch.full((G, 1), 1 / G), torch.full((G, 2, 1), 0.8))
    assert torch.allclose(fits.evaluate(points), torch.tensor(0.8))


def test_no_formula_has_a_pole_where_inputs_are() -> None:
    generator = torch.Generator().manual_seed(1)
    points, weights, _ = problem([np.sin])
    curves = torch.randn(G, 300, 1, generator=generator).cumsum(0)
    fits = fit(points, weights, curves, ["reciprocal", "log", "sqrt", "line"])
    between = torch.linspace(-2, 3, 5000)[:, None]
    values = fits.evaluate(between)
    assert values.isfinite().all()
    largest = curves.abs().amax(0) + 10 * curves.std(0)
    assert (values.abs().amax(0) < largest).all()


def test_beyond_the_points_the_value_at_the_end_holds() -> None:
    fits = fit(*problem([PLANTED["exp"]]))
    far, end = fits.evaluate(torch.tensor([[50.0], [3.0]]))
    assert torch.equal(far, end)


def test_slopes_are_the_derivatives() -> None:
    for family in FAMILIES:
        z = torch.linspace(0.2, 2.0, 9, dtype=torch.float64, requires_grad=True)
        value = family.value(z)
        (slope,) = torch.autograd.grad(value.sum(), z)
        assert torch.allclose(family.slope(z, value), slope, rtol=1e-6), family.name


def test_expressions_are_the_functions() -> None:
    sympy = pytest.importorskip("sympy")
    z = sympy.Symbol("z")
    at = torch.linspace(0.2, 2.0, 9, dtype=torch.float64)
    for family in FAMILIES:
        function = sympy.lambdify(z, sympy.sympify(family.expression, {"z": z}), ["scipy", "numpy"])
        assert np.allclose(function(at.numpy()), family.value(at).numpy(), atol=1e-9), family.name


def test_many_inputs_are_fitted_each_by_itself() -> None:
    points, weights, curves = problem(PLANTED.values())
    wide = fit(
        torch.cat([points, points * 2, points - 7], 1),
        weights.expand(-1, 3),
        curves.expand(-1, -1, 3),
    )
    alone = fit(points, weights, curves)
    assert torch.allclose(wide.r2, alone.r2.expand(-1, 3), atol=2e-3)


def test_saved_fits_come_back(tmp_path) -> None:
    fits = fit(*problem(PLANTED.values()))
    stage = Stage(tmp_path, {})
    sizes = {"layer": (fits.r2.shape[1], fits.r2.shape[0])}
    stage.records(Fits, "layer", lambda: {"layer": fits}, sizes)
    again = stage.records(Fits, "layer", pytest.fail, sizes)["layer"]
    assert all(torch.equal(value, getattr(again, name)) for name, value in vars(fits).items())


def test_bad_input_is_refused() -> None:
    points, weights, curves = problem([np.sin])
    with pytest.raises(UsageError, match="--families sine"):
        fit(points, weights, curves, ["sine"])
    with pytest.raises(UserError, match="not finite"):
        fit(points, weights, curves * float("nan"))
    with pytest.raises(UserError, match="too few"):
        fit(points[:4], weights[:4], curves[:4])
