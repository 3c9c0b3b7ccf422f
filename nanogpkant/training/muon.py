"""Muon: the matrices inside the blocks take orthogonal steps, all other parameters AdamW's.

A gradient's large directions drown its small ones. Muon gives every direction of a matrix the same
length in a step. It knows what a matrix is: queries, keys and values are three, though one weight
holds them, and a KAN weight has one for each feature of its inputs, whose sizes differ by design.

Source: Jordan et al., Muon (kellerjordan.github.io/posts/muon); that a step has the size of
AdamW's, so that one learning rate serves both, is from Liu et al., *Muon is Scalable for LLM
Training* (arXiv 2502.16982). torch.optim.Muon does the same for weights that are one matrix.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from nanogpkant.kan import KANLinear
from nanogpkant.model.attention import Attention
from nanogpkant.model.mlp import MLP

MOMENTUM = 0.95
ITERATIONS = 5  # of Newton and Schulz: singular values above 1/670 of the norm end at 0.7 to 1.2
QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's coefficients, steepest at zero
BATCH = 1 << 25  # numbers of the gradients in one batch: 128 MB
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
            if group["n_stacked"]:
                for parameters in _batches(group["params"]):
                    self._step(parameters, group)
        super().step()
        return loss

    def _step(self, parameters: list[Tensor], group: dict) -> None:
        """Step P parameters of one shape in one batch: small products leave a GPU idle."""
        ahead = torch.stack([self._look_ahead(p) for p in parameters])
        steps = orthogonal_step(ahead, group["n_stacked"], self.dtype)
        for parameter, step in zip(parameters, steps, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.sub_(step, alpha=group["lr"])
            parameter.grad = None  # AdamW passes those without a gradient by

    def _look_ahead(self, parameter: Tensor) -> Tensor:
        """The gradient with Nesterov's momentum."""
        state, gradient = self.state[parameter], cast(Tensor, parameter.grad)
        if not state:  # AdamW's names: it cannot load a state without "step"
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
        state["step"] += 1
        mean = state["exp_avg"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(mean, MOMENTUM)


def _batches(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters with a gradient, of one shape each time, and at most ``BATCH`` numbers."""
    learned = [p for p in parameters if p.grad is not None]
    for shape in dict.fromkeys(p.shape for p in learned):
        alike, count = [p for p in learned if p.shape == shape], max(1, BATCH // shape.numel())
        yield from (alike[first : first + count] for first in range(0, len(alike), count))


def orthogonal_step(gradients: Tensor, n_stacked: int, dtype: torch.dtype) -> Tensor:
    """(P, out, in) or (P, out, M, in) -> the same: each matrix orthogonal, of AdamW's size.

    Args:
        n_stacked: matrices stacked in each of P gradients, out / n_stacked rows each.
        dtype: of the products.
    """
    P, out, n_in = len(gradients), gradients.shape[1], gradients.shape[-1]
    stack = gradients.reshape(P, n_stacked, out // n_stacked, -1, n_in).transpose(2, 3)
    step = orthogonal(stack.flatten(0, 2).to(dtype)).to(gradients.dtype)
    step = step.view(stack.shape)  # (P, n_stacked, M, rows, in)
    size = SIZE * math.sqrt(max(step.shape[-2:]))
    return size * step.transpose(2, 3).reshape(gradients.shape)


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
