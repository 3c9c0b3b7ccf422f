"""Changes of the grid: functions are preserved, moments transformed, and all ranks agree."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline as ScipyBSpline
from torch import Tensor, nn

from nanogpkant import BSpline, KANLinear
from nanogpkant.kan import RBF
from nanogpkant.kan.grid import change_basis, health, largest_change
from nanogpkant.kan.knots import refined, transfer
from nanogpkant.kan.state import spline_of

UNIFORM = [
    BSpline(grid_size=g, order=k) for g, k in [(1, 1), (5, 1), (3, 2), (5, 3), (2, 4), (4, 5)]
]
UNEVEN = [BSpline(order=k, grid=(-1.0, -0.9, 0.2, 1.5)) for k in (1, 2, 3, 5)]
BASES = [*UNIFORM, *UNEVEN, BSpline(3, 3, (40.0, 41.0)), BSpline(3, 3, (-1e-3, 2e-3))]


def linear(basis: BSpline) -> BSpline:
    return replace(basis, outside="linear")


def layer_of(basis: object, n: int = 4, out: int = 3, **options: object) -> KANLinear:
    """A layer in float64 with random weights."""
    options = {
        "init": "original" if isinstance(basis, BSpline) else "variance_preserving",
        "bias": False,
    } | options
    layer = KANLinear(n, out, basis=basis, **{"dtype": torch.float64, **options})
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def around(basis: BSpline, points: int = 700) -> Tensor:
    """Inputs in, around and far outside a grid."""
    (low, high), width = basis.grid_range, basis.grid_range[1] - basis.grid_range[0]
    near = torch.linspace(low - 3 * width, high + 3 * width, points, dtype=torch.float64)
    return torch.cat([near, torch.tensor([-1e4, 1e4], dtype=torch.float64)])


def test_refining_5_cubic_intervals_is_what_the_documentation_says() -> None:
    wider = refined(BSpline(5, 3), 10)
    assert (wider.grid_size, wider.order, wider.grid) == (16, 3, None)
    assert wider.grid_range == pytest.approx((-1.6, 1.6))
    assert refined(linear(BSpline(5, 3)), 10) == linear(BSpline(10, 3))


@pytest.mark.parametrize("factor", [2, 3, 5])
@pytest.mark.parametrize("outside", ["zero", "linear"])
@pytest.mark.parametrize("basis", BASES, ids=repr)
def test_refining_keeps_every_curve_everywhere(basis: BSpline, outside: str, factor: int) -> None:
    basis = linear(basis) if outside == "linear" else basis
    layer = layer_of(basis, spline_scale=True)
    x, size = around(basis), basis.grid_size * factor
    before = layer.edges(x)
    result = layer.refine(size)
    assert result.old == basis
    assert result.new == spline_of(layer) != basis
    spacing = np.diff(basis.knots).min() / factor
    np.testing.assert_allclose(np.diff(result.new.knots).min(), spacing, rtol=1e-9)
    assert result.change < 1e-9
    scale = before.abs().amax(0).clamp(min=1.0)
    assert ((layer.edges(x) - before).abs() / scale).max() < 1e-9


@pytest.mark.parametrize("basis", BASES, ids=repr)
def test_refining_is_scipys_knot_insertion(basis: BSpline) -> None:
    new, order = refined(basis, 2 * basis.grid_size), basis.order
    coefficients = torch.randn(basis.size, dtype=torch.float64)
    # scipy inserts only inside its outermost order + 1 knots: pad with knots and zeros.
    step = 1.0 * (basis.knots[-1] - basis.knots[0])
    beyond = step * np.arange(1, order + 1)
    padded = np.concatenate([basis.knots[0] - beyond[::-1], basis.knots, basis.knots[-1] + beyond])
    spline = ScipyBSpline(padded, np.pad(coefficients.numpy(), order), order)
    for left, right in zip(basis.knots[:-1], basis.knots[1:], strict=True):
        spline = spline.insert_knot((left + right) / 2)
    inserted = spline.c[order : order + new.size]
    ours = transfer(basis, new) @ coefficients
    np.testing.assert_allclose(ours, inserted, atol=1e-9)


def test_a_grid_is_split_into_multiples_alone() -> None:
    layer = layer_of(BSpline(4, 3))
    with pytest.raises(ValueError, match="4 intervals cannot be split into 6.* 4 or 8"):
        layer.refine(6)
    with pytest.raises(ValueError, match="such as 4"):
        layer.refine(2)
    with pytest.raises(ValueError, match="multiple"):
        layer.refine(-4)
    same = layer.refine(4)
    assert (same.new, same.change) == (same.old, 0.0)
    assert "already" in same.reason


@pytest.mark.parametrize("prenorm", ["none", "rms"])
@pytest.mark.parametrize("basis", [b for b in BASES if b.grid_range[1] < 40], ids=repr)
def test_an_update_reaches_the_samples_and_keeps_every_curve(basis: BSpline, prenorm: str) -> None:
    layer = layer_of(basis, spline_scale=True, prenorm=prenorm)
    width = basis.grid_range[1] - basis.grid_range[0]
    samples = width * torch.randn(500, 4, dtype=torch.float64) + 0.1 * width
    x = around(basis)
    before = layer.edges(x)
    result = layer.update_grid(samples, max_grid_size=200)
    low, high = result.new.grid_range
    inside = ((samples >= low) & (samples <= high)).double().mean()
    assert inside >= 0.985
    assert low < basis.grid_range[0]
    assert high > basis.grid_range[1]
    assert result.new == spline_of(layer)
    assert set(np.round(basis.knots, 9)) <= set(np.round(result.new.knots, 9))  # they stayed
    scale = before.abs().amax(0).clamp(min=1.0)
    assert ((layer.edges(x) - before).abs() / scale).max() < 1e-8
    assert result.change < 1e-8
    again = layer.update_grid(samples, max_grid_size=200)
    assert again.new == again.old
    assert "fits" in again.reason


@settings(max_examples=100, deadline=None)
@given(
    order=st.integers(1, 5),
    grid_size=st.integers(1, 12),
    outside=st.sampled_from(["zero", "linear"]),
    scale=st.floats(0.01, 5),
    shift=st.floats(-3, 3),
    max_grid_size=st.integers(1, 40),
)
def test_whatever_the_samples_the_function_on_them_stays(
    order, grid_size, outside, scale, shift, max_grid_size
) -> None:
    layer = layer_of(BSpline(grid_size, order, outside=outside), dtype=torch.float32)
    samples = scale * torch.randn(200, 4) + shift
    old = copy.deepcopy(layer)
    result = layer.update_grid(samples, max_grid_size=max_grid_size)
    with torch.no_grad():
        change = (layer(samples) - old(samples)).abs().max() / old(samples).std()
    assert change < 1e-4 + 1e-5  # plus rounding of the forward pass
    if result.new == result.old:
        assert result.reason
        assert torch.equal(layer.weight, old.weight)
    else:
        assert result.change <= 1e-4
        assert result.new.grid_size <= max(max_grid_size, grid_size)
        assert spline_of(layer) == result.new


def test_intervals_far_from_every_sample_are_dropped() -> None:
    layer = layer_of(BSpline(20, 3))  # intervals of 0.1
    samples = torch.rand(300, 4, dtype=torch.float64) * 0.28 + 0.11  # 0.11 to 0.39
    before = layer(samples)
    result = layer.update_grid(samples)
    assert result.new.grid_range == pytest.approx((0.0, 0.5))  # one spare interval on either side
    assert result.new.grid_size == 5
    torch.testing.assert_close(layer(samples), before)
    one = layer.update_grid(torch.full((5, 4), 0.25))
    assert one.new.grid_range == pytest.approx((0.1, 0.4))  # constant samples


def test_growth_is_bounded_and_does_not_chase_what_it_cannot_reach() -> None:
    samples = torch.linspace(-10, 10, 4000, dtype=torch.float64).view(-1, 4)
    layer = layer_of(BSpline(5, 3))
    result = layer.update_grid(samples, max_grid_size=15)
    assert result.new.grid_size == 15
    assert result.new.grid_range == pytest.approx((-3, 3))
    layer = layer_of(BSpline(5, 3))
    half = torch.cat([torch.zeros(50, 4), torch.full((50, 4), 1e30)])
    assert layer.update_grid(half).new.grid_range == pytest.approx((-0.6, 1.0))
    assert layer.update_grid(torch.full((50, 4), 1.4)).new.grid_range == pytest.approx((0.6, 1.4))


@pytest.mark.parametrize("value", [5e3, -1e30])
def test_samples_out_of_reach_leave_the_layer_alone(value: float) -> None:
    layer = layer_of(BSpline(5, 3))
    weight = layer.weight.clone()
    result = layer.update_grid(torch.full((50, 4), value))
    assert result.new == result.old == BSpline(5, 3)
    assert "out of reach" in result.reason
    assert torch.equal(layer.weight, weight)


@pytest.mark.parametrize("order", range(1, 6))
def test_a_linear_outside_grows_only_where_that_is_exact(order: int) -> None:
    """Exact for orders 1 and 2; higher orders have a kink at the end of the grid."""
    basis = BSpline(5, order, outside="linear")
    layer = layer_of(basis)
    samples, old = torch.randn(400, 4, dtype=torch.float64), copy.deepcopy(layer)
    result = layer.update_grid(samples)
    if order <= 2:
        assert result.new.grid_size > 5
        torch.testing.assert_close(layer(samples), old(samples))
    else:
        assert result.new == basis
        assert "above 0.0001" in result.reason
        assert result.change > 1e-4
        assert torch.equal(layer.weight, old.weight)
        assert layer.update_grid(samples, tolerance=1.0).new.grid_size > 5


def test_a_fit_is_the_least_squares_one() -> None:
    """Against numpy's lstsq of scipy's design matrix on the same points."""
    old, new = BSpline(6, 3, (0.0, 6.0)), BSpline(order=3, grid=(0.0, 0.4, 0.9, 2.0, 4.0, 5.0, 6.0))
    values = torch.rand(500, dtype=torch.float64).sort().values * 6
    steps = (np.arange(8) + 0.5) / 8
    cover = np.concatenate(
        [a + (b - a) * steps for a, b in zip(new.grid, new.grid[1:], strict=False)]
    )
    x = np.concatenate([cover, values.numpy()])
    designs = [ScipyBSpline.design_matrix(x, np.array(b.knots), 3).toarray() for b in (new, old)]
    expected, *_ = np.linalg.lstsq(*designs)
    np.testing.assert_allclose(transfer(old, new, values), expected, atol=1e-6)


BAD_SAMPLES = [
    (torch.tensor([[0.0, math.nan, 0.0, 0.0]]), "not finite"),
    (torch.tensor([[0.0, -math.inf, 0.0, 0.0]]), "not finite"),
    (torch.zeros(0, 4), "no samples"),
    (torch.zeros(5, 3), r"\(5, 3\); the layer needs \(\.\.\., 4\)"),
    (torch.tensor(1.0), r"\(\); the layer needs"),
]


@pytest.mark.parametrize(("samples", "words"), BAD_SAMPLES, ids=[w for _, w in BAD_SAMPLES])
def test_samples_that_say_nothing_are_refused(samples: Tensor, words: str) -> None:
    layer = layer_of(BSpline())
    with pytest.raises(ValueError, match=words):
        layer.update_grid(samples)


def test_settings_out_of_range_and_layers_without_a_grid_are_refused() -> None:
    layer, samples = layer_of(BSpline()), torch.randn(9, 4)
    for coverage in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="coverage"):
            layer.update_grid(samples, coverage=coverage)
    other = layer_of(RBF())
    with pytest.raises(ValueError, match="RBF.* has no grid of splines"):
        other.update_grid(samples)
    with pytest.raises(ValueError, match="no grid of splines"):
        other.refine(10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_narrow_dtype_rounds_is_counted(dtype: torch.dtype) -> None:
    layer = layer_of(BSpline(5, 3), dtype=dtype)
    result = layer.refine(10)
    assert layer.weight.dtype == dtype
    assert 0 < result.change < 20 * torch.finfo(dtype).eps


def test_inputs_of_any_shape_and_under_autocast() -> None:
    layer = layer_of(BSpline(5, 3), dtype=torch.float32)
    samples = torch.randn(2, 30, 4)
    with torch.autocast("cpu", torch.bfloat16):
        result = layer.update_grid(samples)
    assert result.new != result.old
    assert result.change < 1e-6


def test_whatever_torchs_default_device_is() -> None:
    samples = torch.randn(50, 4)
    layer = layer_of(BSpline(5, 3), dtype=torch.float32)
    with torch.device("meta"):
        result = layer.update_grid(samples)
        layer.refine(2 * result.new.grid_size)
        row = health(spline_of(layer), samples)
    assert result.new != result.old
    assert layer.weight.device.type == "cpu"
    assert row["unseen"] < 0.01


def adam(layer: KANLinear) -> torch.optim.Optimizer:
    return torch.optim.AdamW(layer.parameters(), lr=1e-2, fused=True)


def after_some_steps(layer: KANLinear, x: Tensor, y: Tensor, steps: int = 20) -> tuple:
    optimizer = adam(layer)
    losses = descend(layer, optimizer, x, y, steps)
    return optimizer, losses


def descend(layer: KANLinear, optimizer: torch.optim.Optimizer, x, y, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (layer(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def gradient(layer: KANLinear, x: Tensor) -> Tensor:
    return torch.autograd.grad(layer(x).square().sum(), layer.weight)[0]


def test_gradients_follow_the_map_by_autograd() -> None:
    """dL/dc_old = A.T dL/dc_new; if no function is new, pinv(A).T inverts it."""
    layer = layer_of(BSpline(5, 3))
    x, finer = torch.randn(50, 4, dtype=torch.float64), refined(BSpline(5, 3), 10)
    g_old, A = gradient(layer, x), transfer(BSpline(5, 3), finer)
    change_basis(layer, finer, A)
    whole = torch.block_diag(torch.ones(1, 1), A)
    g_new = gradient(layer, x)
    torch.testing.assert_close(torch.einsum("lm,oli->omi", whole, g_new), g_old)
    carried = torch.einsum("lm,omi->oli", torch.linalg.pinv(whole).T, g_old)
    torch.testing.assert_close(torch.einsum("lm,oli->omi", whole, carried), g_old)
    # The transformed gradient is close to the true one.
    assert torch.cosine_similarity(carried.flatten(), g_new.flatten(), dim=0) > 0.8

    layer = layer_of(BSpline(5, 3))
    inside = 2 * torch.rand(50, 4, dtype=torch.float64) - 1
    wider = BSpline(9, 3, (-1.8, 1.8))
    g_old, A = gradient(layer, inside), transfer(BSpline(5, 3), wider)
    change_basis(layer, wider, A)
    whole = torch.block_diag(torch.ones(1, 1), A)
    carried = torch.einsum("lm,omi->oli", torch.linalg.pinv(whole).T, g_old)
    torch.testing.assert_close(carried, gradient(layer, inside))


@pytest.mark.parametrize("how", ["refine", "update"])
def test_the_optimisers_moments_go_along(how: str) -> None:
    layer = layer_of(BSpline(5, 3), spline_scale=True)
    x, y = torch.randn(100, 4, dtype=torch.float64), torch.randn(100, 3, dtype=torch.float64)
    optimizer, _ = after_some_steps(layer, x, y)
    weight, old = layer.weight, layer.weight.detach().clone()
    before = {name: value.clone() for name, value in optimizer.state[weight].items()}
    other = {k: v.clone() for k, v in optimizer.state[layer.spline_scale].items()}
    with torch.no_grad():
        y_before = layer(x)
    if how == "refine":
        result = layer.refine(15, optimizer=optimizer)
    else:
        result = layer.update_grid(x, optimizer=optimizer)
    assert layer.weight is weight is optimizer.param_groups[0]["params"][0]
    assert weight.grad is None
    torch.testing.assert_close(layer(x), y_before)

    after = optimizer.state[weight]
    A = torch.block_diag(torch.ones(1, 1), transfer(result.old, result.new))
    torch.testing.assert_close(torch.einsum("lm,omi->oli", A, old), weight.detach())
    back = torch.einsum("lm,oli->omi", A, after["exp_avg"])
    torch.testing.assert_close(back, before["exp_avg"])
    torch.testing.assert_close(after["exp_avg"][:, 0], before["exp_avg"][:, 0])  # base
    squares = torch.einsum("lm,omi->oli", torch.linalg.pinv(A).T.square(), before["exp_avg_sq"])
    torch.testing.assert_close(after["exp_avg_sq"], squares)
    assert (after["exp_avg_sq"] >= 0).all()
    assert after["step"] == before["step"]
    torch.testing.assert_close(dict(optimizer.state[layer.spline_scale]), other)


def test_training_goes_on_as_if_nothing_had_happened() -> None:
    """No jump of the loss, and a finer grid fits what a coarse one cannot."""
    layer = layer_of(BSpline(3, 3, (-2.0, 2.0)), dtype=torch.float32)
    x = torch.randn(500, 4)
    y = torch.sin(4 * x).sum(-1, keepdim=True).expand(-1, 3)
    optimizer, losses = after_some_steps(layer, x, y, steps=300)
    layer.refine(6, optimizer)
    layer.update_grid(x, optimizer=optimizer)
    later = descend(layer, optimizer, x, y, 300)
    assert max(later[:20]) < losses[-1] * 1.02
    assert later[-1] < losses[-1] / 2


@pytest.mark.parametrize("kind", [torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.RMSprop])
def test_other_optimizers_train_on(kind: type[torch.optim.Optimizer]) -> None:
    layer, x = layer_of(BSpline(3, 3), dtype=torch.float32), torch.randn(100, 4)
    optimizer = kind(layer.parameters(), 0.01)
    descend(layer, optimizer, x, x[:, :3], 5)
    layer.refine(6, optimizer)
    assert np.isfinite(descend(layer, optimizer, x, x[:, :3], 5)).all()


def test_functions_that_edges_share_change_too() -> None:
    for share in ("group:2", "atoms:3"):
        layer = KANLinear(4, 3, basis=BSpline(5, 3), share=share, dtype=torch.float64)
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
        x, y = torch.randn(60, 4, dtype=torch.float64), torch.randn(60, 3, dtype=torch.float64)
        optimizer, _ = after_some_steps(layer, x, y, 5)
        before = layer(x)
        assert layer.update_grid(x, optimizer=optimizer).new.grid_size > 5
        layer.refine(2 * spline_of(layer).grid_size, optimizer)
        torch.testing.assert_close(layer(x), before)
        moments = optimizer.state[layer.coefficients]
        assert moments["exp_avg"].shape == moments["exp_avg_sq"].shape == layer.coefficients.shape
        descend(layer, optimizer, x, y, 2)


def test_the_change_of_a_constant_layer_is_measured_against_its_size() -> None:
    layer = layer_of(BSpline(), out=1)
    other = copy.deepcopy(layer)
    same = torch.zeros(3, 4, dtype=torch.float64)
    assert largest_change(layer, other, same) == 0.0
    with torch.no_grad():
        other.weight *= 1.5
    assert largest_change(layer, other, same) == pytest.approx(0.5)


def test_health_counts_what_it_says() -> None:
    basis = BSpline(4, 3, (-1.0, 1.0))  # intervals of 0.5; knots up to 2.5
    x = torch.tensor([[0.1, -0.9], [0.2, 3.0], [0.3, 1.1], [0.4, -2.6]])
    row = health(basis, x)
    assert row["out_of_range"] == pytest.approx(3 / 8)
    assert row["unseen"] == pytest.approx(2 / 8)
    assert row["knot_use"] == pytest.approx((1 + 1) / 8)  # [0, 0.5) and [-1, -0.5)
    values = basis.expand(x.double())  # (rows, functions, inputs)
    assert row["dead"] == pytest.approx((values == 0).all(0).double().mean().item())

    fine = health(basis, torch.linspace(-0.999, 0.999, 1000)[:, None])
    assert fine == {"out_of_range": 0.0, "unseen": 0.0, "dead": 0.0, "knot_use": 1.0}
    far = health(basis, torch.full((10, 2), 1e30))
    assert far == {"out_of_range": 1.0, "unseen": 1.0, "dead": 1.0, "knot_use": 0.0}
    line = health(linear(basis), torch.full((10, 2), 1e30))
    assert line["out_of_range"] == 1.0
    assert line["unseen"] == 0.0
    assert line["dead"] == pytest.approx(3 / 7)  # the samples lie in the support of the last 4
    assert health(basis, torch.randn(9, 2, dtype=torch.bfloat16))["knot_use"] > 0
