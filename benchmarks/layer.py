"""One KAN layer, forward and backward: ours, the eager recursion, and the bare matrix product.

    python benchmarks/layer.py --rows 16384 --inputs 192 --outputs 768

A time is printed only for a layer whose output and gradients equal those of the eager recursion.
The bare product has the same FLOPs (a plain linear layer M times as wide) and no features to make;
the limit is those FLOPs at the machine's measured matrix product rate.
"""

from collections.abc import Callable
from itertools import product

import torch
from cox_de_boor import CoxDeBoorLinear
from timing import arguments, interleaved, matmul_rate, report
from torch import Tensor, nn

from nanogpkant.kan import KANLinear

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Largest difference that is only rounding, as a share of the largest value.
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2}


def main() -> None:
    options = arguments(__doc__.splitlines()[0], rows=16384, inputs=192, outputs=768)
    device = torch.device(options.device)
    torch.manual_seed(0)
    x = torch.randn(options.rows, options.inputs, device=device, requires_grad=True)
    grad = torch.randn(options.rows, options.outputs, device=device)
    layer = KANLinear(options.inputs, options.outputs, device=device)
    eager = CoxDeBoorLinear(layer)
    expected = run(eager, x, grad, torch.float32)

    tasks = {"eager Cox-de Boor, fp32": step(eager, x, grad, torch.float32)}
    for (name, dtype), backend in product(DTYPES.items(), ("reference", "recompute")):
        ours = KANLinear(options.inputs, options.outputs, backend=backend, device=device)
        ours.load_state_dict(layer.state_dict())
        check(f"{backend}, {name}", run(ours, x, grad, dtype), expected, TOLERANCE[name])
        tasks[f"KANLinear {backend}, {name}"] = step(ours, x, grad, dtype)
    packed = layer.weight[0].numel()  # M * n
    for name, dtype in DTYPES.items():
        bare = nn.Linear(packed, options.outputs, bias=False, device=device, dtype=dtype)
        wide = torch.randn(options.rows, packed, device=device, dtype=dtype, requires_grad=True)
        tasks[f"bare product, {name}"] = step(bare, wide, grad, torch.float32)

    times = interleaved(tasks, options.repeats, device)
    slow = times["eager Cox-de Boor, fp32"].median
    flops = 3 * 2 * options.rows * packed * options.outputs
    limit = {name: 1000 * flops / matmul_rate(dtype, device) for name, dtype in DTYPES.items()}
    rows = [
        {
            "layer": name,
            "ms": timing.median,
            "fastest": timing.fastest,
            "slowest": timing.slowest,
            "speed-up over eager": slow / timing.median,
            "times the limit": timing.median / limit[name[-4:]],
        }
        for name, timing in times.items()
    ]
    shape = f"{options.rows} x {options.inputs} -> {options.outputs}"
    report(f"KAN layer, forward + backward, {shape}", rows, options)


def run(layer: nn.Module, x: Tensor, grad: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Output, input gradient and, as (out, M, n), weight gradient."""
    step(layer, x, grad, dtype)()
    with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
        y = layer(x).detach()
    if isinstance(layer, KANLinear):
        return [y, x.grad.clone(), layer.weight.grad]
    spline = layer.spline_weight.grad.transpose(1, 2)
    return [y, x.grad.clone(), torch.cat([layer.base_weight.grad[:, None], spline], 1)]


def step(layer: nn.Module, x: Tensor, grad: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """A forward and backward pass, under autocast where dtype is not float32."""

    def task() -> None:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            y = layer(x)
        y.backward(grad.to(y.dtype))

    return task


def check(name: str, got: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Refuse to time a layer that computes something else."""
    for what, a, b in zip(("output", "x.grad", "weight.grad"), got, expected, strict=True):
        error = ((a.float() - b).abs().max() / b.abs().max()).item()
        if not error <= tolerance:
            raise SystemExit(f"{name}: {what} differs by {error:.1e} of its largest value")


if __name__ == "__main__":
    main()
