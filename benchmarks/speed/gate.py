"""The gate: a layer whose output or gradients are wrong is not timed.

The oracle runs in float64 on the CPU: the reference backend with the same weights or, for a layer
that computes another function by design, its own formula. Rows spread over the batch are compared;
the output gradient is zero on the others, so that these rows determine the weight gradient.
"""

import copy

import torch
from torch import Tensor, nn

from benchmarks.speed.contenders import Contender
from benchmarks.speed.problem import Problem, Trial

# Largest difference due to rounding, relative to the largest value.
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2, "fp16": 1e-2}
SAMPLED_ROWS = 256


class GateError(Exception):
    """A wrong result, and its error."""


def check_against_oracle(contender: Contender, problem: Problem, trial: Trial) -> float:
    """Compare output and gradients with the oracle; returns the largest difference.

    Raises:
        GateError: it is too large, or a result is not finite.
    """
    index = torch.linspace(0, problem.rows - 1, min(SAMPLED_ROWS, problem.rows)).long()
    index = index.to(problem.device)
    grad = torch.zeros_like(trial.grad)
    grad[index] = trial.grad[index]
    y = trial.run(grad)
    got = (y[index], trial.x.grad[index], contender.weight_grad(trial.module))
    expected = _expected(contender, problem, trial, index)
    trial.drop_gradients()
    if not torch.isfinite(y).all():
        raise GateError("output is not finite")
    names = ("output", "gradient of x", "gradient of the weight")
    errors = [_difference(a, b) for a, b in zip(got, expected, strict=True)]
    for name, error in zip(names, errors, strict=True):
        if not error <= TOLERANCE[problem.dtype]:
            raise GateError(f"{name} is off by {error:.0e} of its largest value")
    return max(errors)


def _expected(contender: Contender, problem: Problem, trial: Trial, index: Tensor) -> list[Tensor]:
    if contender.oracle == "reference":
        oracle, weight_grad = problem.layer("reference"), _kan_weight_grad
    else:
        oracle, weight_grad = copy.deepcopy(trial.module), contender.weight_grad
    oracle = oracle.double().cpu()
    x = trial.x.detach()[index].double().cpu().requires_grad_()
    y = oracle(x)
    oracle.zero_grad(set_to_none=True)
    y.backward(trial.grad[index].double().cpu())
    return [y.detach(), x.grad, weight_grad(oracle)]


def _kan_weight_grad(layer: nn.Module) -> Tensor:
    return layer.weight.grad


def _difference(got: Tensor, expected: Tensor) -> float:
    got = got.detach().double().cpu()
    return ((got - expected).abs().max() / expected.abs().max()).item()
