"""Derivatives of derivatives, per-sample gradients and forward mode, with the default backend."""

from collections.abc import Callable

import pytest
import torch
from cases import ATOMS, FIXED, GROUPED
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

from nanogpkant import KAN, BSpline, KANLinear, kan_linear
from nanogpkant.kan import RBF, Features, Shared
from nanogpkant.kan.activation import LearnedActivation
from nanogpkant.kan.bases import load_basis

FEATURES = [FIXED, GROUPED, ATOMS, Features(RBF(), "silu")]


@pytest.fixture
def pinn() -> KAN:
    """u(x, t), twice differentiable in double precision."""
    options = {"basis": BSpline(6, 3, (-2.0, 2.0)), "dtype": torch.float64}
    return KAN([2, 6, 6, 1], **options)


def with_backend(model: nn.Module, backend: str) -> nn.Module:
    for layer in model.modules():
        if isinstance(layer, KANLinear):
            layer.backend = backend
    return model


def u_xx(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """(rows, 2) -> (rows,): the second derivative in the first input, for training by it."""
    (first,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return torch.autograd.grad(first[:, 0].sum(), x, create_graph=True)[0][:, 0]


def test_the_loss_of_a_pinn_has_the_gradients_of_the_reference(pinn: KAN) -> None:
    x, found = torch.randn(40, 2, dtype=torch.float64, requires_grad=True), []
    for backend in ("auto", "reference"):
        loss = (u_xx(with_backend(pinn, backend), x) + 1).square().mean()
        found.append([loss, *torch.autograd.grad(loss, list(pinn.parameters()), allow_unused=True)])
    for own, wanted in zip(*found, strict=True):
        assert (own is None) == (wanted is None)  # the last bias moves no derivative
        if own is not None:
            torch.testing.assert_close(own, wanted, rtol=1e-8, atol=1e-10)


def test_a_third_derivative(pinn: KAN) -> None:
    x, found = torch.randn(5, 2, dtype=torch.float64, requires_grad=True), []
    for backend in ("auto", "reference"):
        second = u_xx(with_backend(pinn, backend), x)
        found.append(torch.autograd.grad(second.sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-10)


def test_a_weight_that_depends_on_the_input_is_no_part_of_its_gradient() -> None:
    found = []
    for backend in ("recompute", "reference"):
        x = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2).requires_grad_()
        weight = x.sin().sum() * torch.ones(2, FIXED.size, 2, dtype=torch.float64)
        y = kan_linear(x, weight, FIXED, backend=backend).square().sum()
        (first,) = torch.autograd.grad(y, x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), x)[0])
    torch.testing.assert_close(*found)


TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "grad of grad": lambda f, x: grad(lambda z: grad(f)(z).square().sum())(x[0]),
    "jacrev": lambda f, x: jacrev(f)(x[0]),
    "jacfwd": lambda f, x: jacfwd(f)(x[0]),
    "hessian": lambda f, x: hessian(f)(x[0]),
    "vmap": lambda f, x: vmap(f)(x),
    "vmap of grad": lambda f, x: vmap(grad(f))(x),
    "vmap of hessian": lambda f, x: vmap(hessian(f))(x),
    "jvp": lambda f, x: jvp(f, (x[0],), (torch.ones_like(x[0]),))[1],
    "jvp of grad": lambda f, x: jvp(grad(f), (x[0],), (torch.ones_like(x[0]),))[1],
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("features", FEATURES, ids=repr)
def test_transforms_agree_with_those_of_the_reference(features, problem, transform) -> None:
    case = problem(features)
    weight, coefficients = case.weight.detach(), case.coefficients
    numbers = None if coefficients is None else coefficients.detach()

    def by(backend: str) -> Tensor:
        def function(x: Tensor) -> Tensor:
            y = kan_linear(x, weight, features, None, numbers, backend=backend)
            return y.square().sum()

        return TRANSFORMS[transform](function, case.x.detach())

    torch.testing.assert_close(by("auto"), by("reference"))
    assert by("auto").abs().max() > 0


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_of_a_learned_activation(transform) -> None:
    gate = LearnedActivation(Features(Shared(BSpline(3), groups=2), "silu"), dtype=torch.float64)
    nn.init.normal_(gate.coefficients)
    x = torch.randn(5, 4, dtype=torch.float64)
    found = TRANSFORMS[transform](lambda z: gate(z).square().sum(), x)
    numbers = gate.coefficients.detach()
    wanted = TRANSFORMS[transform](lambda z: gate.features.expand(z, numbers).square().sum(), x)
    torch.testing.assert_close(found, wanted)
    assert torch.autograd.gradgradcheck(gate, (x.requires_grad_(),))


def test_gradients_of_every_sample(pinn: KAN) -> None:
    x, parameters = torch.randn(7, 2, dtype=torch.float64), dict(pinn.named_parameters())

    def loss(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(pinn, weights, (row[None],)).square().sum()

    each = vmap(grad(loss), in_dims=(None, 0))({n: p.detach() for n, p in parameters.items()}, x)
    for number in (0, 6):
        own = torch.autograd.grad(pinn(x[number : number + 1]).square().sum(), parameters.values())
        for (name, _), wanted in zip(parameters.items(), own, strict=True):
            torch.testing.assert_close(each[name][number], wanted)


def test_the_slope_of_a_straight_line_of_hats_at_their_knots() -> None:
    layer = KANLinear(1, 1, False, basis=load_basis("hat")(4), base="none")
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 1, 5)[None, :, None])
    knots = torch.tensor([[-0.5], [0.0], [0.5]])
    for slopes in (vmap(jacrev(layer))(knots), vmap(jacfwd(layer))(knots)):
        assert slopes.flatten().tolist() == [1.0, 1.0, 1.0]


def test_a_part_of_a_stack(pinn: KAN) -> None:
    x = torch.randn(5, 2, dtype=torch.float64)
    torch.testing.assert_close(pinn[2](pinn[:2](x)), pinn(x))


def test_forward_mode(pinn: KAN) -> None:
    x, direction = torch.randn(2, 9, 2, dtype=torch.float64)
    with forward_ad.dual_level():
        dual = pinn(forward_ad.make_dual(x, direction))
        tangent = forward_ad.unpack_dual(dual).tangent
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(pinn(x).sum(), x)
    torch.testing.assert_close(tangent, (gradient * direction).sum(1, keepdim=True))


def test_outside_of_transforms_auto_still_saves_only_x(pinn: KAN) -> None:
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()), lambda t: t):
        with_backend(pinn, "auto")(torch.randn(500, 2, dtype=torch.float64))
    assert max(saved) == 500 * 6
