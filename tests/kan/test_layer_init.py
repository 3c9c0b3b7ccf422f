"""Initialization of KANLinear: unit variance, whitened curves, or as in efficient-kan."""

import math

import numpy as np
import pytest
import torch
from cases import OWN, SHARED
from scipy import stats
from scipy.interpolate import BSpline as ScipyBSpline
from torch import Tensor

from nanogpkant import BSpline, KANLinear
from nanogpkant.kan import BASE_FUNCTIONS, RBF, Chebyshev, Fourier, Rational

SPLINES = [
    *(BSpline(size, order) for size in (1, 5, 13) for order in (1, 2, 3, 4, 5)),
    *(BSpline(5, order, span) for order in (1, 3) for span in ((-3.0, 3.0), (0.0, 1.5))),
    *(BSpline(5, order, outside="linear") for order in (1, 3)),
    BSpline(order=2, grid=(-1, 0.2, 3)),
]
KINDS = [*((basis, "edge") for basis in SPLINES), *OWN, *SHARED]
FEW = [(BSpline(), "edge"), (RBF(), "edge"), (Rational(), "group:8"), (Chebyshev(4), "atoms:4")]
kinds = pytest.mark.parametrize(("basis", "share"), KINDS, ids=repr)
few = pytest.mark.parametrize(("basis", "share"), FEW, ids=repr)
drawn = pytest.mark.parametrize("init", ["variance_preserving", "whitened"])
SPLINE_INITS = ["original", "variance_preserving", "whitened"]


def normal_points(count: int) -> Tensor:
    """Quantiles of N(0, 1)."""
    return torch.from_numpy(stats.norm.ppf((np.arange(count) + 0.5) / count))


@torch.no_grad()
def assert_unit_variance(layer: KANLinear) -> None:
    y = layer(torch.randn(400, layer.in_features))
    assert y.std().item() == pytest.approx(1.0, rel=0.1)
    if not layer.features.is_learned:  # shared functions have the mean of the base function
        # The variance must come from the input, not from a constant of every output.
        assert y.std(0).square().mean().sqrt().item() == pytest.approx(1.0, rel=0.1)


@drawn
@pytest.mark.parametrize("base", BASE_FUNCTIONS)
@kinds
def test_unit_variance_in_unit_variance_out(basis, share: str, base: str, init: str) -> None:
    # Without recompute's torch.compile, which takes seconds.
    layer = KANLinear(64, 256, basis=basis, base=base, share=share, init=init, backend="reference")
    assert_unit_variance(layer)


@drawn
@pytest.mark.parametrize("sizes", [(192, 768), (768, 192), (16, 400)], ids=str)
@few
def test_unit_variance_for_every_size(basis, share: str, sizes, init: str) -> None:
    layer = KANLinear(*sizes, basis=basis, share=share, init=init, backend="reference")
    assert_unit_variance(layer)


@pytest.mark.parametrize("prenorm", ["none", "rms"])
def test_unit_variance_with_every_other_option(prenorm: str) -> None:
    options = {"bias": True, "spline_scale": True, "prenorm": prenorm}
    assert_unit_variance(KANLinear(64, 256, **options, backend="reference"))


@drawn
@pytest.mark.parametrize("base", BASE_FUNCTIONS)
@pytest.mark.parametrize("basis", [*SPLINES[::4], RBF(), Chebyshev(), Fourier()], ids=repr)
def test_curves_of_an_edges_own_start_with_mean_zero(basis, base: str, init: str) -> None:
    layer = KANLinear(3, 5, basis=basis, base=base, init=init, dtype=torch.float64)
    curves = layer.edges(normal_points(20_000)).detach()
    assert curves.mean(0).abs().max() < 2e-3 * curves.std()


def shapes(layer: KANLinear) -> np.ndarray:
    """Variances of the edges' curves along their principal components, the largest first."""
    curves = layer.edges(normal_points(300)).detach().flatten(1)  # (points, edges)
    return torch.linalg.eigvalsh(curves @ curves.T).flip(0)[: layer.features.size].numpy()


@pytest.mark.parametrize("base", ["silu", "none"])
@pytest.mark.parametrize("basis", [BSpline(), BSpline(4, 1), RBF(), Chebyshev(5)], ids=repr)
def test_whitened_curves_vary_equally_along_all_shapes_but_the_smallest(basis, base: str) -> None:
    """Measured by the principal components of the curves of 10,000 edges.

    Independent coefficients give variances v; whitened ones give v / (v + max(v) / 100).
    """
    layers = (
        KANLinear(100, 100, basis=basis, base=base, init=init, dtype=torch.float64)
        for init in ("variance_preserving", "whitened")
    )
    plain, whitened = (shapes(layer) for layer in layers)
    assert whitened.sum() == pytest.approx(plain.sum(), rel=0.05)
    expected = plain / (plain + 0.01 * plain.max())
    expected *= whitened.sum() / expected.sum()
    np.testing.assert_allclose(whitened, np.sort(expected)[::-1], rtol=0.1, atol=1e-9 * plain[0])
    assert (whitened > whitened[0] / 2).sum() > (plain > plain[0] / 2).sum()


@pytest.mark.parametrize(("basis", "share"), SHARED, ids=repr)
def test_shared_functions_start_at_the_base_function(basis, share: str) -> None:
    layer = KANLinear(8, 3, basis=basis, base="silu", share=share, dtype=torch.float64)
    x = torch.linspace(-3, 3, 20, dtype=torch.float64)[:, None].expand(-1, 8)
    first = layer.features.expand(x, layer.coefficients)[:, 0]
    torch.testing.assert_close(first, torch.nn.functional.silu(x))


def efficient_kan(n: int, out: int, basis: BSpline) -> tuple[Tensor, Tensor, Tensor]:
    """efficient-kan's initial splines (out, K, n), scaler and base weight (out, n), by scipy.

    Its curves fit random values at the grid points by least squares.
    """
    knots, order = np.array(basis.knots), basis.order
    noise = (torch.rand(out, basis.grid_size + 1, n) - 0.5) * 0.1 / basis.grid_size
    grid = knots[order : len(knots) - order]
    values = ScipyBSpline.design_matrix(grid, knots, order).toarray()  # (points, K)
    by_point = noise.transpose(0, 1).flatten(1).double().numpy()
    coefficients, *_ = np.linalg.lstsq(values, by_point, rcond=None)
    spline = torch.from_numpy(coefficients).unflatten(1, (out, n)).transpose(0, 1)
    scaler, base_weight = torch.empty(out, n), torch.empty(out, n)
    torch.nn.init.kaiming_uniform_(scaler, a=math.sqrt(5))
    torch.nn.init.kaiming_uniform_(base_weight, a=math.sqrt(5))
    return spline.float(), scaler, base_weight


@pytest.mark.parametrize("basis", SPLINES, ids=repr)
def test_original_start_is_efficient_kans(basis: BSpline) -> None:
    torch.manual_seed(7)
    layer = KANLinear(30, 20, basis=basis, spline_scale=True, bias=True, init="original")
    torch.manual_seed(7)
    spline, scaler, base_weight = efficient_kan(30, 20, basis)
    torch.testing.assert_close(layer.weight[:, 1:].data, spline, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(layer.spline_scale.data, scaler)
    torch.testing.assert_close(layer.weight[:, 0].data, base_weight)
    assert (layer.bias == 0).all()


def test_a_grid_out_of_reach_can_be_asked_for() -> None:
    layer = KANLinear(3, 2, basis=BSpline(grid_range=(100.0, 101.0)), base="none", init="original")
    assert (layer(torch.randn(5, 3)) == 0).all()
    assert (layer(torch.empty(5, 3).uniform_(100, 101)) != 0).all()


@pytest.mark.parametrize("init", SPLINE_INITS)
def test_start_is_a_function_of_the_seed(init: str) -> None:
    def weight(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return KANLinear(5, 4, spline_scale=True, init=init).effective_weight()

    assert torch.equal(weight(1), weight(1))
    assert not torch.equal(weight(1), weight(2))
    layer = KANLinear(5, 4, init=init)
    torch.manual_seed(1)
    layer.reset_parameters()
    torch.manual_seed(1)
    assert torch.equal(layer.weight, KANLinear(5, 4, init=init).weight)


@pytest.mark.usefixtures("nan_buffers")
@few
def test_every_parameter_is_initialised(basis, share: str) -> None:
    own = share == "edge"
    for init in ["variance_preserving", "whitened"] + ["original"] * isinstance(basis, BSpline):
        for base in BASE_FUNCTIONS:
            options = {"base": base, "share": share, "init": init, "bias": True}
            layer = KANLinear(8, 4, basis=basis, spline_scale=own, **options)
            assert all(p.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("init", SPLINE_INITS)
def test_starts_in_half_precision(init: str) -> None:
    layer = KANLinear(5, 4, bias=True, spline_scale=True, init=init, dtype=torch.bfloat16)
    assert {p.dtype for p in layer.parameters()} == {torch.bfloat16}
    assert layer(torch.randn(3, 5, dtype=torch.bfloat16)).isfinite().all()


@pytest.mark.parametrize(
    ("basis", "share", "init"),
    [
        *((BSpline(7, 2, (-1.25, 1.5)), "edge", init) for init in SPLINE_INITS),
        (Fourier(5), "edge", "whitened"),
        (Rational(7), "group:2", "variance_preserving"),
        (Chebyshev(7), "atoms:2", "whitened"),
    ],
    ids=repr,
)
def test_a_layer_without_memory_can_be_made_and_filled_later(basis, share, init: str) -> None:
    """No other test uses these bases: their cached moments must not be on "meta"."""
    options = {"bias": True, "share": share, "spline_scale": share == "edge", "init": init}
    with torch.device("meta"):
        layers = [KANLinear(6, 4, basis=basis, **options)]
    layers.append(KANLinear(6, 4, basis=basis, **options, device="meta"))
    for layer in layers:
        assert {p.device.type for p in layer.parameters()} == {"meta"}
        layer.to_empty(device="cpu").reset_parameters()
        assert all(p.isfinite().all() for p in layer.parameters())
        assert layer.effective_weight().std() > 0
