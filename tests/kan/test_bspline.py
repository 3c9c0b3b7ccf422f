"""B-splines of every order and kind of grid against scipy."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline as ScipyBSpline

from nanogpkant.kan import BSpline

ORDERS = (1, 2, 3, 4, 5)
GRID_SIZES = (1, 2, 5, 13, 64)
RANGES = ((-1.0, 1.0), (0.0, 0.1), (-3.7, 12.2), (100.0, 101.0))


def uneven_grid(size: int, low: float = -2.0) -> tuple[float, ...]:
    """Grid points whose spacing varies by up to a factor of ten."""
    steps = np.random.default_rng(size).uniform(0.1, 1.0, size)
    return tuple(float(point) for point in low + np.concatenate([[0], steps.cumsum()]))


UNIFORM = [BSpline(size, k, span) for size in GRID_SIZES for k in ORDERS for span in RANGES]
UNEVEN = [BSpline(order=k, grid=uneven_grid(size)) for size in GRID_SIZES for k in ORDERS]
FEW = [BSpline(), BSpline(4, 1, (-2.0, 0.5)), BSpline(1, 5), BSpline(order=2, grid=uneven_grid(6))]
LINEAR = [dataclasses.replace(basis, outside="linear") for basis in UNIFORM + UNEVEN]


def extended_knots(basis: BSpline) -> np.ndarray:
    """The knots by numpy, from the arguments of the basis."""
    grid = np.linspace(*basis.grid_range, basis.grid_size + 1)
    grid = grid if basis.grid is None else np.array(basis.grid)
    beyond = np.arange(1, basis.order + 1)
    before = grid[0] - beyond[::-1] * (grid[1] - grid[0])
    return np.concatenate([before, grid, grid[-1] + beyond * (grid[-1] - grid[-2])])


def interesting_points(basis: BSpline) -> np.ndarray:
    """Random points, grid points, knots, their neighbouring floats, and points far outside."""
    knots = extended_knots(basis)
    width = knots[-1] - knots[0]
    random = np.random.default_rng(0).uniform(knots[0] - width / 9, knots[-1] + width / 9, 200)
    beside = np.concatenate([np.nextafter(knots, -np.inf), np.nextafter(knots, np.inf)])
    outside = [knots[0] - 1e-3 * width, knots[-1] + 1e-3 * width, -1e3, 1e3, -1e30, 1e30]
    return np.concatenate([random, knots, beside, outside])


def scipy_splines(basis: BSpline, x: np.ndarray, derivative: int = 0) -> np.ndarray:
    """(points,) -> (size, points) by scipy; from the right at a knot."""
    knots = extended_knots(basis)
    values = []
    for k in range(basis.size):
        own = knots[k : k + basis.order + 2]
        spline = ScipyBSpline.basis_element(own, extrapolate=False).derivative(derivative)
        values.append(np.where((x >= own[0]) & (x < own[-1]), spline(x), 0.0))
    return np.array(values)


def steepest(basis: BSpline) -> float:
    """Largest factor of a slope, a difference of two values of the order below."""
    knots = extended_knots(basis)
    return (basis.order / (knots[basis.order :] - knots[: -basis.order])).max()


def blur(basis: BSpline, dtype: torch.dtype) -> float:
    """Error due to rounding of inputs and knots to the dtype."""
    return 2 * torch.finfo(dtype).eps * np.abs(extended_knots(basis)).max() * steepest(basis)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("basis", UNIFORM + UNEVEN, ids=repr)
def test_values_are_scipys(basis: BSpline, dtype: torch.dtype, tolerance: float) -> None:
    x = torch.tensor(interesting_points(basis), dtype=dtype)
    expected = scipy_splines(basis, x.double().numpy())
    values = basis.expand(x)
    assert values.dtype == dtype
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance + blur(basis, dtype))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("basis", UNIFORM + UNEVEN, ids=repr)
def test_derivatives_are_scipys(basis: BSpline, dtype: torch.dtype, tolerance: float) -> None:
    x = torch.tensor(interesting_points(basis), dtype=dtype)
    points, knots = x.double().numpy(), extended_knots(basis)
    expected = scipy_splines(basis, points, derivative=1)
    slopes = basis.derivative(x).numpy()
    close = np.abs(slopes - expected) <= (tolerance + 2 * blur(basis, dtype)) * steepest(basis)
    if basis.order == 1:
        # At a kink, up to rounding of its position, the slope of either side is right.
        rounding = 2 * torch.finfo(dtype).eps * np.abs(knots).max()
        at_knot = np.abs(points[:, None] - knots).min(-1) <= rounding
        nearby = 1e-3 * np.diff(knots).min() * np.array([[-1], [1]])
        sides = np.stack([scipy_splines(basis, points + shift, 1) for shift in nearby])
        on_a_side = np.isclose(slopes, sides, rtol=0, atol=1e-6 * steepest(basis))
        close |= at_knot & on_a_side.any(0)
    assert close.all()


@pytest.mark.parametrize("basis", LINEAR, ids=repr)
def test_a_linear_outside_is_scipys_tangent_at_the_end(basis: BSpline) -> None:
    low, high = basis.grid_range
    width = high - low
    x = np.random.default_rng(0).uniform(low - 3 * width, high + 3 * width, 300)
    x = np.concatenate([x, [low, high, low - 1e4, high + 1e4, -1e30, 1e30]])
    values, slopes = (f(torch.from_numpy(x)).numpy() for f in (basis.expand, basis.derivative))

    inset = 1e-9 * width * (basis.order == 1)  # at the kink at the end, the inner slope continues
    slope = scipy_splines(basis, np.clip(x, low + inset, high - inset), derivative=1)
    end = np.clip(x, low, high)
    error = np.abs(values - scipy_splines(basis, end) - slope * (x - end))
    assert (error <= 1e-11 * (1 + steepest(basis) * np.abs(x - end))).all()
    assert (np.abs(slopes - slope) <= 1e-11 * steepest(basis)).all()


@pytest.mark.parametrize("basis", FEW, ids=repr)
def test_inside_the_grid_the_outside_does_not_matter(basis: BSpline) -> None:
    x = torch.linspace(*basis.grid_range, 99)
    linear = dataclasses.replace(basis, outside="linear")
    torch.testing.assert_close(linear.expand(x), basis.expand(x))
    torch.testing.assert_close(linear.derivative(x)[:, :-1], basis.derivative(x)[:, :-1])


@pytest.mark.parametrize("grid_size", GRID_SIZES)
def test_order_1_is_hat_functions(grid_size: int) -> None:
    basis = BSpline(grid_size, 1, (-2.0, 3.0))
    step = 5.0 / grid_size
    x = torch.linspace(-9, 9, 200, dtype=torch.float64)
    tops = torch.linspace(-2.0, 3.0, grid_size + 1, dtype=torch.float64)[:, None]
    torch.testing.assert_close(basis.expand(x), torch.relu(1 - (x - tops).abs() / step))


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


@pytest.mark.parametrize("basis", LINEAR, ids=repr)
def test_with_a_linear_outside_functions_sum_to_one_everywhere(basis: BSpline) -> None:
    low, high = basis.grid_range
    x = torch.linspace(low - 3 * (high - low), high + 3 * (high - low), 101, dtype=torch.float64)
    torch.testing.assert_close(basis.expand(x).sum(-2), torch.ones_like(x))


@pytest.mark.parametrize("basis", UNIFORM[:20] + UNEVEN + LINEAR[:20] + LINEAR[-25:], ids=repr)
def test_nan_comes_out_as_nan_and_only_there(basis: BSpline) -> None:
    x = torch.tensor([[0.1, torch.nan, 0.2], [torch.nan, 0.3, 0.4]])
    for result in (basis.expand(x), basis.derivative(x)):
        assert torch.equal(result.isnan().any(-2), x.isnan())


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
        {"outside": "constant"},
    ],
    ids=repr,
)
def test_what_is_no_basis_is_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"grid|order|outside"):
        BSpline(**arguments)


def test_a_basis_is_a_value() -> None:
    assert BSpline() == BSpline(5, 3, (-1, 1)) != BSpline(outside="linear")
    assert hash(BSpline(grid=(0, 1, 3))) == hash(BSpline(grid=(0.0, 1.0, 3.0)))
    assert BSpline(grid=(-1, 0, 1)).grid_size == 2
    assert BSpline(grid=(-1, 0, 1)).grid_range == (-1.0, 1.0)
