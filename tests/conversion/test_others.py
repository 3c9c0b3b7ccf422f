"""KAN layers of other libraries become ours: outputs and every gradient agree."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nanogpkant as ng
from nanogpkant import KANLinear
from nanogpkant.base.errors import UserError
from nanogpkant.conversion.others import NormedKAN, Products, library_of
from nanogpkant.kan import kan_layers


class Efficient(nn.Module):
    """efficient-kan's layer, of its attributes and written from its formula."""

    def __init__(
        self, n: int, out: int, size: int = 5, order: int = 3, scaled: bool = True
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = n, out
        self.grid_size, self.spline_order = size, order
        knots = torch.arange(-order, size + order + 1) * (2 / size) - 1
        self.register_buffer("grid", knots.expand(n, -1).contiguous())
        self.base_weight = nn.Parameter(torch.randn(out, n))
        self.spline_weight = nn.Parameter(torch.randn(out, n, size + order))
        if scaled:
            self.spline_scaler = nn.Parameter(torch.randn(out, n))
        self.base_activation = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        weight = self.spline_weight
        if hasattr(self, "spline_scaler"):
            weight = weight * self.spline_scaler.unsqueeze(-1)
        base = F.linear(self.base_activation(x), self.base_weight)
        return base + torch.einsum(
            "...ik,oik->...o", cox_de_boor(x, self.grid, self.spline_order), weight
        )


def cox_de_boor(x: Tensor, grid: Tensor, order: int) -> Tensor:
    """(..., n) and (n, knots) -> (..., n, K)."""
    x = x.unsqueeze(-1)
    bases = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
    for k in range(1, order + 1):
        left = (x - grid[:, : -(k + 1)]) / (grid[:, k:-1] - grid[:, : -(k + 1)])
        right = (grid[:, k + 1 :] - x) / (grid[:, k + 1 :] - grid[:, 1:-k])
        bases = left * bases[..., :-1] + right * bases[..., 1:]
    return bases


class Fast(nn.Module):
    """FastKAN's layer, of its attributes and written from its formula."""

    def __init__(self, n: int, out: int, norm: bool = True, base: bool = True) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(n) if norm else None
        self.rbf = nn.Module()
        self.rbf.grid = nn.Parameter(torch.linspace(-2, 2, 8), requires_grad=False)
        self.rbf.denominator = 4 / 7
        self.spline_linear = nn.Linear(n * 8, out, bias=False)
        self.use_base_update, self.base_activation = base, F.silu
        if base:
            self.base_linear = nn.Linear(n, out)

    def forward(self, x: Tensor) -> Tensor:
        z = x if self.layernorm is None else self.layernorm(x)
        bumps = torch.exp(-(((z.unsqueeze(-1) - self.rbf.grid) / self.rbf.denominator) ** 2))
        y = self.spline_linear(bumps.flatten(-2))
        return y + self.base_linear(self.base_activation(x)) if self.use_base_update else y


def assert_same(theirs: Any, ours: nn.Module, n: int, tolerance: float = 1e-5) -> None:
    """Outputs and gradients of the input agree on inputs in and out of the grid."""
    parameter = next(theirs.parameters())
    x = (2 * torch.randn(50, n)).to(parameter.dtype).requires_grad_()
    y = theirs(x)
    wanted = y[0] if isinstance(y, tuple) else y
    found, factor = ours(x), torch.randn_like(wanted)
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    (expected,) = torch.autograd.grad((wanted * factor).sum(), x)
    (gradient,) = torch.autograd.grad((found * factor).sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("scaled", [False, True])
def test_efficient_kan(order: int, scaled: bool) -> None:
    layer = Efficient(4, 3, order=order, scaled=scaled)
    ours = ng.from_efficient_kan(layer)
    assert isinstance(ours, KANLinear)
    assert ours.basis.grid is None  # the fast, uniform one
    assert_same(layer, ours, 4)


@torch.no_grad()
def test_efficient_kan_after_an_update_of_its_grid() -> None:
    layer = Efficient(4, 3).double()
    layer.grid.copy_(layer.grid * 1.5 + torch.linspace(-0.05, 0.05, 12) ** 2)
    ours = ng.from_efficient_kan(layer)
    with torch.enable_grad():
        assert_same(layer, ours, 4, 1e-9)
    layer.grid.copy_(layer.grid * torch.tensor([1, 1.2, 0.7, 2])[:, None])  # one for every input
    ours = ng.from_efficient_kan(layer)
    with torch.enable_grad():
        assert_same(layer, ours, 4, 1e-6)
        assert_same(layer.float(), ng.from_efficient_kan(layer), 4, 1e-4)
    wide = Efficient(200, 2)
    wide.grid.mul_(torch.linspace(1, 2, 200)[:, None])
    with pytest.raises(UserError, match="grids of their own, 2258 knots: 1024"):
        ng.from_efficient_kan(wide)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("base", [False, True])
def test_fastkan(norm: bool, base: bool) -> None:
    layer = Fast(4, 3, norm, base)
    ours = ng.from_fastkan(layer)
    assert isinstance(ours, NormedKAN if norm else KANLinear)
    assert_same(layer, ours, 4)


def test_a_whole_model_of_them() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = nn.Sequential(Efficient(8, 16), Fast(16, 8))
            self.norm = nn.LayerNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.mlp(self.norm(x))

    model = nn.Sequential(Block(), Block())
    x = torch.randn(5, 7, 8)
    before = model(x)
    assert ng.from_kans(model) is model
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-4)
    assert len(kan_layers(model)) == 6
    with pytest.raises(UserError, match=r"no KAN layer .* efficient-kan, FastKAN"):
        ng.from_kans(model)


def test_what_only_looks_like_one_is_refused_and_nothing_changes() -> None:
    class Clamped(Efficient):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clamp(-1, 1))

    model = nn.Sequential(Efficient(4, 4), Clamped(4, 4))
    before = repr(model)
    with pytest.raises(UserError, match="Clamped computes something else than efficient-kan"):
        ng.from_kans(model)
    assert repr(model) == before
    with pytest.raises(UserError, match="Linear is not a layer of efficient-kan: it lacks base_w"):
        ng.from_efficient_kan(nn.Linear(2, 2))
    tanh = Efficient(4, 4)
    tanh.base_activation = nn.Tanh()
    with pytest.raises(UserError, match="Tanh is no base function"):
        ng.from_efficient_kan(tanh)
    narrow = Fast(4, 3)
    narrow.rbf.denominator = 0.1
    with pytest.raises(UserError, match="not the distance of the centres"):
        ng.from_fastkan(narrow)
    assert library_of(KANLinear(3, 2)) is None


@pytest.mark.parametrize("package", ["inkan", "flashkan"])
def test_inkan_and_flashkan_themselves(package: str) -> None:
    library = pytest.importorskip(package)
    options = {"compile_basis": False} if package == "inkan" else {}
    if package == "flashkan":  # its basis without the compiler
        library.layer.bspline_basis = library.basis.bspline_basis_eager
    layer = library.KANLayer(5, 3, grid_size=7, grid_range=(-2.0, 1.5), **options)
    layer.double()  # theirs rounds to 1e-4 in float32
    assert library_of(layer) == package
    assert_same(layer, ng.from_inkan(layer), 5)
    network = library.KANNetwork([4, 6, 2], **options)
    x = torch.randn(9, 4)
    before = network(x)
    torch.testing.assert_close(ng.from_kans(network)(x), before, rtol=1e-4, atol=1e-4)


def test_inkan_of_two_dimensions_is_refused() -> None:
    inkan = pytest.importorskip("inkan")
    with pytest.raises(UserError, match="functions of two inputs"):
        ng.from_inkan(inkan.KANLayer(2, 3, dim=2, compile_basis=False))


def test_pykan_itself() -> None:
    kan = pytest.importorskip("kan.MultKAN")
    torch.set_default_dtype(torch.float64)
    try:
        model = kan.MultKAN(width=[2, 5, 1], grid=4, k=3, seed=1, auto_save=False)
        for each in (*model.node_scale, *model.subnode_scale, *model.node_bias):
            nn.init.normal_(each)
        assert_same(model.act_fun[0], ng.from_pykan(model.act_fun[0]), 2)
        assert_same(model, ng.from_pykan(model), 2)
        model.update_grid(torch.rand(200, 2) * 3 - 1.5)  # every input gets knots of its own
        assert_same(model, ng.from_pykan(model), 2)
        model.fix_symbolic(0, 0, 0, "sin", verbose=False)
        with pytest.raises(UserError, match="layer 0 has symbolic edges"):
            ng.from_pykan(model)
        pruned = kan.MultKAN(width=[2, 3, 1], grid=3, auto_save=False)
        pruned.input_id = torch.tensor([1])
        with pytest.raises(UserError, match="some of its inputs were pruned"):
            ng.from_pykan(pruned)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("arity", [2, 3, [[], [2, 3], []]])
def test_nodes_of_pykan_that_multiply(arity: Any) -> None:
    kan = pytest.importorskip("kan.MultKAN")
    torch.set_default_dtype(torch.float64)
    try:
        model = kan.MultKAN(
            width=[2, [2, 2], 1], grid=3, k=3, mult_arity=arity, seed=1, auto_save=False
        )
        for each in (*model.node_scale, *model.node_bias, *model.subnode_bias):
            nn.init.normal_(each)
        ours = ng.from_pykan(model)
        assert isinstance(ours[1], Products)
        assert_same(model, ours, 2)
    finally:
        torch.set_default_dtype(torch.float32)


def test_products_of_nodes_by_hand() -> None:
    scale, bias = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([0.0, 0.5, 1.0])
    found = Products([2, 3], scale, bias)(torch.arange(1.0, 13).view(2, 6))
    assert found.tolist() == [[1.0, 12.5, -119.0], [7.0, 144.5, -1319.0]]
