"""B-splines against scipy's, and what every basis promises."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.interpolate import BSpline as ScipyBSpline

from nanogpkant.kan.basis import (
    BASE_FUNCTIONS,
    BSpline,
    expand_features,
    feature_count,
    features_derivative,
    gaussian_moments,
)

ORDERS = (1, 2, 3, 4, 5)
GRID_SIZES = (1, 2, 5, 13, 64)
RANGES = ((-1.0, 1.0), (0.0, 0.1), (-3.7, 12.2), (100.0, 101.0))


def uneven_grid(size: int, low: float = -2.0) -> tuple[float, ...]:
    """Grid points whose spacing varies up to tenfold."""
    steps = np.random.default_rng(size).uniform(0.1, 1.0, size)
    return tuple(float(point) for point in low + np.concatenate([[0], steps.cumsum()]))


UNIFORM = [BSpline(size, k, span) for size in GRID_SIZES for k in ORDERS for span in RANGES]
UNEVEN = [BSpline(order=k, grid=uneven_grid(size)) for size in GRID_SIZES for k in ORDERS]
FEW = [BSpline(), BSpline(4, 1, (-2.0, 0.5)), BSpline(1, 5), BSpline(order=2, grid=uneven_grid(6))]


def extended_knots(basis: BSpline) -> np.ndarray:
    """The knots, by numpy, from what the basis was asked for."""
    grid = np.linspace(*basis.grid_range, basis.grid_size + 1)
    grid = grid if basis.grid is None else np.array(basis.grid)
    beyond = np.arange(1, basis.order + 1)
    before = grid[0] - beyond[::-1] * (grid[1] - grid[0])
    return np.concatenate([before, grid, grid[-1] + beyond * (grid[-1] - grid[-2])])


def interesting_points(basis: BSpline) -> np.ndarray:
    """Random points, grid points and knots, the floats beside them, and points far outside."""
    knots = extended_knots(basis)
    width = knots[-1] - knots[0]
    random = np.random.default_rng(0).uniform(knots[0] - width / 9, knots[-1] + width / 9, 200)
    beside = np.concatenate([np.nextafter(knots, -np.inf), np.nextafter(knots, np.inf)])
    outside = [knots[0] - 1e-3 * width, knots[-1] + 1e-3 * width, -1e3, 1e3, -1e30, 1e30]
    return np.concatenate([random, knots, beside, outside])


def scipy_splines(basis: BSpline, x: np.ndarray, derivative: int = 0) -> np.ndarray:
    """(points,) -> (size, points), by scipy; from the right at a knot."""
    knots = extended_knots(basis)
    values = []
    for k in range(basis.size):
        own = knots[k : k + basis.order + 2]
        spline = ScipyBSpline.basis_element(own, extrapolate=False).derivative(derivative)
        values.append(np.where((x >= own[0]) & (x < own[-1]), spline(x), 0.0))
    return np.array(values)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("basis", UNIFORM + UNEVEN, ids=repr)
def test_values_are_scipys(basis: BSpline, dtype: torch.dtype, tolerance: float) -> None:
    x = torch.tensor(interesting_points(basis), dtype=dtype)
    expected = scipy_splines(basis, x.double().numpy())
    values = basis.expand(x)
    assert values.dtype == dtype
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("basis", UNIFORM + UNEVEN, ids=repr)
def test_derivatives_are_scipys(basis: BSpline, dtype: torch.dtype, tolerance: float) -> None:
    x = torch.tensor(interesting_points(basis), dtype=dtype)
    points, knots = x.double().numpy(), extended_knots(basis)
    expected = scipy_splines(basis, points, derivative=1)
    slopes = basis.derivative(x).numpy()
    # A slope is a difference of two values of the order below, times at most this.
    steepest = (basis.order / (knots[basis.order :] - knots[: -basis.order])).max()
    close = np.abs(slopes - expected) <= tolerance * steepest
    if basis.order == 1:
        # A kink: at a knot (to rounding of its position) the slope of either side is right.
        at_knot = np.abs(points[:, None] - knots).min(-1) < 1e-12 * np.abs(knots).max()
        nearby = 1e-3 * np.diff(knots).min() * np.array([[-1], [1]])
        sides = np.stack([scipy_splines(basis, points + shift, 1) for shift in nearby])
        on_a_side = np.isclose(slopes, sides, rtol=0, atol=1e-6 * steepest)
        close |= at_knot & on_a_side.any(0)
    assert close.all()


@pytest.mark.parametrize("basis", FEW, ids=repr)
def test_knots(basis: BSpline) -> None:
    np.testing.assert_allclose(basis.knots, extended_knots(basis), rtol=0, atol=1e-14)
    assert basis.size == basis.grid_size + basis.order == len(basis.knots) - basis.order - 1


@pytest.mark.parametrize("basis", UNIFORM + UNEVEN, ids=repr)
def test_functions_sum_to_one_inside_the_grid_and_vanish_outside_the_knots(basis: BSpline) -> None:
    inside = torch.linspace(*basis.grid_range, 101, dtype=torch.float64)
    torch.testing.assert_close(basis.expand(inside).sum(-2), torch.ones_like(inside))
    low, high = basis.knots[0], basis.knots[-1]
    below, above = np.nextafter(low, -np.inf), np.nextafter(high, np.inf)
    infinities = [-torch.inf, torch.inf, -1e30, 1e30]
    outside = torch.tensor([below - 1e-6, above + 1e-6, *infinities], dtype=torch.float64)
    assert (basis.expand(outside) == 0).all()
    assert (basis.derivative(outside) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("basis", FEW, ids=repr)
def test_huge_inputs_give_zeros_in_every_dtype(basis: BSpline, dtype: torch.dtype) -> None:
    x = torch.tensor([1e30, -1e30, torch.inf, -torch.inf]).to(dtype)
    for result in (basis.expand(x), basis.derivative(x)):
        assert result.dtype == torch.float32
        assert (result == 0).all()


@pytest.mark.parametrize("basis", UNIFORM[:20] + UNEVEN, ids=repr)
def test_nan_comes_out_as_nan_and_only_there(basis: BSpline) -> None:
    x = torch.tensor([[0.1, torch.nan, 0.2], [torch.nan, 0.3, 0.4]])
    for result in (basis.expand(x), basis.derivative(x)):
        assert torch.equal(result.isnan().any(-2), x.isnan())


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 0, 3), (0, 4), (2, 1, 4, 3)])
@pytest.mark.parametrize("basis", FEW, ids=repr)
def test_shapes_and_strides(basis: BSpline, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    strided = torch.stack([x, torch.full_like(x, torch.nan)], -1).transpose(0, -2)[..., 0]
    strided = strided.transpose(0, -1)
    for function in (basis.expand, basis.derivative):
        assert function(x).shape == (*shape[:-1], basis.size, shape[-1])
        assert torch.equal(function(strided), function(strided.contiguous()))
    assert torch.equal(strided.reshape(shape), x)


@pytest.mark.parametrize("basis", FEW, ids=repr)
def test_derivative_is_that_of_autograd(basis: BSpline) -> None:
    x = torch.empty(7, 50, dtype=torch.float64).uniform_(-4, 4).requires_grad_()
    upstream = torch.randn(7, basis.size, 50, dtype=torch.float64)
    (expected,) = torch.autograd.grad(basis.expand(x), x, upstream)
    torch.testing.assert_close((basis.derivative(x) * upstream).sum(-2), expected)


@pytest.mark.parametrize("base", BASE_FUNCTIONS)
@pytest.mark.parametrize("basis", [*FEW, BSpline(64, 3), BSpline(5, 3, (-0.1, 0.1))], ids=repr)
def test_moments_are_gaussian_averages(basis: BSpline, base: str) -> None:
    mean, second = gaussian_moments(basis, base)
    features = expand_features(torch.randn(100_000, dtype=torch.float64), basis, base)  # (M, draws)
    squares, draws = features**2, features.shape[1]
    error = 5 * features.std(-1) / math.sqrt(draws)
    assert ((features.mean(-1) - mean).abs() <= error).all()
    error = 5 * (squares @ squares.T / draws).sqrt() / math.sqrt(draws)
    assert ((features @ features.T / draws - second).abs() <= error).all()


@pytest.mark.parametrize("base", [name for name in BASE_FUNCTIONS if name != "none"])
def test_moments_of_the_base_function(base: str) -> None:
    def value(x: float) -> float:
        return BASE_FUNCTIONS[base][0](torch.tensor(x, dtype=torch.float64)).item()

    mean, second = gaussian_moments(BSpline(), base)
    for moment, power in ((mean[0], 1), (second[0, 0], 2)):
        expected, _ = integrate.quad(lambda x, k=power: value(x) ** k * stats.norm.pdf(x), -10, 10)
        assert moment.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("base", [name for name in BASE_FUNCTIONS if name != "none"])
def test_derivative_of_the_base_function_is_that_of_autograd(base: str) -> None:
    function, derivative = BASE_FUNCTIONS[base]
    x = torch.linspace(-30, 30, 601, dtype=torch.float64).requires_grad_()
    (expected,) = torch.autograd.grad(function(x).sum(), x, materialize_grads=True)
    torch.testing.assert_close(derivative(x), expected, rtol=1e-12, atol=1e-12)
    huge = torch.tensor([-1e30, 1e30])
    limits = torch.ones(2) if base == "identity" else torch.tensor([0.0, 1.0])
    assert torch.equal(derivative(huge), limits)


@pytest.mark.parametrize("base", BASE_FUNCTIONS)
def test_features_are_the_base_function_and_then_the_basis(base: str) -> None:
    basis, x = BSpline(), torch.randn(5, 3)
    features, slopes = expand_features(x, basis, base), features_derivative(x, basis, base)
    assert features.shape == slopes.shape == (5, feature_count(basis, base), 3)
    assert torch.equal(features[:, -basis.size :], basis.expand(x))
    assert torch.equal(slopes[:, -basis.size :], basis.derivative(x))
    if base != "none":
        assert feature_count(basis, base) == basis.size + 1
        assert torch.equal(features[:, 0], BASE_FUNCTIONS[base][0](x))


@pytest.mark.parametrize(
    "arguments",
    [
        {"grid_size": 0},
        {"grid_size": -3},
        {"order": 0},
        {"order": 6},
        {"grid_range": (1.0, 1.0)},
        {"grid_range": (1.0, -1.0)},
        {"grid_range": (-math.inf, 1.0)},
        {"grid_range": (0.0, math.nan)},
        {"grid": ()},
        {"grid": (1.0,)},
        {"grid": (0.0, 2.0, 1.0)},
        {"grid": (0.0, 1.0, 1.0)},
        {"grid": (0.0, math.nan, 1.0)},
        {"grid": (0.0, math.inf)},
    ],
    ids=repr,
)
def test_what_is_no_basis_is_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"grid|order"):
        BSpline(**arguments)


def test_a_basis_is_a_value() -> None:
    assert BSpline() == BSpline(5, 3, (-1, 1))
    assert hash(BSpline(grid=(0, 1, 3))) == hash(BSpline(grid=(0.0, 1.0, 3.0)))
    assert BSpline(grid=(-1, 0, 1)).grid_size == 2
    assert BSpline(grid=(-1, 0, 1)).grid_range == (-1.0, 1.0)
