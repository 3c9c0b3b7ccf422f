"""kan_linear: the operation of a KAN layer. It checks shapes and picks a backend.

The backends that save only x for the backward pass are registered with torch as one operator, which
torch.compile, activation checkpointing and distributed wrappers treat as opaque.
"""

import logging
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from nanogpkant.kan.backends import recompute, reference, triton
from nanogpkant.kan.features import Features

log = logging.getLogger(__name__)

# Backends behind the operator, in the order in which "auto" tries them.
FUSED = {"triton": triton, "recompute": recompute}
BACKENDS = ("auto", *FUSED, "reference")


def kan_linear(
    x: Tensor,
    weight: Tensor,
    features: Features,
    bias: Tensor | None = None,
    coefficients: Tensor | None = None,
    keep: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Apply m * n learned functions: y_j = bias_j + sum_i sum_m weight[j, m, i] * feature_m(x_i).

    Args:
        x: (..., n), floating point.
        weight: (out, M, n): for every edge, the coefficient of each feature of its input.
        features: the expansion of x.
        bias: (out,), optional.
        coefficients: (functions, groups, numbers), parameters of shared functions.
        keep: (..., n), a factor for all features of an input; for dropout of whole inputs.
        backend: "triton" (fused GPU kernels, B-splines on uniform grids), "recompute" (works in
            chunks; everywhere), "reference" (writes out all features; the only one that can be
            differentiated twice), or "auto", the first of these that can run.

    Returns:
        (..., out), in autocast's dtype where autocast is on for x's device, else in x's dtype.

    Raises:
        ValueError: an unknown backend or one that cannot run here, or shapes that do not fit.
        TypeError: x is not floating point.
    """
    if not x.is_floating_point():
        raise TypeError(f"x is {x.dtype}; a KAN layer takes floating-point inputs")
    check_shapes(x, weight, features, coefficients, keep)
    device = "cpu" if x.is_meta else x.device.type  # autocast knows no meta device
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    run = runner(backend, x.device, features, dtype)
    rows = None if keep is None else keep.reshape(-1, x.shape[-1])
    with torch.autocast(device, enabled=False):  # the backends cast by themselves
        y = run(x.reshape(-1, x.shape[-1]), weight, features, coefficients, rows, dtype)
        y = y.view(*x.shape[:-1], weight.shape[0])
        return y if bias is None else y + bias.to(dtype)


def check_shapes(
    x: Tensor, weight: Tensor, features: Features, coefficients: Tensor | None, keep: Tensor | None
) -> None:
    """Refuse shapes that do not fit each other, with ValueError."""
    expected = (weight.shape[0], features.size, x.shape[-1])
    if weight.shape != expected:
        raise ValueError(f"weight is {tuple(weight.shape)}; x and the basis need {expected}")
    shape = None if coefficients is None else tuple(coefficients.shape)
    if shape != features.coefficient_shape:
        raise ValueError(f"coefficients are {shape}; the basis needs {features.coefficient_shape}")
    if x.shape[-1] % features.groups:
        raise ValueError(f"{x.shape[-1]} inputs do not split into {features.groups} groups")
    if keep is not None and keep.shape != x.shape:
        raise ValueError(f"keep is {tuple(keep.shape)}; it needs x's {tuple(x.shape)}")


def runner(
    backend: str, device: torch.device, features: Features, dtype: torch.dtype
) -> Callable[..., Tensor]:
    """The function (rows, n) -> (rows, out) of a backend, called like ``reference.forward``.

    Raises:
        ValueError: see ``pick_backend``.
    """
    if (name := pick_backend(backend, device, features, dtype)) == "reference":
        return reference.forward

    def run(x, weight, features, coefficients, keep, dtype):
        return _kan_linear(x, weight, coefficients, keep, features.spec, name, dtype)

    return run


def pick_backend(backend: str, device: torch.device, features: Features, dtype: torch.dtype) -> str:
    """The backend to run: the one asked for, or for "auto" the first that supports the inputs.

    Raises:
        ValueError: an unknown name, or an unsupported backend, with the reason.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; known are {', '.join(BACKENDS)}")
    if backend == "reference":
        return backend
    reasons = {name: b.unsupported(device, features, dtype) for name, b in FUSED.items()}
    if backend != "auto":
        if reasons[backend]:
            raise ValueError(f"backend {backend!r} cannot run here: {reasons[backend]}")
        return backend
    chosen = next(name for name, reason in reasons.items() if reason is None)
    if not torch.compiler.is_compiling():  # its tracer supports neither logs nor caches
        passed = "".join(f"; not {name}: {reason}" for name, reason in reasons.items() if reason)
        _log_once(features, device, dtype, chosen, passed)
    return chosen


@cache
def _log_once(
    features: Features, device: torch.device, dtype: torch.dtype, chosen: str, passed: str
) -> None:
    log.info("%s on %s in %s: backend %s%s", features.basis, device, dtype, chosen, passed)


@torch.library.custom_op("nanogpkant::kan_linear", mutates_args=())
def _kan_linear(
    x: Tensor,
    weight: Tensor,
    coefficients: Tensor | None,
    keep: Tensor | None,
    features: str,
    backend: str,
    dtype: torch.dtype,
) -> Tensor:
    """(rows, n), (out, M, n) -> (rows, out). ``features`` is a ``Features.spec``."""
    known = Features.from_spec(features)
    return FUSED[backend].forward(x, weight, known, coefficients, keep, dtype)


@_kan_linear.register_fake
def _(x, weight, coefficients, keep, features, backend, dtype):
    return x.new_empty(x.shape[0], weight.shape[0], dtype=dtype)


@torch.library.custom_op("nanogpkant::kan_linear_backward", mutates_args=())
def _kan_linear_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    coefficients: Tensor | None,
    keep: Tensor | None,
    features: str,
    backend: str,
    dtype: torch.dtype,
    needs_x: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and coefficients; empty tensors for those that are not needed."""
    tensors = (x, weight, Features.from_spec(features), coefficients, keep)
    grads = FUSED[backend].backward(grad_y, *tensors, dtype, needs_x, needs_weight)
    grad_x, grad_weight, grad_own = (x.new_empty(0) if grad is None else grad for grad in grads)
    return grad_x, grad_weight, grad_own


@_kan_linear_backward.register_fake
def _(grad_y, x, weight, coefficients, keep, features, backend, dtype, needs_x, needs_weight):
    return (
        x.new_empty(x.shape if needs_x else 0),
        weight.new_empty(weight.shape if needs_weight else 0),
        x.new_empty(0) if coefficients is None else coefficients.new_empty(coefficients.shape),
    )


def _save(ctx, inputs, output):
    x, weight, coefficients, keep, *ctx.constants = inputs
    ctx.save_for_backward(x, weight, coefficients, keep)


def _differentiate(ctx, grad_y):
    x, weight, coefficients, keep = ctx.saved_tensors
    needs_x, needs_weight, needs_coefficients = ctx.needs_input_grad[:3]
    # The gradient of the coefficients comes with that of x.
    needs = (needs_x or needs_coefficients, needs_weight)
    tensors = (x, weight, coefficients, keep)
    grads = _kan_linear_backward(grad_y, *tensors, *ctx.constants, *needs)
    wanted = zip(grads, (needs_x, needs_weight, needs_coefficients), strict=True)
    return *(grad if needed else None for grad, needed in wanted), None, None, None, None


_kan_linear.register_autograd(_differentiate, setup_context=_save)


def _refuse(ctx, *grads):
    raise RuntimeError('only backend="reference" can be differentiated twice')


_kan_linear_backward.register_autograd(_refuse)


# For torch's FlopCounterMode: the matrix products alone, as for other layers.


@register_flop_formula(torch.ops.nanogpkant.kan_linear)
def _flops(x_shape: torch.Size, weight_shape: torch.Size, *args, **kwargs) -> int:
    return 2 * x_shape[0] * weight_shape.numel()


@register_flop_formula(torch.ops.nanogpkant.kan_linear_backward)
def _backward_flops(
    grad_shape: torch.Size, x_shape: torch.Size, weight_shape: torch.Size, *args, **kwargs
) -> int:
    needs_x, needs_weight = args[-2:]
    return 2 * x_shape[0] * weight_shape.numel() * (needs_x + needs_weight)
