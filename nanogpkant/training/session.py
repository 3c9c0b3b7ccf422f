"""A run in training: its parts, and how it fails.

The loop itself, in ``loop.py``, is the part to read first.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nanogpkant.base.errors import UserError
from nanogpkant.config import RunConfig
from nanogpkant.data import Batches, TokenData
from nanogpkant.machine.distributed import World
from nanogpkant.model.gpt import GPT
from nanogpkant.run.checkpoint import Writer
from nanogpkant.run.folder import RunFolder
from nanogpkant.training.average import WeightAverage
from nanogpkant.training.nonfinite import first_nonfinite
from nanogpkant.training.parallel import is_sharded
from nanogpkant.training.state import State
from nanogpkant.training.tracking import OpenTracker


@dataclass
class Session:
    """A run being trained."""

    config: RunConfig
    run: RunFolder
    data: TokenData
    device: torch.device
    world: World
    """its processes"""
    model: GPT
    wrapped: torch.nn.Module
    """the model in DDP or FSDP2, called by the training step; alone, the model itself"""
    optimizer: torch.optim.Optimizer
    state: State
    batches: Batches
    scaler: torch.amp.GradScaler
    """scales the loss of float16 so that small gradients survive; changes nothing otherwise"""
    trackers: list[OpenTracker]
    average: WeightAverage | None
    """of the weights, where ``optim.ema_decay`` asks for one"""
    writer: Writer = field(default_factory=Writer)
    """of checkpoints"""
    warned: set[str] = field(default_factory=set)
    """kinds of misfit of grids that were warned of"""

    def averaged(self) -> AbstractContextManager[None]:
        """Within, the model has the averaged weights, where there is an average."""
        return nullcontext() if self.average is None else self.average.in_place()


@contextmanager
def eagerly(model: GPT) -> Iterator[None]:
    """Within, the model runs without torch.compile, which would compile it again to evaluate."""
    compiled, model._compiled_call_impl = model._compiled_call_impl, None
    try:
        yield
    finally:
        model._compiled_call_impl = compiled


def check_finite(s: Session, loss: float, grad_norm: float, x: Tensor, y: Tensor) -> None:
    """Stop on a loss or gradient that is not finite, before it reaches the weights.

    Both are reduced over all ranks, so that all ranks stop.
    """
    if not math.isfinite(loss):
        raise not_finite(s, f"the loss is {loss}", x, y)
    # float16 overflows now and then; its gradient scaler skips such a step.
    if not math.isfinite(grad_norm) and s.config.train.dtype != "float16":
        raise not_finite(s, f"the gradient's norm is {grad_norm}", x, y)


def not_finite(s: Session, what: str, x: Tensor, y: Tensor) -> UserError:
    """An error that says where values stopped being finite, and names the last checkpoint.

    All ranks call.
    """
    with s.world.together():
        s.writer.finish()
    last = s.run.index().get("last")
    left = f"the last good checkpoint is {s.run.checkpoints / last}" if last else "none was saved"
    remedy = "try a lower --optim.learning_rate or --train.dtype float32"
    told = f"step {s.state.step + 1}: {what}, first in {find_nonfinite(s, x, y)}"
    return s.world.agreed(UserError(f"{told}; {left}; {remedy}"))


def find_nonfinite(s: Session, x: Tensor, y: Tensor) -> str:
    """Where a value first stopped being finite, and on which rank if there are several."""
    if is_sharded(s.model):
        return "a layer that cannot be named while the weights lie in shards"
    with eagerly(s.model):  # hooks are not called in compiled code
        found = s.world.gather(first_nonfinite(s.model, x, y))
    # The ranks share one gradient: it is bad on all of them, whoever began.
    began = (r for r, where in enumerate(found) if where.startswith(("the weights", "the output")))
    rank = next(began, 0)
    return found[rank] + (f" on rank {rank}" if s.world.size > 1 else "")
