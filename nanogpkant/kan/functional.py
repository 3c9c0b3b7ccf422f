"""kan_linear: the operation of a KAN layer. It checks shapes and picks a backend.

``reference`` runs under autograd. ``triton`` and ``recompute`` save only x for the backward pass;
they are one operator of torch, opaque to torch.compile and activation checkpointing. Derivatives of
their gradients are those of the reference; inside transforms of torch.func and forward-mode
differentiation, which no operator of torch's library knows, "auto" is the reference itself.
"""

import logging
import math
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad
from torch.utils.flop_counter import register_flop_formula

from nanogpkant.kan.backends import reference, triton
from nanogpkant.kan.backends.fastest import FUSED, fastest
from nanogpkant.kan.backends.reference import Call
from nanogpkant.kan.features import Features

log = logging.getLogger(__name__)

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
            chunks; everywhere), "reference" (writes out all features), or "auto": where triton can
            run, it or recompute, whichever a measurement finds faster (``backends.fastest``), else
            recompute; inside torch.func's transforms and forward-mode differentiation reference.

    Returns:
        (..., out), in autocast's dtype where autocast is on for x's device, else in x's dtype.

    Raises:
        ValueError: an unknown backend or one that cannot run here, or shapes that do not fit.
        TypeError: x is not floating point.
    """
    if not x.is_floating_point():
        raise TypeError(f"x is {x.dtype}; a KAN layer takes floating-point inputs")
    n, expected = x.shape[-1], (weight.shape[0], features.size, x.shape[-1])
    if weight.shape != expected:
        raise ValueError(f"weight is {tuple(weight.shape)}; x and the basis need {expected}")
    shape = None if coefficients is None else tuple(coefficients.shape)
    if shape != features.coefficient_shape:
        raise ValueError(f"coefficients are {shape}; the basis needs {features.coefficient_shape}")
    if n % features.groups:
        raise ValueError(f"{n} inputs do not split into {features.groups} groups")
    if keep is not None and keep.shape != x.shape:
        raise ValueError(f"keep is {tuple(keep.shape)}; it needs x's {tuple(x.shape)}")
    device = "cpu" if x.is_meta else x.device.type  # autocast knows no meta device
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    rows, kept = x.reshape(-1, n), None if keep is None else keep.reshape(-1, n)
    with torch.autocast(device, enabled=False):  # the backends cast by themselves
        y = run(backend, Call(rows, weight, features, coefficients, kept, dtype))
        y = y.view(*x.shape[:-1], weight.shape[0])
        return y if bias is None else y + bias.to(dtype)


def run(backend: str, call: Call) -> Tensor:
    """``kan_linear`` without a bias.

    Raises:
        ValueError: see ``pick_backend``.
    """
    x, weight, features, coefficients, keep, dtype = call
    if backend == "auto" and is_transformed():
        return reference.forward(call)
    name = pick_backend(backend, x.device, features, dtype)
    if name == "reference":
        return reference.forward(call)
    operator = torch.ops.nanogpkant.kan_linear
    return operator(x, weight, coefficients, keep, features.spec, name, dtype)


def is_transformed() -> bool:
    """Whether a transform of torch.func or a level of forward-mode differentiation is open."""
    if torch.compiler.is_compiling():
        return False
    is_dual = forward_ad._current_level >= 0
    return is_dual or peek_interpreter_stack() is not None


def pick_backend(backend: str, device: torch.device, features: Features, dtype: torch.dtype) -> str:
    """The backend to run: the one asked for; "auto" where a measurement at the call decides.

    Raises:
        ValueError: an unknown name, or a backend that cannot run, with the reason.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; known are {', '.join(BACKENDS)}")
    if backend in ("recompute", "reference"):  # they run everywhere
        return backend
    reason = triton.unsupported(device, features, dtype)
    if backend == "triton" and reason:
        raise ValueError(f"backend {backend!r} cannot run here: {reason}")
    if backend == "auto" and not torch.compiler.is_compiling():  # which traces no logs or caches
        chosen = f"recompute; not triton: {reason}" if reason else "by measurement"
        _log_once(features, device, dtype, chosen)
    return "recompute" if reason else backend


@cache
def _log_once(features: Features, device: torch.device, dtype: torch.dtype, chosen: str) -> None:
    log.info("%s on %s in %s: backend %s", features.basis, device, dtype, chosen)


ARGUMENTS = "Tensor x, Tensor weight, Tensor? coefficients, Tensor? keep, str features, str backend"


# torch.library.custom_op is shorter, but its operators import torch._dynamo, for half a second.
KERNEL = "CompositeExplicitAutograd"
torch.library.define("nanogpkant::kan_linear", f"({ARGUMENTS}, ScalarType dtype) -> Tensor")


@torch.library.impl("nanogpkant::kan_linear", KERNEL)
def _forward(x, weight, coefficients, keep, features, backend, dtype):
    """(rows, out). ``features`` is a ``Features.spec``, as operators take no objects."""
    call = Call(x, weight, Features.from_spec(features), coefficients, keep, dtype)
    return _backend(backend, call).forward(call)


def _backend(name: str, call: Call) -> ModuleType:
    return FUSED[fastest(call) if name == "auto" else name]


@torch.library.register_fake("nanogpkant::kan_linear")
def _(x, weight, coefficients, keep, features, backend, dtype):
    return x.new_empty(x.shape[0], weight.shape[0], dtype=dtype)


torch.library.define(
    "nanogpkant::kan_linear_backward",
    f"(Tensor grad_y, {ARGUMENTS}, ScalarType dtype, bool needs_x, bool needs_weight)"
    " -> (Tensor, Tensor, Tensor)",
)


@torch.library.impl("nanogpkant::kan_linear_backward", KERNEL)
def _backward(grad_y, x, weight, coefficients, keep, features, backend, dtype, *needs):
    """Gradients of x, weight and coefficients; empty tensors for those that are not needed."""
    call = Call(x, weight, Features.from_spec(features), coefficients, keep, dtype)
    grads = _backend(backend, call).backward(grad_y, call, *needs)
    return tuple(x.new_empty(0) if grad is None else grad for grad in grads)


@torch.library.register_fake("nanogpkant::kan_linear_backward")
def _(grad_y, x, weight, coefficients, keep, features, backend, dtype, needs_x, needs_weight):
    return (
        x.new_empty(x.shape if needs_x else 0),
        weight.new_empty(weight.shape if needs_weight else 0),
        x.new_empty(0) if coefficients is None else coefficients.new_empty(coefficients.shape),
    )


def _save(ctx, inputs, output):
    *tensors, ctx.features, ctx.backend, ctx.dtype = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad_y):
    needs_x, needs_weight, needs_coefficients, *_ = ctx.needs_input_grad
    needed = needs_x, needs_weight, needs_coefficients
    if torch.is_grad_enabled():  # the gradients are to be differentiated
        grads = _composite(ctx, grad_y, needed)
    else:
        parts = (ctx.features, ctx.backend, ctx.dtype, needs_x or needs_coefficients, needs_weight)
        grads = torch.ops.nanogpkant.kan_linear_backward(grad_y, *ctx.saved_tensors, *parts)
    wanted = zip(grads, needed, strict=True)
    return *(grad if needed else None for grad, needed in wanted), None, None, None, None


def _composite(ctx, grad_y, needed):
    """Gradients by the reference, with a graph of their own; None where not needed."""
    # Copies in the graph: a weight that depends on x is no part of the gradient of x.
    copies: Any = [None if each is None else each.view_as(each) for each in ctx.saved_tensors]
    x, weight, coefficients, keep = copies
    call = Call(x, weight, Features.from_spec(ctx.features), coefficients, keep, ctx.dtype)
    with torch.autocast(x.device.type, enabled=False):
        y = reference.forward(call)
    inputs = [each for each, need in zip(copies, needed, strict=False) if need]
    grads = iter(torch.autograd.grad(y, inputs, grad_y, create_graph=True))
    return tuple(next(grads) if need else None for need in needed)


torch.library.register_autograd("nanogpkant::kan_linear", _differentiate, setup_context=_save)


# For torch's FlopCounterMode: the matrix products alone, as for other layers.


@register_flop_formula(torch.ops.nanogpkant.kan_linear)
def _flops(x_shape, weight_shape, *args, **kwargs) -> int:
    return 2 * x_shape[0] * math.prod(weight_shape)


@register_flop_formula(torch.ops.nanogpkant.kan_linear_backward)
def _backward_flops(grad_shape, x_shape, weight_shape, *args, **kwargs) -> int:
    return _flops(x_shape, weight_shape) * sum(args[-2:])  # needs_x and needs_weight
