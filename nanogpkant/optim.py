"""Parameter groups, the learning-rate schedule and the optimiser."""

import math

import torch
from torch import nn

from nanogpkant.config import OptimConfig
from nanogpkant.kan import KANLinear


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict]:
    """Split the parameters by weight decay: plain matrices, KAN weights, and everything else.

    Norms, biases and embeddings are not decayed. Nor is ``spline_scale``: it multiplies a KAN
    weight that is, and decaying both would decay their product twice.
    """
    matrices = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    kan = [m.weight for m in model.modules() if isinstance(m, KANLinear)]
    decayed = {id(p) for p in matrices + kan}
    others = [p for p in model.parameters() if id(p) not in decayed]
    kan_decay = config.weight_decay if config.kan_weight_decay is None else config.kan_weight_decay
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": kan, "weight_decay": kan_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW in its fused form, one pass over the parameters."""
    betas = (config.beta1, config.beta2)
    groups = parameter_groups(model, config)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)


def learning_rate_at(step: int, config: OptimConfig, max_iters: int) -> float:
    """The rate of the optimiser step that follows ``step`` finished ones.

    Linear warm-up that starts above zero, so that the first step counts, then a cosine from
    ``learning_rate`` to ``min_lr``.
    """
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / (config.warmup_iters + 1)
    if not config.decay_lr:
        return config.learning_rate
    end = max_iters if config.lr_decay_iters is None else config.lr_decay_iters
    if step >= end:
        return config.min_lr
    progress = (step - config.warmup_iters) / (end - config.warmup_iters)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.min_lr + cosine * (config.learning_rate - config.min_lr)
