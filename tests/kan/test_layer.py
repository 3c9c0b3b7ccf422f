"""KANLinear: results, dropout, and its integration with torch."""

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import OWN, SHARED
from scipy.interpolate import BSpline as ScipyBSpline
from torch import Tensor, nn

from nanogpkant import BSpline, KANLinear
from nanogpkant.kan import BACKENDS, BASE_FUNCTIONS, Chebyshev, Rational

BASES = [BSpline(), BSpline(2, 1), BSpline(4, 5, (-2.0, 1.0)), BSpline(order=2, grid=(-1, 0.2, 3))]
KINDS = [*((basis, "edge") for basis in BASES), *OWN, *SHARED]
kinds = pytest.mark.parametrize(("basis", "share"), KINDS, ids=repr)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("base", ["silu", "none"])
def test_parameter_count(base: str, bias: bool, scale: bool) -> None:
    layer = KANLinear(7, 5, basis=BSpline(4, 2), base=base, bias=bias, spline_scale=scale)
    features = 4 + 2 + (base != "none") + scale
    assert sum(p.numel() for p in layer.parameters()) == 7 * 5 * features + 5 * bias
    assert ("bias" in layer.state_dict(), "spline_scale" in layer.state_dict()) == (bias, scale)


def naive(layer: KANLinear, x: np.ndarray) -> np.ndarray:
    """The layer by its definition: scipy's curve of every edge, summed over the inputs."""
    state = {name: value.double().numpy() for name, value in layer.state_dict().items()}
    y = np.zeros((len(x), layer.out_features)) + state.get("bias", 0.0)
    knots, order = np.array(layer.basis.knots), layer.basis.order
    beyond = np.arange(1, order + 1)  # scipy's base interval must reach to the outer knots
    padded = np.concatenate([knots[0] - beyond[::-1], knots, knots[-1] + beyond])
    base = BASE_FUNCTIONS[layer.features.base]
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
        4,
        3,
        basis=basis,
        base=base,
        bias=True,
        spline_scale=scale,
        backend=backend,
        dtype=torch.float64,
    )
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = 2 * torch.randn(50, 4, dtype=torch.float64)
    with torch.no_grad():
        np.testing.assert_allclose(layer(x), naive(layer, x.numpy()), rtol=1e-12, atol=1e-12)


def layer_of(basis, share: str = "edge", **options: object) -> KANLinear:
    """8 inputs, 3 outputs, float64, all parameters random."""
    layer = KANLinear(8, 3, basis=basis, share=share, bias=True, dtype=torch.float64, **options)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("base", BASE_FUNCTIONS)
@kinds
def test_edges_sum_to_the_output(basis, share: str, base: str, scale: bool) -> None:
    layer = layer_of(basis, share, base=base, spline_scale=scale and share == "edge")
    x = 2 * torch.randn(9, 8, dtype=torch.float64)
    curves = layer.edges(x)
    assert curves.shape == (9, 3, 8)
    torch.testing.assert_close(curves.sum(-1) + layer.bias, layer(x))

    same = torch.linspace(-2, 2, 9, dtype=torch.float64)  # the same points at every input
    torch.testing.assert_close(layer.edges(same), layer.edges(same[:, None].expand(-1, 8)))


def test_rms_prenorm_is_torchs_rms_norm_before_the_functions() -> None:
    layer = KANLinear(6, 3, prenorm="rms", dtype=torch.float64)
    plain = KANLinear(6, 3, dtype=torch.float64)
    plain.load_state_dict(dict(layer.named_parameters()))
    x = 50 * torch.randn(8, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(nn.RMSNorm(6, elementwise_affine=False)(x)))
    torch.testing.assert_close(layer(x), layer(100 * x))
    assert not torch.allclose(plain(x), plain(100 * x))
    seen = F.rms_norm(x, (6,))
    torch.testing.assert_close(layer.edges(seen).sum(-1), layer(x))


def one_output_an_input(basis, share: str, dropout: float) -> KANLinear:
    """A layer whose output j depends only on input j."""
    layer = KANLinear(8, 8, basis=basis, share=share, dropout=dropout, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.normal_().mul_(torch.eye(8).unsqueeze(1))
    return layer


@kinds
def test_dropout_takes_all_features_of_an_input_or_none(basis, share: str) -> None:
    layer = one_output_an_input(basis, share, dropout=0.25)
    # Away from zeros of the functions.
    x = torch.empty(1000, 8, dtype=torch.float64).uniform_(0.1, 0.9).requires_grad_()
    y = layer(x)
    whole = layer.eval()(x)
    dropped = y == 0
    torch.testing.assert_close(y[~dropped], whole[~dropped] / 0.75)
    assert dropped.double().mean().item() == pytest.approx(0.25, abs=0.03)
    both = dropped[:, :-1] & dropped[:, 1:]  # inputs are dropped independently
    assert both.double().mean().item() == pytest.approx(0.25**2, abs=0.02)

    (grad,) = torch.autograd.grad(y.sum(), x)
    (grad_of_whole,) = torch.autograd.grad(whole.sum(), x)
    assert (grad[dropped] == 0).all()
    torch.testing.assert_close(grad[~dropped], grad_of_whole[~dropped] / 0.75)


def test_dropout_is_for_training_and_keeps_the_mean() -> None:
    layer = KANLinear(8, 3, dropout=0.5, dtype=torch.float64)
    x = torch.randn(8, dtype=torch.float64)
    mean = layer(x.expand(5000, 8)).mean(0)
    torch.testing.assert_close(mean, layer.eval()(x), rtol=0, atol=0.06)
    plain = KANLinear(8, 3, dtype=torch.float64)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), plain(x))
    assert not torch.equal(layer.train()(x), plain(x))


def test_folding_the_scale_keeps_the_function() -> None:
    layer = KANLinear(6, 4, False, spline_scale=True, init="original", dtype=torch.float64)
    x = torch.randn(10, 6, dtype=torch.float64)
    before = layer(x)
    layer.fold_scale()
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    torch.testing.assert_close(layer(x), before)
    layer.fold_scale()  # idempotent
    torch.testing.assert_close(layer(x), before)


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 0, 6), (2, 3, 4, 6)])
def test_shapes_are_those_of_nn_linear(shape: tuple[int, ...]) -> None:
    layer, linear = KANLinear(6, 4, bias=True), nn.Linear(6, 4)
    x = torch.randn(shape)
    assert layer(x).shape == linear(x).shape
    assert repr(layer).startswith("KANLinear(6, 4, ")


def test_trains_in_place_of_nn_linear() -> None:
    x = torch.empty(400, 2).uniform_(-1, 1)
    target = torch.sin(4 * x[:, :1]) * x[:, 1:]  # no linear model can fit it
    model = nn.Sequential(KANLinear(2, 8), KANLinear(8, 1, bias=False))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * target.var()


@kinds
def test_state_dict_round_trip(tmp_path: Path, basis, share: str) -> None:
    layers = [layer_of(basis, share, spline_scale=share == "edge") for _ in range(2)]
    x = torch.randn(3, 8, dtype=torch.float64)
    assert not torch.equal(layers[0](x), layers[1](x))
    torch.save(layers[0].state_dict(), tmp_path / "layer.pt")
    layers[1].load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    assert torch.equal(layers[0](x), layers[1](x))


@kinds
def test_a_copy_is_a_layer_of_its_own(basis, share: str) -> None:
    layer, x = layer_of(basis, share), torch.randn(3, 8, dtype=torch.float64)
    copied, before = copy.deepcopy(layer), layer(x)
    assert torch.equal(copied(x), before)
    with torch.no_grad():
        copied.weight.mul_(2.0)
    assert torch.equal(layer(x), before)
    assert not torch.equal(copied(x), before)


@kinds
def test_runs_with_parameters_from_elsewhere(basis, share: str) -> None:
    layer, other = layer_of(basis, share), layer_of(basis, share)
    x = torch.randn(3, 8, dtype=torch.float64)
    borrowed = torch.func.functional_call(layer, dict(other.named_parameters()), (x,))
    assert torch.equal(borrowed, other(x))
    leaves = list(other.parameters())
    expected = torch.autograd.grad(other(x).sum(), leaves)
    torch.testing.assert_close(torch.autograd.grad(borrowed.sum(), leaves), expected)


def test_the_layer_runs_on_the_backend_that_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def kan_linear(x, weight, features, bias, coefficients, keep, backend: str) -> Tensor:
        asked.append(backend)
        return x.new_zeros(*x.shape[:-1], weight.shape[0])

    monkeypatch.setattr("nanogpkant.kan.layer.kan_linear", kan_linear)
    for backend in BACKENDS:
        KANLinear(3, 2, backend=backend)(torch.zeros(1, 3))
    assert asked == list(BACKENDS)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"in_features": 0}, "from 0 to 2"),
        ({"out_features": -1}, "from 3 to -1"),
        ({"base": "cosine"}, "cosine.*silu"),
        ({"init": "xavier"}, "xavier.*original"),
        ({"prenorm": "layer"}, "layer.*rms"),
        ({"share": "layer:3"}, "layer:3.*group:G"),
        ({"share": "group:2"}, "3 inputs do not split into 2 groups"),
        ({"share": "group:3", "spline_scale": True}, "spline_scale"),
        ({"share": "atoms:3", "init": "original"}, "original.*an edge's own"),
        ({"basis": Chebyshev(), "init": "original"}, "original.*B-splines"),
        ({"basis": Rational()}, "Rational.*edge's own.*share"),
        ({"dropout": 1.0}, "dropout is 1.0.*below 1"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"basis": BSpline(grid_range=(100.0, 101.0)), "base": "none"}, "out of reach.*original"),
        ({"backend": "cuda"}, "cuda.*reference"),
    ],
    ids=str,
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
    layer = KANLinear(4, 3, basis=BSpline(2, 2), bias=True, backend=backend)
    x = torch.randn(6, 4, requires_grad=True)
    leaves = [x, *layer.parameters()]
    eager = gradients(layer, x, leaves)
    torch.testing.assert_close(gradients(torch.compile(layer), x, leaves), eager)
