"""Features: base function and basis, gradients, specs and moments."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from scipy.integrate import quad_vec
from torch import Tensor

from nanogpkant.kan import (
    BASE_FUNCTIONS,
    RBF,
    BSpline,
    Chebyshev,
    Features,
    Fourier,
    Rational,
    Shared,
)

SMOOTH = [
    Features(RBF(), "silu"),
    Features(RBF(3, (-4.0, 0.0)), "identity"),
    Features(Chebyshev(4), "gelu"),
    Features(Fourier(3), "none"),
    Features(Shared(RBF(3), 2, 3), "gelu"),
    Features(Shared(Fourier(2), 2), "none"),
]
KINKED = [
    Features(BSpline()),
    Features(BSpline(3, 1, (-2.0, 2.0)), "gelu"),
    Features(BSpline(64, 3), "identity"),
    Features(BSpline(5, 3, (-0.1, 0.1)), "none"),
    Features(BSpline(2, 1, (-0.5, 1.5), outside="linear"), "none"),
    Features(BSpline(order=2, grid=(-1.0, -0.3, 0.1, 2.0)), "silu"),
    Features(Shared(BSpline(3, 2), 2, 3), "none"),
]
RATIONAL = [Features(Shared(Rational(), 4), "gelu"), Features(Shared(Rational(2), 2), "none")]
FIXED = [features for features in SMOOTH + KINKED if not features.is_learned]
base_functions = pytest.mark.parametrize("base", [b for b in BASE_FUNCTIONS if b != "none"])


# Slopes at -1e30 and 1e30, where they are not 0 and 1.
LIMITS = {
    "identity": (1.0, 1.0),
    "even": (-0.5, 0.5),
    "relu2": (0.0, 2e30),
    "leaky_relu2": (-0.5e30, 2e30),
}


@base_functions
def test_derivative_of_a_base_function_is_that_of_autograd(base: str) -> None:
    function, derivative = BASE_FUNCTIONS[base]
    x = torch.linspace(-30, 30, 601, dtype=torch.float64).requires_grad_()
    (expected,) = torch.autograd.grad(function(x), x, torch.ones_like(x))
    torch.testing.assert_close(derivative(x), expected, rtol=1e-12, atol=1e-12)
    limits = LIMITS.get(base, (0.0, 1.0))
    assert torch.equal(derivative(torch.tensor([-1e30, 1e30])), torch.tensor(limits))


def test_the_tanh_form_of_gelu_is_torchs() -> None:
    x = torch.linspace(-40, 40, 801, dtype=torch.float64)
    expected = torch.nn.functional.gelu(x, approximate="tanh")
    torch.testing.assert_close(BASE_FUNCTIONS["gelu_tanh"][0](x), expected, rtol=1e-12, atol=1e-12)


def test_features_are_the_base_function_and_then_the_basis(features: Features, problem) -> None:
    case = problem(features)
    basis, x = features.basis, case.x.detach()
    values = features.expand(x, case.coefficients)
    assert values.shape == (7, features.size, 3)
    if features.base == "none":
        base = torch.zeros(7, 0, 3)
    else:
        base = BASE_FUNCTIONS[features.base][0](x)[:, None]
    if features.is_learned:  # the base function is added to the first
        expected = basis.expand(x, case.coefficients)
        expected[:, : base.shape[1]] += base
    else:
        expected = torch.cat([base, basis.expand(x)], dim=1)
    assert torch.equal(values, expected)


def test_what_features_say_of_themselves(features: Features) -> None:
    basis = features.basis
    if isinstance(basis, Shared):
        assert features.is_learned
        assert not features.has_base
        assert features.size == basis.functions
        assert features.coefficient_shape == features.start().shape
        assert features.coefficient_shape[:2] == (basis.functions, basis.groups)
    else:
        assert not features.is_learned
        assert features.has_base == (features.base != "none")
        assert features.size == basis.size + (features.base != "none")
        assert features.coefficient_shape is features.start() is None


@pytest.mark.parametrize("features", FIXED, ids=repr)
def test_derivative_is_that_of_autograd(features: Features, problem) -> None:
    x = problem(features, (40,)).x
    for m, slopes in enumerate(features.derivative(x.detach()).unbind(-2)):
        (expected,) = torch.autograd.grad(features.expand(x)[:, m].sum(), x)
        torch.testing.assert_close(slopes, expected)


def test_pull_back_is_that_of_autograd(features: Features, problem) -> None:
    case = problem(features, (40,))
    values = features.expand(case.x, case.coefficients)
    upstream = torch.randn_like(values)
    leaves = [case.x] if case.coefficients is None else [case.x, case.coefficients]
    expected = torch.autograd.grad(values, leaves, upstream)
    results = features.pull_back(upstream, *(leaf.detach() for leaf in leaves))
    assert (results[1] is None) == (case.coefficients is None)
    for result, wanted in zip(results, expected, strict=False):
        torch.testing.assert_close(result, wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_worked_out_in_single(features: Features, problem, dtype) -> None:
    case = problem(features, dtype=dtype).map(Tensor.detach)
    x, numbers = case.x.detach(), case.coefficients
    values = features.expand(x, numbers)
    assert values.dtype == torch.float32
    single = None if numbers is None else numbers.float()
    assert torch.equal(values, features.expand(x.float(), single))
    if not features.is_learned:
        assert torch.equal(features.derivative(x), features.derivative(x.float()))


def test_a_spec_reads_back_as_equal_features(features: Features) -> None:
    again = Features.from_spec(features.spec)
    assert again == features
    assert hash(again) == hash(features)
    assert again.spec == features.spec


def test_a_spec_is_plain_json() -> None:
    grid = (-1.0, -0.1, 0.30000000000000004)
    features = Features(Shared(BSpline(order=2, grid=grid), groups=3), "gelu")
    values = json.loads(features.spec)
    assert values["base"] == "gelu"
    assert values["basis"]["name"] == "shared"
    assert values["basis"]["family"]["grid"] == list(grid)
    assert Features.from_spec(features.spec).basis.family.grid == grid
    assert Features(BSpline(np.int64(5))).spec == Features(BSpline(5)).spec


def test_a_spec_says_all_that_makes_a_difference() -> None:
    features = [*SMOOTH, *KINKED, *RATIONAL]
    assert len({one.spec for one in features}) == len(set(features)) == len(features)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "{}",
        "[]",
        "null",
        "silu",
        '{"base": "silu"}',
        '{"base": "silu", "basis": 3}',
        '{"base": "silu", "basis": []}',
        '{"base": "silu", "basis": {}}',
        '{"base": "silu", "basis": {"name": "wavelet"}}',
        '{"base": "silu", "basis": {"name": "rational"}}',
        '{"base": "silu", "basis": {"name": "rbf", "order": 3}}',
        '{"base": "silu", "basis": {"name": "rbf", "grid_size": "5"}}',
        '{"base": "silu", "basis": {"name": "rbf", "grid_range": 5}}',
        '{"base": "silu", "basis": {"name": "rbf", "grid_range": [0, 1, 2]}}',
        f'{{"base": "silu", "basis": {{"name": "rbf", "grid_range": [0, 1{400 * "0"}]}}}}',
        '{"base": "silu", "basis": {"name": "chebyshev", "degree": 0}}',
        '{"base": "silu", "basis": {"name": "shared"}}',
        '{"base": "silu", "basis": {"name": "shared", "family": "rbf"}}',
        '{"base": "tanh", "basis": {"name": "rbf"}}',
        '{"base": ["silu"], "basis": {"name": "rbf"}}',
        '{"basis": {"name": "rbf"}}',
    ],
    ids=lambda spec: spec[:80],
)
def test_a_text_that_no_features_have_is_refused(spec: str) -> None:
    with pytest.raises(ValueError):
        Features.from_spec(spec)


@pytest.mark.parametrize("base", ["tanh", "", "SiLU", None])
def test_an_unknown_base_function_is_refused(base: str) -> None:
    with pytest.raises(ValueError, match="known are silu, gelu, gelu_tanh, even"):
        Features(RBF(), base)


@pytest.mark.parametrize("basis", [Rational(), None, "rbf", RBF], ids=repr)
def test_what_is_no_basis_is_refused(basis: object) -> None:
    with pytest.raises(ValueError, match="not a basis"):
        Features(basis)


def expanded(features: Features, x: np.ndarray) -> np.ndarray:
    """(points,) -> (M, points), learned ones at their initial coefficients."""
    inputs = torch.from_numpy(np.asarray(x, dtype=float))
    if features.is_learned:
        inputs = inputs[:, None].expand(-1, features.basis.groups)
        return features.expand(inputs, features.start().double())[..., 0].T.numpy()
    return features.expand(inputs).numpy()


@pytest.mark.parametrize("features", SMOOTH, ids=repr)
def test_moments_are_those_of_gauss_hermite_quadrature(features: Features) -> None:
    x, weights = hermegauss(150)
    weights /= weights.sum()
    values = expanded(features, x)
    mean, second = features.gaussian_moments()
    # Enough nodes except for functions of tanh(x), which has poles close to the real line.
    tolerance = 1e-7 if isinstance(features.basis, Chebyshev) else 1e-11
    np.testing.assert_allclose(mean, values @ weights, rtol=0, atol=tolerance)
    np.testing.assert_allclose(second, (values * weights) @ values.T, rtol=0, atol=tolerance)


@pytest.mark.parametrize("features", [*KINKED, *RATIONAL], ids=repr)
def test_moments_are_those_of_scipys_quadrature(features: Features) -> None:
    basis = getattr(features.basis, "family", features.basis)
    kinks = [knot for knot in getattr(basis, "knots", ()) if abs(knot) < 9]

    def integrand(x: float) -> np.ndarray:
        values = expanded(features, [x])[:, 0]
        density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        return density * np.array([values, *np.outer(values, values)])

    expected = sum(
        quad_vec(integrand, *piece, epsabs=1e-9)[0] for piece in pairwise([-9.0, *kinks, 9.0])
    )
    mean, second = features.gaussian_moments()
    np.testing.assert_allclose(mean, expected[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(second, expected[1:], rtol=0, atol=1e-6)


def test_moments_do_not_depend_on_torchs_defaults(features: Features) -> None:
    expected = features.gaussian_moments()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            results = Features.gaussian_moments.__wrapped__(features)  # not the cached ones
    finally:
        torch.set_default_dtype(before)
    for result, wanted in zip(results, expected, strict=True):
        assert result.device.type == "cpu"
        assert result.dtype == torch.float64
        assert torch.equal(result, wanted)


def test_moments_take_no_more_memory_for_more_groups() -> None:
    """They are taken whenever a layer is made."""
    few, many = (Features(Shared(BSpline(), groups=groups)) for groups in (1, 10**6))
    for expected, result in zip(few.gaussian_moments(), many.gaussian_moments(), strict=True):
        assert torch.equal(result, expected)
