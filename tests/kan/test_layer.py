"""KANLinear: what it computes, how it starts, and how it works with the rest of torch."""

import gc
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from scipy.interpolate import BSpline as ScipyBSpline
from torch import Tensor, nn

from nanogpkant import BSpline, KANLinear
from nanogpkant.kan import BASE_FUNCTIONS

BASES = [BSpline(), BSpline(2, 1), BSpline(4, 5, (-2.0, 1.0)), BSpline(order=2, grid=(-1, 0.2, 3))]


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("base", ["silu", "none"])
def test_parameter_count(base: str, bias: bool, scale: bool) -> None:
    layer = KANLinear(7, 5, BSpline(4, 2), base=base, bias=bias, spline_scale=scale)
    features = 4 + 2 + (base != "none") + scale
    assert sum(p.numel() for p in layer.parameters()) == 7 * 5 * features + 5 * bias
    assert ("bias" in layer.state_dict(), "spline_scale" in layer.state_dict()) == (bias, scale)


def naive(layer: KANLinear, x: np.ndarray) -> np.ndarray:
    """The layer by its definition: one curve an edge, by scipy, summed over the inputs."""
    state = {name: value.double().numpy() for name, value in layer.state_dict().items()}
    y = np.zeros((len(x), layer.out_features)) + state.get("bias", 0.0)
    knots, order = np.array(layer.basis.knots), layer.basis.order
    beyond = np.arange(1, order + 1)  # so that scipy's base interval reaches to the outer knots
    padded = np.concatenate([knots[0] - beyond[::-1], knots, knots[-1] + beyond])
    base = BASE_FUNCTIONS[layer.base]
    for j in range(layer.out_features):
        for i in range(layer.in_features):
            weights = state["weight"][j, :, i]
            coefficients = weights[-layer.basis.size :]
            if "spline_scale" in state:
                coefficients = coefficients * state["spline_scale"][j, i]
            coefficients = np.pad(coefficients, order)
            spline = ScipyBSpline(padded, coefficients, order, extrapolate=False)
            y[:, j] += np.nan_to_num(spline(x[:, i]))
            if base is not None:
                y[:, j] += weights[0] * base[0](torch.from_numpy(x[:, i])).numpy()
    return y


@pytest.mark.parametrize("backend", ["recompute", "reference"])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("base", BASE_FUNCTIONS)
@pytest.mark.parametrize("basis", BASES, ids=repr)
def test_forward_is_the_sum_of_scipys_curves(
    basis: BSpline, base: str, scale: bool, backend: str
) -> None:
    layer = KANLinear(
        4, 3, basis, base=base, bias=True, spline_scale=scale, backend=backend, dtype=torch.float64
    )
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = 2 * torch.randn(50, 4, dtype=torch.float64)
    with torch.no_grad():
        np.testing.assert_allclose(layer(x), naive(layer, x.numpy()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("base", BASE_FUNCTIONS)
@pytest.mark.parametrize("basis", BASES, ids=repr)
def test_edges_sum_to_the_output(basis: BSpline, base: str, scale: bool) -> None:
    layer = KANLinear(4, 3, basis, base=base, spline_scale=scale, bias=True, dtype=torch.float64)
    nn.init.normal_(layer.bias)
    x = 2 * torch.randn(9, 4, dtype=torch.float64)
    curves = layer.edges(x)
    assert curves.shape == (9, 3, 4)
    torch.testing.assert_close(curves.sum(-1) + layer.bias, layer(x))

    same = torch.linspace(-2, 2, 9, dtype=torch.float64)  # the same points at every input
    curves = layer.edges(same)
    assert curves.shape == (9, 3, 4)
    everywhere = same[:, None].expand(-1, 4)
    torch.testing.assert_close(curves, layer.edges(everywhere))
    torch.testing.assert_close(curves.sum(-1) + layer.bias, layer(everywhere))


def test_rms_prenorm_is_torchs_rms_norm_before_the_functions() -> None:
    layer = KANLinear(6, 3, prenorm="rms", dtype=torch.float64)
    plain = KANLinear(6, 3, dtype=torch.float64)
    plain.load_state_dict(layer.state_dict())
    x = 50 * torch.randn(8, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(nn.RMSNorm(6, elementwise_affine=False)(x)))
    torch.testing.assert_close(layer(x), layer(100 * x))
    assert not torch.allclose(plain(x), plain(100 * x))
    seen = F.rms_norm(x, (6,))
    torch.testing.assert_close(layer.edges(seen).sum(-1), layer(x))


@pytest.mark.parametrize("base", BASE_FUNCTIONS)
@pytest.mark.parametrize("basis", [*BASES, BSpline(13, 3), BSpline(1, 2)], ids=repr)
@pytest.mark.parametrize(("n_in", "n_out"), [(16, 400), (192, 64), (300, 300)])
def test_unit_variance_in_unit_variance_out(
    basis: BSpline, base: str, n_in: int, n_out: int
) -> None:
    layer = KANLinear(n_in, n_out, basis, base=base)
    with torch.no_grad():
        y = layer(torch.randn(500, n_in))
    assert y.std().item() == pytest.approx(1.0, rel=0.1)
    # Most of that must depend on the input: it is not a constant of every output.
    assert y.std(0).square().mean().sqrt().item() == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("base", BASE_FUNCTIONS)
@pytest.mark.parametrize("basis", BASES, ids=repr)
def test_curves_start_with_mean_zero(basis: BSpline, base: str) -> None:
    layer = KANLinear(3, 5, basis, base=base, dtype=torch.float64)
    points = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)  # equally likely ones
    curves = layer.edges(torch.from_numpy(points)).detach()
    assert curves.mean(0).abs().max() < 1e-3 * curves.std()


def test_original_start_is_efficient_kans() -> None:
    n, basis = 300, BSpline(5, 3)
    layer = KANLinear(n, 100, basis, spline_scale=True, bias=True, init="original")
    bound = 1 / math.sqrt(n)
    for drawn in (layer.weight[:, 0], layer.spline_scale):
        assert drawn.abs().max() <= bound
        assert drawn.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)  # uniform's
        assert abs(drawn.mean().item()) < 0.02 * bound
    assert (layer.bias == 0).all()
    at_grid_points = basis.expand(torch.linspace(-1, 1, 6))  # (functions, points)
    spline = torch.einsum("omi,mp->oip", layer.weight[:, 1:], at_grid_points)
    noise = spline * basis.grid_size  # uniform on [-0.05, 0.05]
    assert noise.abs().max() <= 0.05 * 1.0001
    assert noise.std().item() == pytest.approx(0.1 / math.sqrt(12), rel=0.02)


@pytest.mark.parametrize("basis", BASES, ids=repr)
def test_original_start_is_small_at_the_grid_points_of_any_grid(basis: BSpline) -> None:
    layer = KANLinear(20, 30, basis, base="none", init="original", dtype=torch.float64)
    grid = torch.tensor(basis.knots[basis.order : -basis.order], dtype=torch.float64)
    values = layer.edges(grid).abs().detach() * basis.grid_size  # (points, out, in)
    assert values.max() <= 0.05 * 1.0001
    assert (values.amax((1, 2)) > 0.04).all()  # every grid point has its own noise


def test_folding_the_scale_keeps_the_function() -> None:
    layer = KANLinear(6, 4, spline_scale=True, init="original", dtype=torch.float64)
    x = torch.randn(10, 6, dtype=torch.float64)
    before = layer(x)
    layer.fold_scale()
    assert set(layer.state_dict()) == {"weight"}
    torch.testing.assert_close(layer(x), before)
    layer.fold_scale()  # once is enough
    torch.testing.assert_close(layer(x), before)


@pytest.mark.parametrize("init", ["original", "variance_preserving"])
@pytest.mark.parametrize("scale", [False, True])
def test_scale_output(init: str, scale: bool) -> None:
    layer = KANLinear(6, 4, spline_scale=scale, init=init, dtype=torch.float64)
    x = torch.randn(10, 6, dtype=torch.float64)
    before = layer(x)
    layer.scale_output(0.3)
    torch.testing.assert_close(layer(x), 0.3 * before)


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 0, 6), (2, 3, 4, 6)])
def test_shapes_are_those_of_nn_linear(shape: tuple[int, ...]) -> None:
    layer, linear = KANLinear(6, 4, bias=True), nn.Linear(6, 4)
    x = torch.randn(shape)
    assert layer(x).shape == linear(x).shape
    assert repr(layer).startswith("KANLinear(6, 4, ")


def test_trains_in_place_of_nn_linear() -> None:
    x = torch.empty(400, 2).uniform_(-1, 1)
    target = torch.sin(4 * x[:, :1]) * x[:, 1:]  # no linear model can fit it
    model = nn.Sequential(KANLinear(2, 8, bias=True), KANLinear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * target.var()


@pytest.mark.parametrize("init", ["original", "variance_preserving"])
def test_state_dict_round_trip(tmp_path: Path, init: str) -> None:
    layers = [KANLinear(5, 4, bias=True, spline_scale=True, init=init) for _ in range(2)]
    x = torch.randn(3, 5)
    assert not torch.equal(layers[0](x), layers[1](x))
    torch.save(layers[0].state_dict(), tmp_path / "layer.pt")
    layers[1].load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    assert torch.equal(layers[0](x), layers[1](x))


@pytest.mark.parametrize("init", ["original", "variance_preserving"])
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


@pytest.mark.parametrize("init", ["original", "variance_preserving"])
def test_device_and_dtype(init: str) -> None:
    layer = KANLinear(5, 4, bias=True, spline_scale=True, init=init, dtype=torch.bfloat16)
    assert {p.dtype for p in layer.parameters()} == {torch.bfloat16}
    assert layer(torch.randn(3, 5, dtype=torch.bfloat16)).isfinite().all()


@pytest.mark.parametrize("init", ["original", "variance_preserving"])
def test_a_layer_without_memory_can_be_made_and_filled_later(init: str) -> None:
    basis = BSpline(7, 2, (-1.25, 1.5))  # of no other test: what it caches must not be of "meta"
    with torch.device("meta"):
        layers = [KANLinear(5, 4, basis, bias=True, spline_scale=True, init=init)]
    layers += [KANLinear(5, 4, basis, bias=True, spline_scale=True, init=init, device="meta")]
    for layer in layers:
        assert {p.device.type for p in layer.parameters()} == {"meta"}
        layer.to_empty(device="cpu").reset_parameters()
        assert all(p.isfinite().all() for p in layer.parameters())
        assert layer.effective_weight().std() > 0


@pytest.mark.usefixtures("nan_buffers")
@pytest.mark.parametrize("init", ["original", "variance_preserving"])
@pytest.mark.parametrize("base", BASE_FUNCTIONS)
def test_every_parameter_is_initialised(base: str, init: str) -> None:
    layer = KANLinear(5, 4, base=base, bias=True, spline_scale=True, init=init)
    assert all(p.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"in_features": 0}, "0"),
        ({"out_features": -1}, "-1"),
        ({"base": "relu"}, "relu.*silu"),
        ({"init": "xavier"}, "xavier.*original"),
        ({"prenorm": "layer"}, "layer.*rms"),
    ],
)
def test_what_cannot_work_is_refused(arguments: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        KANLinear(**{"in_features": 3, "out_features": 2} | arguments)


def gradients(model: Callable[[Tensor], Tensor], x: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    y = model(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None,
    reason="torch.compile needs a C++ compiler",
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_compiled_layer_equals_eager(backend: str) -> None:
    layer = KANLinear(4, 3, BSpline(2, 2), bias=True, backend=backend)
    x = torch.randn(6, 4, requires_grad=True)
    leaves = [x, *layer.parameters()]
    eager = gradients(layer, x, leaves)
    torch.testing.assert_close(gradients(torch.compile(layer), x, leaves), eager)


def _distributed_gradient(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"{(folder / 'meeting').as_uri()}", rank=rank, world_size=2
    )
    layer, x = torch.load(folder / "layer_and_x.pt", weights_only=False)
    wrapped = nn.parallel.DistributedDataParallel(layer)
    wrapped(x.chunk(2)[rank]).square().mean().backward()
    torch.save([p.grad for p in layer.parameters()], folder / f"gradients-{rank}.pt")
    # Before the process group: the last to hold it joins gloo's threads, which may want the
    # interpreter lock that a wrapper's destructor holds, and nobody would move again.
    del wrapped
    gc.collect()
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="needs torch.distributed with gloo",
)
def test_two_processes_share_the_mean_gradient(tmp_path: Path) -> None:
    layer = KANLinear(4, 3, bias=True, spline_scale=True, init="original", dtype=torch.float64)
    x = torch.randn(10, 4, dtype=torch.float64)
    torch.save((layer, x), tmp_path / "layer_and_x.pt")
    torch.multiprocessing.spawn(_distributed_gradient, (tmp_path,), nprocs=2)
    layer(x).square().mean().backward()
    for rank in range(2):
        shared = torch.load(tmp_path / f"gradients-{rank}.pt", weights_only=True)
        torch.testing.assert_close(shared, [p.grad for p in layer.parameters()])
