"""Muon: the matrices inside the blocks take orthogonal steps, all other parameters AdamW's.

A gradient's large directions drown its small ones. Muon gives every direction of a matrix the same
length in a step. It knows what a matrix is: queries, keys and values are three, though one weight
holds them, and a KAN weight has one for each feature of its inputs, whose sizes differ by design.

Source: Jordan et al., Muon (kellerjordan.github.io/posts/muon); that a step has the size of
AdamW's, so that one learning rate serves both, is from Liu et al., *Muon is Scalable for LLM
Training* (arXiv 2502.16982). torch.optim.Muon does the same for weights that are one matrix.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nanogpkant.kan import KANLinear
from nanogpkant.model.attention import Attention
from nanogpkant.model.mlp import MLP

MOMENTUM = 0.95
ITERATIONS = 5  # of Newton and Schulz: singular values above 1/670 of the norm end at 0.7 to 1.2
QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's coefficients, steepest at zero
SIZE = 0.2  # root mean square of AdamW's steps, measured by Liu et al.


class Muon(torch.optim.AdamW):
    """Muon for groups with ``n_stacked`` above 0, AdamW for all others.

    ``n_stacked``, a key of every group: the number of matrices of equal height stacked in each of
    its parameters, (out, in) or (out, M, in), for each of the M features. A step sets the gradients
    of these parameters to None.

    Args:
        groups: of parameters.
        dtype: of the products that make a step orthogonal; bfloat16 is enough where it is fast.
        settings: AdamW's.
    """

    def __init__(self, groups: list[dict], dtype: torch.dtype, **settings: Any) -> None:
        super().__init__(groups, **settings)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of all groups; returns the loss of ``closure``, which may compute gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if group["n_stacked"] and parameter.grad is not None:
                    self._step(parameter, parameter.grad, group)
                    parameter.grad = None  # AdamW passes those without a gradient by
        super().step()
        return loss

    def _step(self, parameter: Tensor, gradient: Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:  # AdamW's names: it cannot load a state without "step"
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
        state["step"] += 1
        mean = state["exp_avg"].lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(mean, MOMENTUM)  # Nesterov's
        step = orthogonal_step(ahead, group["n_stacked"], self.dtype)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(step, alpha=group["lr"])


def orthogonal_step(gradient: Tensor, n_stacked: int, dtype: torch.dtype) -> Tensor:
    """(out, in) or (out, M, in) -> the same: each of its matrices made orthogonal, of AdamW's size.

    Args:
        n_stacked: matrices stacked in the gradient, out / n_stacked rows each.
        dtype: of the products.
    """
    out, n_in = gradient.shape[0], gradient.shape[-1]
    stack = gradient.reshape(n_stacked, out // n_stacked, -1, n_in).transpose(1, 2)
    step = orthogonal(stack.flatten(0, 1).to(dtype)).to(gradient.dtype)
    step = step.view(stack.shape)  # (n_stacked, M, rows, in)
    size = SIZE * math.sqrt(max(step.shape[-2:]))
    return size * step.transpose(1, 2).reshape(gradient.shape)


def orthogonal(matrix: Tensor) -> Tensor:
    """(N, rows, columns) -> the same: U V^T of each matrix U S V^T, roughly.

    Newton and Schulz's iteration, which needs products alone; of a matrix of zeros it makes zeros.
    """
    a, b, c = QUINTIC
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if is_tall else matrix
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # singular values are at most 1
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def matrices_in(model: nn.Module) -> dict[int, int]:
    """Number of matrices stacked in each weight that Muon steps, by the weight's id.

    Those are the projections inside the blocks, plain or KAN. A pruned layer is left to AdamW: an
    orthogonal step would bring back edges that are gone.
    """
    projections = []
    for module in model.modules():
        if isinstance(module, Attention):
            projections += [(module.qkv, 3), (module.out, 1)]
        if isinstance(module, MLP):
            projections += [(module.into, 2 if module.is_gated else 1), (module.out, 1)]
    return {id(p.weight): n for p, n in projections if isinstance(p, nn.Linear | KANLinear)}
