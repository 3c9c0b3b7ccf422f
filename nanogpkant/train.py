"""Training: ``train`` sets a run up, ``fit`` is the loop.

Everything random in a step is a function of the seed and the step's number: the batch is drawn from
(seed, number) and torch is reseeded from (seed, step) for dropout. So a run that is killed and
resumed repeats the uninterrupted one bit for bit, and evaluating more often changes nothing.
"""

import json
import math
import os
import time
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from nanogpkant.checkpoint import (
    RunFolder,
    create_run,
    features_of,
    load_checkpoint,
    load_model,
    load_weights,
    open_run,
    open_run_data,
    prepare_data,
    read_metrics,
    remove_run,
    remove_stray_checkpoints,
    save_checkpoint,
    take_pruned_shape,
    write_metrics,
)
from nanogpkant.config import RunConfig, TrainConfig, save_config, with_changes
from nanogpkant.console import Interrupt, StepProgress, note, warn
from nanogpkant.convert import start_from
from nanogpkant.data import Batches, TokenData, blocks, check_length
from nanogpkant.device import describe, peak_memory, resolve_device, resolve_dtype, synchronize
from nanogpkant.errors import UsageError, UserError
from nanogpkant.evaluate import Evaluation, evaluate
from nanogpkant.files import write_atomic, writing
from nanogpkant.generate import generate
from nanogpkant.grids import change_grids, grid_health, warn_of_grids
from nanogpkant.model import GPT
from nanogpkant.nonfinite import first_nonfinite
from nanogpkant.optim import learning_rate_at, make_optimizer, set_learning_rate
from nanogpkant.tracking import check_trackers, log_row, start_trackers, stop_trackers


@dataclass
class State:
    """Where a run stands. Saved with every checkpoint."""

    step: int = 0
    """optimiser steps done"""
    seconds: float = 0.0
    """time spent in training steps, over all resumptions; evaluating and saving left out"""
    best_val_loss: float = math.inf
    val_loss: float = math.inf
    """of the latest evaluation"""


@dataclass
class Session:
    """A run being trained."""

    config: RunConfig
    run: RunFolder
    data: TokenData
    device: torch.device
    accelerator: Accelerator
    model: GPT
    wrapped: torch.nn.Module
    """the model as accelerate wraps it: what the training step calls"""
    optimizer: torch.optim.Optimizer
    state: State
    batches: Batches
    warned: set[str] = field(default_factory=set)
    """which misfits of grids were warned of"""


def train(
    config: RunConfig, out: Path, resume: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Train a model as configured, into a run folder.

    Args:
        config: the experiment; with ``resume``, the run's own, with any changes made to it.
        out: the run folder.
        resume: continue the run from its last checkpoint, bit for bit on a CPU.
        overwrite: replace the run folder if there is one.

    Returns:
        {"run", "step", "best_val_loss", "val_loss", "seconds", "peak_memory_bytes", "finished"}.

    Raises:
        UserError: bad data, a damaged checkpoint, a full disk, a loss that is not finite.
        UsageError: settings that cannot work, or a run folder that exists.
    """
    if out.exists() and not (resume or overwrite):
        raise UsageError(f"{out} exists; --resume continues it, --overwrite replaces it")
    config, device, accelerator, data = open_all(config, out, resume)
    model = make_model(config, data, out if resume else None)
    optimizer = make_optimizer(model.to(device), config.optim)
    if resume:
        run, state = continue_run(config, out, model, optimizer)
    else:
        if overwrite:
            remove_run(out)
        environment = describe(device) | {"data_fingerprint": data.fingerprint}
        environment |= {"id": uuid.uuid4().hex[:8]}  # of the run, in W&B
        run, state = create_run(out, config, environment, data.tokenizer), State()
    if config.train.compile:
        compile_or_explain(model, data, config, device, accelerator)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    first_step = state.step + 1 if state.step else 0
    start_trackers(accelerator, config, run, first_step, run.environment().get("id"))
    batches = Batches(
        data.train, config.model.block_size, config.train.batch_size, config.train.seed
    )
    fit(Session(config, run, data, device, accelerator, model, wrapped, optimizer, state, batches))

    finished = is_finished(config.train, state)
    if not finished:
        note(f"stopped at step {state.step}; add --resume to the same command to continue")
    elif config.train.sample_tokens:
        write_samples(run, config.train.sample_tokens, config.train.seed, device)
    stop_trackers(accelerator, run, state.step)
    return {
        "run": str(out),
        "step": state.step,
        "best_val_loss": state.best_val_loss if state.best_val_loss < math.inf else None,
        "val_loss": state.val_loss,
        "seconds": round(state.seconds, 3),
        "peak_memory_bytes": peak_memory(device),
        "finished": finished,
    }


def fit(s: Session) -> None:
    """The loop: step, log, evaluate, save, until the last step or Ctrl-C."""
    options, state = s.config.train, s.state
    tokens_per_step = options.batch_size * options.grad_accum_steps * s.config.model.block_size
    logged_step, logged_seconds = state.step, state.seconds

    with StepProgress(state.step, options.max_iters) as progress, Interrupt() as interrupt:
        if state.step == 0:
            validate(s, progress)
            state.best_val_loss = math.inf  # the start is no checkpoint, so it cannot be the best
        while not (is_finished(options, state) or interrupt.asked):
            is_logged = (state.step + 1) % options.log_interval == 0
            is_logged = is_logged or state.step + 1 == options.max_iters

            started = time.perf_counter()
            row = train_step(s, is_logged)
            state.step += 1
            if s.config.grid.changes_at(state.step):
                change(s)
            is_evaluated = state.step % options.eval_interval == 0
            if is_logged or is_evaluated or options.max_seconds:
                synchronize(s.device)
            state.seconds += time.perf_counter() - started
            is_last = is_finished(options, state)
            is_evaluated = is_evaluated or is_last
            progress.update(state.step)

            if is_logged:
                steps, seconds = state.step - logged_step, state.seconds - logged_seconds
                row["tokens_per_second"] = round(steps * tokens_per_step / seconds, 1)
                logged_step, logged_seconds = state.step, state.seconds
                log(s, "train", row)
                progress.show_training(row["loss"], row["lr"], row["tokens_per_second"])

            is_best = is_evaluated and validate(s, progress)
            is_kept = options.keep_every > 0 and state.step % options.keep_every == 0
            wanted = is_best or is_last or is_kept or (is_evaluated and options.always_save)
            if wanted or interrupt.asked:
                progress.update(state.step, doing="saving")
                save(s, is_best)


def is_finished(options: TrainConfig, state: State) -> bool:
    """Whether a run has done all its steps, or used up its time."""
    return state.step >= options.max_iters or state.seconds >= (options.max_seconds or math.inf)


def train_step(s: Session, is_logged: bool) -> dict[str, float]:
    """One optimiser step; returns its row for metrics.jsonl, or {} where that is not wanted."""
    options, step = s.config.train, s.state.step
    time_used = s.state.seconds / (options.max_seconds or math.inf)
    lr = learning_rate_at(step, s.config.optim, options.max_iters, time_used)
    set_learning_rate(s.optimizer, lr)
    torch.manual_seed((options.seed << 32) + step)  # for dropout

    loss = torch.zeros((), device=s.device)
    for micro in range(options.grad_accum_steps):
        x, y = s.batches.batch(step * options.grad_accum_steps + micro, s.device)  # (B, T) each
        part = s.wrapped(x, y) / options.grad_accum_steps
        s.accelerator.backward(part)
        loss += part.detach()
    # A limit of infinity clips nothing and still measures the norm.
    limit = s.config.optim.grad_clip or math.inf
    grad_norm = s.accelerator.clip_grad_norm_(s.model.parameters(), limit)
    # Reading a number from a GPU waits for it, so there the check goes with the log.
    if is_logged or s.device.type == "cpu":
        check_finite(s, float(loss), float(grad_norm), x, y)
    s.optimizer.step()
    s.optimizer.zero_grad(set_to_none=True)
    if not is_logged:
        return {}
    memory = peak_memory(s.device)
    return {"loss": float(loss), "lr": lr, "grad_norm": float(grad_norm), "memory_bytes": memory}


def change(s: Session) -> None:
    """Let the grids follow the inputs of the next batch, or make them finer, and log it."""
    x, y = s.batches.batch(s.state.step * s.config.train.grad_accum_steps, s.device)
    try:
        row = change_grids(s.model, s.optimizer, x, s.config, s.state.step)
    except ValueError as error:  # the run has gone bad since it was last looked at
        raise not_finite(s, str(error), x, y) from error
    log(s, "grid_change", row)


def validate(s: Session, progress: StepProgress) -> bool:
    """Evaluate on the validation split and log it; returns whether it is the best so far."""
    state = s.state
    progress.update(state.step, doing="evaluating")
    result = evaluate(s.model, s.data.val, s.config.train.batch_size)
    if not math.isfinite(result.loss):
        x, y = s.batches.batch(0, s.device)
        raise not_finite(s, f"the validation loss is {result.loss}", x, y)
    is_best = result.loss < state.best_val_loss
    state.val_loss, state.best_val_loss = result.loss, min(result.loss, state.best_val_loss)
    memory = peak_memory(s.device)
    log(s, "val", result.as_dict() | result.halves() | {"memory_bytes": memory})
    look_at_grids(s)
    progress.show_validation(state.step, result.loss, result.perplexity, state.seconds)
    return is_best


def look_at_grids(s: Session) -> None:
    """Log how well the grids fit their inputs, on the first batch of the validation split."""
    x, _ = next(blocks(s.data.val, s.config.model.block_size, s.config.train.batch_size))
    if row := grid_health(s.model, x.to(s.device)):
        log(s, "grid", row)
        if s.state.step:  # before it has learned, a model says little about its inputs
            warn_of_grids(row, s.warned)


def save(s: Session, is_best: bool) -> None:
    """Save a checkpoint of where the run stands, unless its weights have gone bad unnoticed."""
    weights = s.model.state_dict()
    if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
        raise not_finite(s, "a weight is not finite", *s.batches.batch(0, s.device))
    training = asdict(s.state) | {"optimizer": s.optimizer.state_dict()}
    keep_every = s.config.train.keep_every
    features = features_of(s.model)
    save_checkpoint(s.run, s.state.step, weights, training, is_best, keep_every, features)


def evaluate_start(config: RunConfig, out: Path, resume: bool = False) -> Evaluation:
    """For ``train.eval_only``: how good the model is that training would start from.

    Nothing is written. With ``resume`` that model is the last checkpoint of the run in ``out``.
    """
    config, device, accelerator, data = open_all(config, out, resume)
    model = make_model(config, data, out if resume else None)
    if resume:
        load_weights(model, load_checkpoint(open_run(out), "last"))
    model = accelerator.prepare(model.to(device))
    return evaluate(model, data.val, config.train.batch_size)


def open_all(
    config: RunConfig, out: Path, resume: bool = False
) -> tuple[RunConfig, torch.device, Accelerator, TokenData]:
    """Find the device, the dtype and the data; returns the config with the dtype filled in."""
    device = resolve_device(config.train.device)
    dtype = resolve_dtype(config.train.dtype, device)
    config = with_changes(config, **{"train.dtype": dtype})
    accelerator = make_accelerator(config, device, out)
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
    return config, device, accelerator, data


def make_accelerator(config: RunConfig, device: torch.device, out: Path) -> Accelerator:
    """accelerate's handle on device, mixed precision and trackers.

    Raises:
        UserError: a tracker cannot be opened.
        UsageError: started as more than one process.
    """
    check_trackers(config.tracking)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("started as several processes, but training runs in one process so far")
    # accelerate keeps one state for the whole program; a second run in it may want another.
    AcceleratorState._reset_state(reset_partial_state=True)
    if device.index is not None:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    precision = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[config.train.dtype]
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=precision,
        log_with=config.tracking.trackers or None,
        project_dir=str(out),
    )


def make_model(config: RunConfig, data: TokenData, resumed: Path | None = None) -> GPT:
    """The model that training starts from: fresh weights, or those of ``train.init_from``.

    The latter are not needed to resume a run that has a checkpoint of its own.
    """
    torch.manual_seed(config.train.seed)
    model = GPT(config.model, data.vocab_size)
    has_own_weights = resumed is not None and open_run(resumed).index()
    if has_own_weights:  # before there is an optimiser of its parameters
        take_pruned_shape(model, load_checkpoint(open_run(resumed), "last"))
    if config.train.init_from != "scratch" and not has_own_weights:
        start_from(model, config, data)
    return model


def continue_run(
    config: RunConfig, out: Path, model: GPT, optimizer: torch.optim.Optimizer
) -> tuple[RunFolder, State]:
    """Put a run's last checkpoint into model and optimiser; without one, start it again.

    What was logged after that checkpoint is taken off metrics.jsonl: it will be logged again.

    Raises:
        UserError: no such run, or a damaged checkpoint.
    """
    run = open_run(out)
    state = State()
    if run.index():
        checkpoint = load_checkpoint(run, "last")
        load_weights(model, checkpoint)
        training = checkpoint.training()
        kept = ("weight_decay", "betas", "lr_factor")  # as now asked for, not as saved
        configured = [{key: group[key] for key in kept} for group in optimizer.param_groups]
        optimizer.load_state_dict(training.pop("optimizer"))
        for group, settings in zip(optimizer.param_groups, configured, strict=True):
            group.update(settings)
        state = State(**training)
    remove_stray_checkpoints(run, config.train.keep_every)
    if not run.metrics_file.exists():
        warn(f"{run.metrics_file} is gone: going on with an empty one")
        write_metrics(run.metrics_file, [])
    rows = read_metrics(run.metrics_file)
    kept = [row for row in rows if row["step"] <= state.step] if state.step else []
    write_metrics(run.metrics_file, kept)
    save_config(config, run.config_file)
    note(f"resuming {out} at step {state.step}")
    return run, state


def compile_or_explain(
    model: GPT, data: TokenData, config: RunConfig, device: torch.device, accelerator: Accelerator
) -> None:
    """Compile the model in place, or say in one line why that does not work here and go on."""
    batches = Batches(data.train, config.model.block_size, config.train.batch_size, seed=0)
    model.compile()
    try:
        with accelerator.autocast():
            model(*batches.batch(0, device)).backward()
    except Exception as error:  # whatever the compiler raises, training can do without it
        reason = " ".join(str(error).split())[:200]
        warn(f"--train.compile: going on without it, torch.compile failed here: {reason}")
        model._compiled_call_impl = None
    model.zero_grad(set_to_none=True)


def check_finite(s: Session, loss: float, grad_norm: float, x: Tensor, y: Tensor) -> None:
    """Stop on a loss or a gradient that is not finite, before it reaches the weights."""
    if not math.isfinite(loss):
        raise not_finite(s, f"the loss is {loss}", x, y)
    # float16 overflows now and then; its gradient scaler skips such a step.
    if not math.isfinite(grad_norm) and s.config.train.dtype != "float16":
        raise not_finite(s, f"the gradient's norm is {grad_norm}", x, y)


def not_finite(s: Session, what: str, x: Tensor, y: Tensor) -> UserError:
    """The error for a run that went wrong, with where it began and what is left."""
    last = s.run.index().get("last")
    left = f"the last good checkpoint is {s.run.checkpoints / last}" if last else "none was saved"
    where = first_nonfinite(s.model, x, y)
    remedy = "try a lower --optim.learning_rate or --train.dtype float32"
    return UserError(f"step {s.state.step + 1}: {what}, first in {where}; {left}; {remedy}")


def log(s: Session, split: str, values: dict[str, Any]) -> None:
    """Add a row to metrics.jsonl, and its numbers to the trackers."""
    row = {"step": s.state.step, "split": split} | values | {"seconds": round(s.state.seconds, 3)}
    with writing(s.run.metrics_file), open(s.run.metrics_file, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    log_row(s.accelerator, row)


def write_samples(run: RunFolder, tokens: int, seed: int, device: torch.device) -> None:
    """Let the run's best model write a text of its own, into samples.txt."""
    trained = load_model(run.path, "best", device)
    start = trained.tokenizer.encode(trained.tokenizer.start)
    prompt = torch.as_tensor(start.astype("int64"), device=device)[None]
    ids = [int(token) for token in generate(trained.model, prompt, tokens, seed=seed)]
    write_atomic(run.samples_file, trained.tokenizer.decode(ids) + "\n")
