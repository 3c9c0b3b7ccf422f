"""Bounds of the settings, each for a reason, and the one-line errors beyond them."""

import math
import os
from typing import Any

from nanogpkant.base.errors import refuse

LONG = 10**12  # steps, tokens or seconds: no run is longer, and products of two fit an int64
WIDE = 2**20  # one size of a tensor: a square of it in float32 is 4 TB
FINE = 10**4  # functions of an edge, layers: more do not get far in training
BIG = 1e18  # float32 holds its square
MOST: dict[str, float] = {
    **dict.fromkeys(("model.n_embd", "model.n_head", "model.block_size"), WIDE),
    **dict.fromkeys(("model.conv_length", "model.curve.knots"), FINE),
    **dict.fromkeys(("train.batch_size", "train.grad_accum_steps"), WIDE),
    **dict.fromkeys(("model.n_layer", "model.kan.grid_size", "grid.max_size"), FINE),
    **dict.fromkeys(("model.kan.degree", "model.score_degree", "model.mlp_ratio"), 1000),
    **dict.fromkeys(("optim.warmup_iters", "optim.lr_decay_iters", "train.max_iters"), LONG),
    **dict.fromkeys(("train.max_seconds", "train.eval_interval", "train.eval_tokens"), LONG),
    **dict.fromkeys(("train.keep_every", "train.log_interval", "train.sample_tokens"), LONG),
    **dict.fromkeys(("grid.update_every", "grid.until", "optim.decay_iters"), LONG),
    **dict.fromkeys(("optim.learning_rate", "optim.min_lr", "optim.kan_learning_rate"), BIG),
    **dict.fromkeys(("optim.function_learning_rate", "optim.weight_decay"), BIG),
    **dict.fromkeys(("optim.kan_weight_decay", "optim.function_weight_decay"), BIG),
    **dict.fromkeys(("optim.grad_clip", "model.logit_softcap"), BIG),
    "train.timeout": 10**9,  # 30 years; torch counts nanoseconds
}


def at_most(section: str, config: Any) -> None:
    """Refuse settings of a section above their bound in ``MOST``."""
    for key, most in MOST.items():
        where, _, name = key.rpartition(".")
        value = getattr(config, name) if where == section else None
        if value is not None and value > most:
            refuse(key, value, f"must be at most {most:,}")


def path_like(section: str, config: Any, *names: str) -> None:
    """Refuse settings of a section that no file system takes for a path; None is none."""
    for name in names:
        text = getattr(config, name) or ""
        try:
            encoded = os.fsencode(text)
        except UnicodeEncodeError:
            encoded = b"\0"
        if b"\0" in encoded or len(encoded) > 4096 or max(map(len, encoded.split(b"/"))) > 255:
            refuse(f"{section}.{name}", repr(text), "cannot be the path of a file or folder")


def at_least(section: str, config: Any, **minima: float) -> None:
    """Refuse settings of a section that are given and below their minimum, or not finite."""
    for name, least in minima.items():
        value = getattr(config, name)
        if value is not None and not (value >= least and math.isfinite(value)):
            refuse(f"{section}.{name}", value, f"must be at least {least}")


def fraction(section: str, config: Any, *names: str) -> None:
    """Refuse settings of a section that are no fractions below 1."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            refuse(f"{section}.{name}", value, "must be at least 0 and below 1")
