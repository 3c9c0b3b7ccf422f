"""A run in training: its parts, how it is opened and resumed, and how it fails.

The loop itself, in ``loop.py``, is the part to read first.
"""

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from nanogpkant.base.console import note, warn
from nanogpkant.base.errors import UsageError, UserError, one_line
from nanogpkant.config import RunConfig, load_config, save_config, with_changes
from nanogpkant.data import Batches, TokenData, check_length
from nanogpkant.machine.device import resolve_device, resolve_dtype
from nanogpkant.machine.distributed import ALONE, World
from nanogpkant.model.gpt import GPT
from nanogpkant.run.checkpoint import Checkpoint, Writer, remove_stray_checkpoints
from nanogpkant.run.folder import RunFolder, open_run
from nanogpkant.run.load import open_run_data, prepare_data
from nanogpkant.run.metrics import read_metrics, write_metrics
from nanogpkant.training.average import WeightAverage
from nanogpkant.training.nonfinite import first_nonfinite
from nanogpkant.training.parallel import is_sharded, own_device
from nanogpkant.training.state import State, load_training
from nanogpkant.training.tracking import OpenTracker, check_trackers


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


def is_to_resume(out: Path, resume: bool | str, overwrite: bool) -> bool:
    """Whether to resume the run in ``out``; otherwise it starts from step 0.

    Args:
        resume: True, False, or "auto", which resumes a run that exists and else starts one.

    Raises:
        UsageError: the run exists, and neither resume nor overwrite is given; or overwrite under
            torchrun, whose restart would delete the progress of this very run.
    """
    if resume == "auto":
        return out.exists()
    if overwrite and out.exists() and "TORCHELASTIC_RUN_ID" in os.environ:
        remedy = f"remove {out} yourself, and give --auto_resume"
        raise UsageError(
            f"--overwrite: torchrun may start this again, which would lose all: {remedy}"
        )
    if out.exists() and not (resume or overwrite):
        raise UsageError(f"{out} exists; --resume continues it, --overwrite replaces it")
    return bool(resume)


def open_all(
    config: RunConfig, out: Path, resume: bool = False, world: World = ALONE
) -> tuple[RunConfig, torch.device, TokenData]:
    """Find the device, the dtype and the data; returns the config with the dtype filled in."""
    with world.together():
        device = own_device(resolve_device(config.train.device), world)
    # Broadcast, because two ranks may measure different dtypes as fast.
    dtype = world.from_main(lambda: resolve_dtype(config.train.dtype, device))
    config = with_changes(config, **{"train.dtype": dtype})
    with world.together():
        check_trackers(config.tracking)
    data = world.main_first(lambda: open_data(config, out, resume))
    if len(set(world.gather(data.fingerprint))) > 1:
        problem = f"the processes see different data in {data.folder}: share that folder"
        raise world.agreed(UserError(problem))
    return config, device, data


def open_data(config: RunConfig, out: Path, resume: bool) -> TokenData:
    """The data of a run; prepared first, where that needs no network."""
    if resume:
        run = open_run(out)
        if run.is_exported:
            remedy = f"--train.init_from {out} starts a new run from its weights"
            raise UserError(f"--resume: {out} is an exported run, weights alone; {remedy}")
        data = open_run_data(run, config.data)
    else:
        data = TokenData.open(prepare_data(config.data))
    if config.train.eval_tokens is not None:
        read = data.val[: config.train.eval_tokens + 1]
        data = replace(data, splits=data.splits | {"val": read})
    check_length(data.train, config.model.block_size, "train")
    check_length(data.val, config.model.block_size, "val")
    return data


def continue_run(
    config: RunConfig,
    out: Path,
    checkpoint: Checkpoint | None,
    model: GPT,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    world: World,
) -> tuple[RunFolder, State]:
    """Resume from a run's last checkpoint, whose weights the model has; without one, from step 0.

    Rows logged after that checkpoint are removed from metrics.jsonl: they will be logged again.

    Raises:
        UserError: no such run, or a damaged checkpoint.
    """
    run, state = open_run(out), State()
    with world.together():
        if checkpoint is not None:
            state = load_training(checkpoint, model, optimizer, average)
    with world.together():
        if world.is_main:
            tidy_run(config, run, state)
    note(f"resuming {out} at step {state.step}")
    return run, state


def tidy_run(config: RunConfig, run: RunFolder, state: State) -> None:
    """Remove everything written after a run's last checkpoint, and save its settings."""
    remove_stray_checkpoints(run, config.train.keep_every)
    for left in (*run.path.glob(".*.tmp-*"), *run.checkpoints.glob(".*.tmp-*")):  # by a kill
        left.unlink(missing_ok=True)
    if not run.metrics_file.exists():
        write_metrics(run.metrics_file, [])
    rows = read_metrics(run.metrics_file)
    kept = [row for row in rows if row["step"] <= state.step] if state.step else []
    due = state.step - state.step % load_config(run.config_file).train.log_interval
    if (last := max((row["step"] for row in kept), default=0)) < due:
        warn(f"{run.metrics_file} ends at step {last}: the rows from there to step {due} are lost")
    write_metrics(run.metrics_file, kept)
    save_config(config, run.config_file)


@contextmanager
def eagerly(model: GPT) -> Iterator[None]:
    """Within, the model runs without torch.compile, which would compile it again to evaluate."""
    compiled, model._compiled_call_impl = model._compiled_call_impl, None
    try:
        yield
    finally:
        model._compiled_call_impl = compiled


def compile_or_explain(model: GPT, batches: Batches, device: torch.device) -> None:
    """Compile the model in place; where torch.compile fails, warn in one line and train without.

    The model is as in training, autocast included: any change would have it compiled again.
    """
    model.compile()
    try:
        model(*batches.batch(0, device)).backward()
    except Exception as error:  # whatever the compiler raises, training can do without it
        reason = one_line(error)[:200]
        warn(f"--train.compile: going on without it, torch.compile failed here: {reason}")
        model._compiled_call_impl = None
    model.zero_grad(set_to_none=True)


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
    found = s.world.gather(first_nonfinite(s.model, x, y))
    # The ranks share one gradient: it is bad on all of them, whoever began.
    began = (r for r, where in enumerate(found) if where.startswith(("the weights", "the output")))
    rank = next(began, 0)
    return found[rank] + (f" on rank {rank}" if s.world.size > 1 else "")
