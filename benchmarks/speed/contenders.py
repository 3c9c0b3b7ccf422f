"""Contenders: our layer, layers of other libraries, and the bare matrix products.

Other libraries are optional dependencies. A layer with several settings is several contenders of
one name; tables show the fastest one that passes the gate.
"""

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.speed.cox_de_boor import CoxDeBoorLinear
from benchmarks.speed.fastkan import RadialLinear
from benchmarks.speed.names import BARE_PRODUCTS, EQUAL_FLOPS, ORIGINAL_LAYER, OURS, SAME_SHAPE
from benchmarks.speed.problem import (
    DTYPES,
    Problem,
    Trial,
    packed_linear,
    plain_linear,
    three_products,
)
from nanogpkant.kan import BACKENDS, BSpline, KANLinear
from nanogpkant.kan.functional import pick_backend

BARE: dict[str, Callable[[Problem], Callable[[], None]]] = {
    BARE_PRODUCTS: three_products,
    EQUAL_FLOPS: packed_linear,
    SAME_SHAPE: plain_linear,
}
PURE = "all bfloat16"


@dataclass(frozen=True)
class Contender:
    """A layer to be timed."""

    name: str
    build: Callable[[Problem], nn.Module]
    """makes the layer, with the problem's weights if it is the same function"""
    weight_grad: Callable[[nn.Module], Tensor]
    """gradient of the weight, (out, M, n) if it is the same function"""
    setting: str = ""
    """setting, if there are several"""
    oracle: Literal["reference", "own formula"] = "reference"
    package: str | None = None
    """name for pip"""
    compiled: bool = False
    """whether torch.compile compiles the whole layer"""
    pure: bool = False
    """weights and inputs in bfloat16 instead of autocast"""
    in_sweeps: bool = True

    def start(self, problem: Problem) -> Trial:
        module = self.build(problem)
        if self.compiled:
            module.compile()
        return Trial(problem, module, self.pure)

    def is_installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None

    def gate(self) -> str:
        """Its oracle, for the table."""
        against = "reference" if self.oracle == "reference" else "its own formula"
        return f"equals {against} in float64"

    def how(self) -> str:
        """Setting and version, for the table."""
        parts = [self.setting] if self.setting else []
        if self.package and self.is_installed():
            parts.insert(0, f"{self.package} {version(self.package)}")
        return ", ".join(parts)


def contenders(problem: Problem, rivals: bool = True, sweep: bool = False) -> list[Contender]:
    """All contenders that can run a problem, ours first."""
    everyone = list(_ours(problem))
    if rivals:
        everyone += _rivals(problem)
    if problem.dtype == "fp32":
        everyone = [c for c in everyone if not c.pure]
    return [c for c in everyone if c.in_sweeps or not sweep]


def _ours(problem: Problem) -> Iterable[Contender]:
    """The backend that "auto" picks, the default that goals refer to, then the others."""
    setting = f"backend {_picked('auto', problem)}"
    yield Contender(OURS, partial(_kan, backend="auto"), _kan_grad, setting)
    yield from (c for c in backend_contenders(problem) if c.setting != setting)


def backend_contenders(problem: Problem) -> list[Contender]:
    """Our layer on every backend that can run a problem."""
    names = [name for name in BACKENDS if name != "auto" and _picked(name, problem)]
    return [
        Contender(
            f"{OURS}, {name}",
            partial(_kan, backend=name),
            _kan_grad,
            f"backend {name}",
            in_sweeps=False,
        )
        for name in names
    ]


def _picked(backend: str, problem: Problem) -> str | None:
    """The backend that would run a problem, or None."""
    device, dtype = torch.device(problem.device), DTYPES[problem.dtype]
    try:
        return pick_backend(backend, device, problem.features, dtype)
    except ValueError:
        return None


def _rivals(problem: Problem) -> Iterable[Contender]:
    """Layers of other libraries of the same size."""
    basis = problem.basis
    if isinstance(basis, BSpline) and basis.outside == "zero":
        recursion = partial(Contender, build=_cox_de_boor, weight_grad=_cox_de_boor_grad)
        yield recursion(ORIGINAL_LAYER, in_sweeps=False)
        compiled = partial(recursion, "Cox-de Boor, compiled", compiled=True, in_sweeps=False)
        yield compiled()
        yield compiled(setting=PURE, pure=True)
        if basis.order == 3 and basis.grid is None:
            yield from _packages()
    radial = partial(Contender, build=_radial, weight_grad=_all_grads, oracle="own formula")
    yield radial("FastKAN's formula, eager", in_sweeps=False)
    compiled = partial(radial, "FastKAN's formula, compiled", compiled=True)
    yield compiled()
    yield compiled(setting=PURE, pure=True)


def _packages() -> Iterable[Contender]:
    """Layers from packages, which compile the basis; also with the whole layer compiled."""
    inkan = partial(Contender, "inkan", weight_grad=_inkan_grad, package="inkan")
    yield inkan(build=partial(_inkan, basis_mode="local"), setting="as documented")
    dense = partial(inkan, build=partial(_inkan, basis_mode="dense", compile_basis=False))
    flashkan = partial(Contender, "flashkan", _flashkan, _flashkan_grad, package="flashkan")
    yield flashkan(setting="as documented")
    for whole in (dense, flashkan):
        yield whole(setting="whole layer compiled", compiled=True)
        yield whole(setting=f"whole layer compiled, {PURE}", compiled=True, pure=True)


def _kan(problem: Problem, backend: str) -> KANLinear:
    return problem.layer(backend)


def _kan_grad(layer: KANLinear) -> Tensor:
    return layer.weight.grad


def _cox_de_boor(problem: Problem) -> CoxDeBoorLinear:
    return CoxDeBoorLinear(problem.layer())


def _cox_de_boor_grad(layer: CoxDeBoorLinear) -> Tensor:
    return _unpacked(layer.base_weight.grad, layer.spline_weight.grad)


def _unpacked(base: Tensor, spline: Tensor) -> Tensor:
    """(out, n) and (out, n, K) -> (out, 1 + K, n)."""
    return torch.cat([base.unsqueeze(1), spline.transpose(1, 2)], dim=1)


def _radial(problem: Problem) -> RadialLinear:
    torch.manual_seed(0)
    centres = problem.features.size - 1
    return RadialLinear(problem.inputs, problem.outputs, centres).to(problem.device)


def _all_grads(layer: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in layer.parameters()])


def _inkan(problem: Problem, **settings: object) -> nn.Module:
    import inkan

    grid_size, grid_range = problem.basis.grid_size, problem.basis.grid_range
    layer = inkan.KANLayer(
        problem.inputs, problem.outputs, grid_size, grid_range=grid_range, **settings
    )
    weight = problem.layer().weight.detach().cpu()
    spline = weight[:, 1:].transpose(1, 2).flatten(1)  # inkan: (n, K), then the base
    with torch.no_grad():
        layer.weight.copy_(torch.cat([spline, weight[:, 0]], dim=1))
    return layer.to(problem.device)


def _inkan_grad(layer: nn.Module) -> Tensor:
    spline, base = layer.weight.grad.split(
        [layer.in_features * layer.n_bases, layer.in_features], dim=1
    )
    return _unpacked(base, spline.unflatten(1, (layer.in_features, layer.n_bases)))


def _flashkan(problem: Problem) -> nn.Module:
    import flashkan

    grid_size, grid_range = problem.basis.grid_size, problem.basis.grid_range
    layer = flashkan.KANLayer(problem.inputs, problem.outputs, grid_size, grid_range=grid_range)
    weight = problem.layer().weight.detach()
    with torch.no_grad():
        layer.spline_weight.copy_(weight[:, 1:].transpose(1, 2))
        layer.base_weight.copy_(weight[:, 0])
    return layer.to(problem.device)


def _flashkan_grad(layer: nn.Module) -> Tensor:
    return _unpacked(layer.base_weight.grad, layer.spline_weight.grad)
