"""Parameter groups, the learning-rate schedule and the optimiser."""

import math

import torch
from torch import nn

from nanogpkant.config import OptimConfig
from nanogpkant.kan import kan_layers
from nanogpkant.kan.curve import DistanceCurve
from nanogpkant.model.positions import Slopes
from nanogpkant.training.muon import Muon, matrices_in


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict]:
    """Split the parameters by weight decay and learning rate.

    Four kinds: plain matrices, KAN weights, functions that KAN edges share or that a head has, and
    everything else.
    Norms, biases and embeddings are not decayed. Nor is ``spline_scale``: it multiplies a KAN
    weight that is, and decaying both would decay their product twice. ``lr_factor`` multiplies the
    scheduled learning rate. For Muon each kind is split by ``n_stacked``, the number of matrices
    stacked in a weight.
    """
    layers = kan_layers(model).values()
    plain = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    curves = [layer for layer in layers if isinstance(layer, DistanceCurve)]
    kan = [layer.weight for layer in layers if layer not in curves]
    functions = [layer.coefficients for layer in layers if layer.coefficients is not None]
    functions += [curve.weight for curve in curves]
    if config.function_learning_rate is not None:  # else old runs number their moments otherwise
        functions += [m.slopes for m in model.modules() if isinstance(m, Slopes)]
    grouped = {id(p) for p in plain + kan + functions}
    others = [p for p in model.parameters() if id(p) not in grouped]
    kan_decay = config.weight_decay if config.kan_weight_decay is None else config.kan_weight_decay

    def group(params: list, weight_decay: float, rate: float | None = None) -> dict:
        factor = 1.0 if rate is None or not config.learning_rate else rate / config.learning_rate
        return {"params": params, "weight_decay": weight_decay, "lr_factor": factor}

    groups = [
        group(plain, config.weight_decay),
        group(kan, kan_decay, config.kan_learning_rate),
        group(functions, config.function_weight_decay, config.function_learning_rate),
        group(others, 0.0),
    ]
    if config.name == "muon":
        matrices = matrices_in(model)
        groups = [part for each in groups for part in _split(each, matrices)]
    return [each for each in groups if each["params"]]


def _split(group: dict, matrices: dict[int, int]) -> list[dict]:
    """One group for each number of stacked matrices; 0 is AdamW's."""
    counts = {id(p): matrices.get(id(p), 0) for p in group["params"]}
    return [
        group | {"params": [p for p in group["params"] if counts[id(p)] == n], "n_stacked": n}
        for n in sorted(set(counts.values()))
    ]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its multiple of the scheduled rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]


def make_optimizer(
    model: nn.Module, config: OptimConfig, dtype: torch.dtype = torch.float32
) -> torch.optim.Optimizer:
    """AdamW in its fused form, one pass over the parameters; or Muon with it.

    ``dtype`` is the dtype of Muon's matrix products: the fast one of the device.
    """
    groups = parameter_groups(model, config)
    settings = {"lr": config.learning_rate, "betas": (config.beta1, config.beta2), "fused": True}
    if config.name == "muon":
        return Muon(groups, dtype, **settings)
    return torch.optim.AdamW(groups, **settings)


def learning_rate_at(
    step: int, config: OptimConfig, max_iters: int, time_used: float = 0.0
) -> float:
    """The rate of the optimiser step that follows ``step`` finished ones.

    Linear warm-up that starts above zero, so that the first step counts, then ``learning_rate``,
    and over the last ``decay_iters`` steps, or over all, a decay to ``min_lr``. Its progress is the
    larger of that in steps and that in ``time_used``, the fraction of ``train.max_seconds``.

    Source: a constant rate with a late decay is from Hu et al., MiniCPM (arXiv 2404.06395).
    """
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / (config.warmup_iters + 1)
    if not config.decay_lr:
        return config.learning_rate
    end = max_iters if config.lr_decay_iters is None else config.lr_decay_iters
    if step >= end:
        return config.min_lr
    start = config.warmup_iters
    if config.decay_iters is not None:
        start = max(start, end - config.decay_iters)
        time_used = (time_used * end - start) / (end - start)
    progress = min(max((step - start) / (end - start), time_used, 0.0), 1.0)
    share = 1 - progress if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.min_lr + share * (config.learning_rate - config.min_lr)
