"""RBF, Chebyshev and Fourier against numpy; and the interface of every basis."""

import math

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev

from nanogpkant.kan import RBF, BSpline, Chebyshev, Fourier
from nanogpkant.kan.bases.base import Basis

RBFS = [RBF(), RBF(1, (-1.0, 1.0)), RBF(13, (-3.7, 12.2)), RBF(64, (0.0, 0.1)), RBF(4, (100, 101))]
CHEBYSHEVS = [Chebyshev(degree) for degree in (1, 2, 3, 4, 16)]
FOURIERS = [Fourier(frequencies) for frequencies in (1, 2, 3, 16)]
SPLINES = [
    BSpline(),
    BSpline(4, 1, (-2.0, 0.5)),
    BSpline(2, 5, outside="linear"),
    BSpline(order=2, grid=(-1.0, -0.3, 0.1, 2.0)),
    BSpline(order=1, grid=(-1.0, -0.3, 0.1, 2.0), outside="linear"),
]
OURS = RBFS + CHEBYSHEVS + FOURIERS
SETTLING = RBFS + CHEBYSHEVS + [basis for basis in SPLINES if basis.outside == "zero"]
all_bases = pytest.mark.parametrize("basis", OURS + SPLINES, ids=repr)
our_bases = pytest.mark.parametrize("basis", OURS, ids=repr)
widths = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def by_numpy(basis: RBF | Chebyshev | Fourier, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(points,) -> values and slopes, (size, points) each."""
    if isinstance(basis, RBF):
        centres, width = np.linspace(*basis.grid_range, basis.grid_size + 1, retstep=True)
        r = (x - centres[:, None]) / width
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.exp(-(r**2))
            return values, np.where(values > 0, -2 * r / width * values, 0.0)
    if isinstance(basis, Chebyshev):
        u, one = np.tanh(x), np.eye(basis.degree + 1)[1:]
        slopes = np.array([chebyshev.chebval(u, chebyshev.chebder(only)) for only in one])
        return np.array([chebyshev.chebval(u, only) for only in one]), slopes * (1 - u**2)
    k = np.arange(1, basis.frequencies + 1)[:, None]
    cos, sin = np.cos(k * x), np.sin(k * x)
    return np.concatenate([cos, sin]), np.concatenate([-k * sin, k * cos])


def interesting_points(basis: Basis) -> torch.Tensor:
    """Random points, points around zero and the centres, and (not for Fourier) far outside."""
    low, high = getattr(basis, "grid_range", (-3.0, 3.0))
    random = np.random.default_rng(0).uniform(2 * low - high, 2 * high - low, 300)
    centres = np.linspace(low, high, getattr(basis, "grid_size", 1) + 1)
    outside = [] if isinstance(basis, Fourier) else [-1e30, -1e3, 1e3, 1e30, -np.inf, np.inf]
    return torch.tensor([*random, *centres, 0.0, -0.0, 1e-9, *outside], dtype=torch.float64)


def conditioning(basis: Basis) -> float:
    """Error of a value per rounding error of the input, about."""
    if isinstance(basis, RBF):
        return 2 * basis.grid_size
    return basis.degree**2 if isinstance(basis, Chebyshev) else 9 * basis.frequencies


@widths
@our_bases
def test_values_are_numpys(basis: Basis, dtype: torch.dtype) -> None:
    x = interesting_points(basis).to(dtype)
    expected, _ = by_numpy(basis, x.double().numpy())
    values = basis.expand(x)
    assert values.dtype == dtype
    assert len(values) == basis.size
    tolerance = 4 * torch.finfo(dtype).eps * conditioning(basis)
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)


@widths
@our_bases
def test_derivatives_are_numpys(basis: Basis, dtype: torch.dtype) -> None:
    x = interesting_points(basis).to(dtype)
    _, expected = by_numpy(basis, x.double().numpy())
    slopes = basis.derivative(x)
    assert slopes.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps * conditioning(basis) * np.abs(expected).max()
    np.testing.assert_allclose(slopes, expected, rtol=0, atol=tolerance)


@all_bases
def test_derivative_is_that_of_autograd(basis: Basis) -> None:
    x = torch.empty(7, 50, dtype=torch.float64).uniform_(-4, 4).requires_grad_()
    upstream = torch.randn(7, basis.size, 50, dtype=torch.float64)
    (expected,) = torch.autograd.grad(basis.expand(x), x, upstream)
    torch.testing.assert_close((basis.derivative(x) * upstream).sum(-2), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("basis", SETTLING, ids=repr)
def test_far_outside_functions_have_settled(basis: Basis, dtype: torch.dtype) -> None:
    x = torch.tensor([1e30, torch.inf, -1e30, -torch.inf]).to(dtype).requires_grad_()
    limits = torch.zeros(basis.size, 4)
    if isinstance(basis, Chebyshev):  # T_k is 1 at 1, and (-1)^k at -1
        limits = torch.tensor([[1.0, 1.0, (-1.0) ** k, (-1.0) ** k] for k in range(1, 17)])
    values = basis.expand(x)
    assert torch.equal(values, limits[: basis.size].to(values))
    assert (basis.derivative(x) == 0).all()
    values.sum().backward()
    assert (x.grad == 0).all()


@pytest.mark.parametrize("basis", FOURIERS, ids=repr)
def test_waves_stay_bounded_far_outside(basis: Basis) -> None:
    values = basis.expand(torch.tensor([-1e30, 1e30, 65504.0]))
    assert (values.abs() <= 1).all()


@our_bases
def test_nan_comes_out_as_nan_and_only_there(basis: Basis) -> None:
    x = torch.tensor([[0.1, torch.nan, 0.2], [torch.nan, 0.3, 0.4]])
    for result in (basis.expand(x), basis.derivative(x)):
        assert torch.equal(result.isnan().all(-2), x.isnan())
        assert torch.equal(result.isnan().any(-2), x.isnan())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@all_bases
def test_half_precision_is_worked_out_in_single(basis: Basis, dtype: torch.dtype) -> None:
    x = (3 * torch.randn(20, 8)).to(dtype)
    for function in (basis.expand, basis.derivative):
        assert function(x).dtype == torch.float32
        assert torch.equal(function(x), function(x.float()))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (0, 4), (2, 0, 3), (2, 1, 4, 3)], ids=str)
@all_bases
def test_leading_dimensions_are_only_rows(basis: Basis, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    for function in (basis.expand, basis.derivative):
        result = function(x)
        assert result.shape == (*shape[:-1], basis.size, shape[-1])
        rows = function(x.reshape(-1)).unflatten(-1, shape).movedim(0, -2)
        torch.testing.assert_close(result, rows, rtol=1e-14, atol=1e-14)


@all_bases
def test_strides_do_not_matter(basis: Basis) -> None:
    x = torch.randn(5, 2, 7, dtype=torch.float64)
    # NaN between the numbers shows reads beyond a view.
    strided = torch.stack([x, torch.full_like(x, torch.nan)], -1).transpose(0, 2)[..., 0]
    assert not strided.is_contiguous()
    before = strided.clone()
    for function in (basis.expand, basis.derivative):
        expected = function(strided.contiguous())
        torch.testing.assert_close(function(strided), expected, rtol=1e-14, atol=1e-14)
    assert torch.equal(strided, before)  # the input is not modified


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (RBF, {"grid_size": 0}),
        (RBF, {"grid_size": -3}),
        (RBF, {"grid_range": (1.0, 1.0)}),
        (RBF, {"grid_range": (1.0, -1.0)}),
        (RBF, {"grid_range": (-math.inf, 1.0)}),
        (RBF, {"grid_range": (0.0, math.nan)}),
        (RBF, {"grid_range": (-1e308, 1e308)}),
        (Chebyshev, {"degree": 0}),
        (Chebyshev, {"degree": -1}),
        (Fourier, {"frequencies": 0}),
        (Fourier, {"frequencies": -1}),
    ],
    ids=str,
)
def test_what_is_no_basis_is_refused(kind: type, arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"grid_size|range|degree|frequencies"):
        kind(**arguments)


def test_a_basis_is_a_value() -> None:
    assert RBF() == RBF(5, (-2, 2)) != RBF(5, (-2, 1))
    assert hash(RBF(grid_range=[-2, 2])) == hash(RBF())
    assert Chebyshev() == Chebyshev(3) != Chebyshev(4)
    assert Fourier() == Fourier(3) != Chebyshev(3)
    assert len({*OURS, *OURS}) == len(OURS)
