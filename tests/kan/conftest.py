"""Fixtures: every kind of features, and problems to run them on."""

import dataclasses
import logging
from collections.abc import Callable, Iterator

import pytest
import torch
from cases import FEATURES
from torch import Tensor

from nanogpkant.kan import BSpline, Features, functional, kan_linear
from nanogpkant.kan.backends import native, recompute


@pytest.fixture(params=FEATURES, ids=repr)
def features(request: pytest.FixtureRequest) -> Features:
    """Parametrized over FEATURES."""
    return request.param


@dataclasses.dataclass
class Problem:
    """Arguments of ``kan_linear`` and a gradient of its output."""

    features: Features
    x: Tensor  # (..., n)
    weight: Tensor  # (out, M, n)
    upstream: Tensor  # (..., out), the gradient of the output
    coefficients: Tensor | None = None
    bias: Tensor | None = None
    keep: Tensor | None = None

    def forward(self, backend: str) -> Tensor:
        return kan_linear(
            self.x, self.weight, self.features, self.bias, self.coefficients, self.keep, backend
        )

    def leaves(self) -> list[Tensor]:
        leaves = (self.x, self.weight, self.coefficients, self.bias)
        return [leaf for leaf in leaves if leaf is not None]

    def run(self, backend: str) -> list[Tensor]:
        """The output and the gradients of x, weight, coefficients and bias."""
        y = self.forward(backend)
        return [y, *torch.autograd.grad(y, self.leaves(), self.upstream.to(y))]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Problem":
        """A problem with ``change`` applied to every tensor."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        tensors = {name: change(v.detach()) for name, v in values.items() if torch.is_tensor(v)}
        for name in tensors.keys() - {"upstream", "keep"}:
            tensors[name].requires_grad_()
        return dataclasses.replace(self, **tensors)


@pytest.fixture
def problem() -> Callable[..., Problem]:
    """Make a problem. x has values far outside and at knots, except at kinks (order 1)."""

    def make(
        features: Features,
        shape: tuple[int, ...] = (7,),
        n: int = 3,
        out: int = 4,
        dtype: torch.dtype = torch.float64,
        keep: bool = False,
    ) -> Problem:
        x = 2 * torch.randn(*shape, n, dtype=torch.float64)
        special = torch.tensor([*special_points(features.basis), -40.0, 40.0], dtype=x.dtype)
        count = min(x.numel() // 2, len(special))
        x.view(-1)[:count] = special[torch.randperm(len(special))[:count]]
        if getattr(features.basis, "order", None) == 1:
            knots = torch.tensor(features.basis.knots, dtype=dtype)
            x[torch.isin(x.to(dtype), knots)] += 0.125
        coefficients = None
        if features.is_learned:
            coefficients = features.start().double()
            coefficients += 0.1 * torch.randn_like(coefficients)
        weight = torch.randn(out, features.size, n, dtype=torch.float64)
        kept = torch.randint(0, 3, x.shape) / 2.0 if keep else None
        upstream, bias = torch.randn(*shape, out), torch.randn(out)
        whole = Problem(features, x, weight, upstream, coefficients, bias, kept)
        return whole.map(lambda tensor: tensor.to(dtype))

    return make


def special_points(basis: object) -> tuple[float, ...]:
    """Knots and centres."""
    basis = getattr(basis, "family", basis)
    if not isinstance(basis, BSpline):
        return *getattr(basis, "grid_range", ()), 0.0
    # At a kink, the slope of either side is right.
    return basis.knots if basis.order > 1 else ()


@pytest.fixture
def chunks_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the rows of a chunk, and eager, native or compiled steps, of the recompute backend."""

    def use(rows: int, kind: str = "eager") -> None:
        def steps(x: Tensor, features: Features, dtype: torch.dtype) -> recompute.Steps:
            n = x.shape[1]
            if kind == "compiled":
                return recompute._compiled_steps(features, n, rows)
            make = {"eager": recompute._eager_steps, "native": recompute._native_steps}[kind]
            return make(features, n)._replace(rows=rows)

        monkeypatch.setattr(recompute, "_steps", steps)

    return use


@pytest.fixture
def forgetful() -> Iterator[None]:
    """Clear caches of compiled code and log messages before and after the test."""
    remembered = functional._log_once, native.compiled, native._library, recompute._compiled_steps
    for function in remembered:
        function.cache_clear()
    yield
    for function in remembered:
        function.cache_clear()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Text that the library has logged so far."""
    caplog.set_level(logging.INFO, "nanogpkant.kan")
    return lambda: caplog.text
