"""Activations without parameters, in one pass over their numbers and one over their gradient's."""

from collections.abc import Callable
from ctypes import CDLL
from typing import Any

import torch
from torch import Tensor

from nanogpkant.kan.backends import native
from nanogpkant.kan.functional import is_transformed


def fused(name: str, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function(x)``; large ones on a CPU in compiled C, where only x is kept for the gradient.

    Args:
        name: of the function in kan/backends/numbers.h.
        function: its specification in torch, which runs where C does not.
        x: any shape.
    """
    if torch.compiler.is_compiling() or is_transformed():
        return function(x)
    library = native.activation(name, x)
    return function(x) if library is None else _Fused.apply(x, library, function)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, library: CDLL, function: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.library, ctx.function = library, function
        return native.activate(library, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,), (grad,) = ctx.saved_tensors, grads
        if torch.is_grad_enabled():  # the gradient will be differentiated
            return (*torch.autograd.grad(ctx.function(x), x, grad, create_graph=True), None, None)
        return native.pull_back_activation(ctx.library, x, grad), None, None
