"""Problem: a layer to run forward and backward, and its FLOPs and bytes."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from nanogpkant.kan import Basis, BSpline, Features, KANLinear
from nanogpkant.kan.bases import BASES as REGISTRY
from nanogpkant.kan.bases import make_basis

BASES = [name for name, entry in REGISTRY.items() if not entry.must_be_shared]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def basis_named(name: str, grid_size: int) -> Basis:
    """The largest basis of at most ``grid_size + 3`` functions, the size of cubic B-splines."""
    sizes = range(grid_size + 3, 0, -1)
    bases = (make_basis(name, {"grid_size": n, "degree": n}) for n in sizes)
    return next(basis for basis in bases if basis.size <= grid_size + 3)


@dataclass(frozen=True)
class Problem:
    """Shape, dtype, device, basis and threads of a CPU; picklable for a child process."""

    inputs: int
    outputs: int
    rows: int
    dtype: str = "fp32"
    device: str = "cpu"
    basis: Basis = field(default_factory=BSpline)
    threads: int = field(default_factory=torch.get_num_threads)

    @property
    def shape(self) -> str:
        return f"{self.inputs} -> {self.outputs}"

    def __str__(self) -> str:
        return f"{self.rows:,} x {self.shape}, {self.dtype}"

    def layer(self, backend: str = "auto") -> KANLinear:
        """A layer with the same weights at every call."""
        torch.manual_seed(0)
        options = {"basis": self.basis, "backend": backend, "device": self.device}
        return KANLinear(self.inputs, self.outputs, bias=False, **options)

    @property
    def packed(self) -> int:
        """M * n, the inner size of the layer's matrix product."""
        return self.features.size * self.inputs

    @property
    def features(self) -> Features:
        """Expansion of an input, with the base function."""
        return Features(self.basis)

    def x(self) -> Tensor:
        """(rows, inputs), N(0, 1), in float32 but representable in the problem's dtype.

        So that rounding of the inputs is no error of contenders with inputs of that dtype.
        """
        return self._normal(1, self.inputs)

    def grad(self) -> Tensor:
        """(rows, outputs): gradient of the output."""
        return self._normal(2, self.outputs)

    def _normal(self, seed: int, width: int) -> Tensor:
        random = torch.Generator(device=self.device).manual_seed(seed)
        drawn = torch.randn(self.rows, width, generator=random, device=self.device)
        return drawn.to(DTYPES[self.dtype]).float()

    @property
    def flops(self) -> int:
        """FLOPs of the three products: forward, weight gradient, input gradient."""
        return 3 * 2 * self.rows * self.packed * self.outputs

    @property
    def least_bytes(self) -> int:
        """Bytes of main memory read and written if every tensor moves once per pass.

        Forward reads x and the weight and writes y; backward reads x, the weight and y's gradient,
        and writes the gradients of x and the weight. Activations in the problem's dtype, weights in
        float32.
        """
        number = DTYPES[self.dtype].itemsize
        activations = self.rows * (3 * self.inputs + 2 * self.outputs) * number
        return activations + 3 * self.packed * self.outputs * 4


class Trial:
    """A layer with the tensors of a problem."""

    def __init__(self, problem: Problem, module: nn.Module, pure: bool = False) -> None:
        """``pure``: weights and inputs in the problem's dtype; else float32 with autocast."""
        dtype = DTYPES[problem.dtype]
        self.module = module.to(dtype) if pure else module
        self.x = problem.x().to(dtype if pure else torch.float32).requires_grad_()
        self.grad = problem.grad().to(dtype)
        self.dtype, self.autocast = dtype, dtype != torch.float32 and not pure

    def __call__(self) -> None:
        self.run(self.grad)

    def run(self, grad: Tensor) -> Tensor:
        """Run forward, then backward from this gradient; returns the output."""
        self.drop_gradients()
        with torch.autocast(self.x.device.type, self.dtype, enabled=self.autocast):
            y = self.module(self.x)
        y.backward(grad.to(y.dtype))
        return y.detach()

    def drop_gradients(self) -> None:
        self.module.zero_grad(set_to_none=True)
        self.x.grad = None


def three_products(problem: Problem) -> Callable[[], None]:
    """The three matrix products of a layer on given features."""
    dtype, device = DTYPES[problem.dtype], problem.device
    features = torch.randn(problem.rows, problem.packed, device=device).to(dtype)
    weight = torch.randn(problem.outputs, problem.packed, device=device).to(dtype)
    grad = problem.grad().to(dtype)
    y = torch.empty_like(grad)
    grad_features, grad_weight = torch.empty_like(features), torch.empty_like(weight)

    def task() -> None:
        torch.mm(features, weight.T, out=y)
        torch.mm(grad.T, features, out=grad_weight)
        torch.mm(grad, weight, out=grad_features)

    return task


def packed_linear(problem: Problem) -> Trial:
    """nn.Linear of the same FLOPs on given packed features."""
    wide = replace(problem, inputs=problem.packed)
    return Trial(wide, nn.Linear(wide.inputs, wide.outputs, bias=False, device=problem.device))


def plain_linear(problem: Problem) -> Trial:
    """nn.Linear of the same inputs and outputs, as in a plain GPT."""
    return Trial(
        problem, nn.Linear(problem.inputs, problem.outputs, bias=False, device=problem.device)
    )
