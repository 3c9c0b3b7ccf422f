"""Fused activations against their functions in torch: values, gradients, and what is kept."""

import math

import pytest
import torch
from cases import c_compiles
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from nanogpkant.kan.backends import native
from nanogpkant.kan.features import even
from nanogpkant.kan.fused import fused
from nanogpkant.model.activation import even_cosine

FUNCTIONS = {"even": even, "even_cosine": even_cosine}
MANY = native.WORTH_COMPILING + 77  # not a whole number of blocks
names = pytest.mark.parametrize("name", FUNCTIONS)


def gradient(y: Tensor, x: Tensor, grad: Tensor, create_graph: bool = False) -> Tensor:
    return torch.autograd.grad(y, x, grad, create_graph=create_graph)[0]


@c_compiles
@names
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_values_and_gradients_are_those_in_float64(name: str, dtype: torch.dtype) -> None:
    x = (4 * torch.randn(MANY)).to(dtype)
    x[:4] = torch.tensor([0.0, -30.0, 1e4, -1e4])
    grad = torch.randn(MANY).to(dtype)
    exact = x.double().requires_grad_()
    expected = FUNCTIONS[name](exact)
    x.requires_grad_()
    y = fused(name, FUNCTIONS[name], x)
    assert y.grad_fn.name() == "_FusedBackward"
    close = (
        {"rtol": 2**-8, "atol": 1e-5} if dtype == torch.bfloat16 else {"rtol": 1e-6, "atol": 2e-6}
    )
    torch.testing.assert_close(y.double(), expected, **close)
    expected = gradient(expected, exact, grad.double())
    torch.testing.assert_close(gradient(y, x, grad).double(), expected, **close)


@c_compiles
@names
def test_other_layouts(name: str) -> None:
    x = torch.randn(300, 2, 300)[:, 1].mT.requires_grad_()
    y, grad = fused(name, FUNCTIONS[name], x), torch.randn(300, 1).expand(300, 300)
    torch.testing.assert_close(y, FUNCTIONS[name](x), rtol=1e-5, atol=2e-6)
    expected = gradient(FUNCTIONS[name](x), x, grad)
    torch.testing.assert_close(gradient(y, x, grad), expected, rtol=1e-5, atol=5e-6)


@c_compiles
@names
def test_a_nan_stays_where_it_is_and_large_inputs_are_finite(name: str) -> None:
    x = torch.randn(MANY)
    library = native.activation(name, x)
    clean = native.activate(library, x)
    x[[3, 300]], x[5], x[-1] = math.nan, 1e30, -1e30
    y = native.activate(library, x)
    grad_x = native.pull_back_activation(library, x, torch.ones(MANY))
    assert torch.equal(y.isnan(), x.isnan())
    assert torch.equal(grad_x.isnan(), x.isnan())
    ordinary = x.abs() < 100
    assert torch.equal(y[ordinary], clean[ordinary])


@names
@pytest.mark.parametrize("count", [7, MANY])
def test_second_derivatives(name: str, count: int) -> None:
    x, grad = torch.randn(count).requires_grad_(), torch.randn(count).requires_grad_()
    results = []
    for function in (lambda x: fused(name, FUNCTIONS[name], x), FUNCTIONS[name]):
        first = gradient(function(x), x, grad, create_graph=True)
        results.append((first, *torch.autograd.grad(first.square().sum(), (x, grad))))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@c_compiles
@names
def test_only_the_input_is_kept(name: str) -> None:
    x, kept = torch.randn(MANY).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor):
        fused(name, FUNCTIONS[name], x)
    assert [tensor.data_ptr() for tensor in kept] == [x.data_ptr()]


@pytest.mark.usefixtures("forgetful")
def test_without_a_compiler_it_is_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false")
    x = torch.randn(MANY)
    assert torch.equal(fused("even", even, x), even(x))


@names
def test_transforms_and_fake_tensors(name: str) -> None:
    x = torch.randn(5, MANY)
    slope = torch.func.vmap(torch.func.grad(lambda x: fused(name, FUNCTIONS[name], x).sum()))(x)
    x.requires_grad_()
    expected = gradient(FUNCTIONS[name](x), x, torch.ones_like(x))
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-5)
    with FakeTensorMode() as mode:
        y = fused(name, FUNCTIONS[name], mode.from_tensor(x))
        assert y.shape == x.shape
