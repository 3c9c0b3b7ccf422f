"""Training: ``train`` sets a run up, ``fit`` is the loop.

Everything random in a step is a function of the seed and the step's number: the batch is drawn from
(seed, number) and torch is reseeded from (seed, step) for dropout. So a run that is killed and
resumed repeats the uninterrupted one bit for bit, and evaluating more often changes nothing.

Several processes run the same loop, each on its rows of every batch: ``s.world`` reduces losses and
the decision to stop over all ranks, so that they are always at the same step.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from nanogpkant.base.console import Interrupt, StepProgress, note
from nanogpkant.base.files import fsync_file, write_atomic, writing
from nanogpkant.base.lock import BusyError, only_writer
from nanogpkant.config import RunConfig, TrainConfig
from nanogpkant.data import blocks
from nanogpkant.evaluation import evaluate
from nanogpkant.generation import generate
from nanogpkant.machine.device import peak_memory, synchronize
from nanogpkant.machine.distributed import World
from nanogpkant.model.dropout import seed_of
from nanogpkant.run.folder import RunFolder
from nanogpkant.run.load import load_model
from nanogpkant.training.grids import change_grids, grid_health, warn_of_grids
from nanogpkant.training.opening import Start, is_to_resume, open_session
from nanogpkant.training.optim import learning_rate_at, set_learning_rate
from nanogpkant.training.parallel import gradient_sync, parallelize, start_world, whole
from nanogpkant.training.session import Session, check_finite, eagerly, not_finite
from nanogpkant.training.state import State, save_training, whole_weights
from nanogpkant.training.tracking import log_row, stop_trackers

WAIT_SECONDS = 1  # between looks at a folder that another process writes


def train(
    config: RunConfig,
    out: Path,
    resume: bool | str = False,
    overwrite: bool = False,
    start: Start | None = None,
    wait: bool = False,
    settle: Callable[[], RunConfig] | None = None,
) -> dict[str, Any]:
    """Train a model as configured, into a run folder that no other process writes meanwhile.

    Args:
        config: the experiment; with ``resume``, the run's own, with any changes made to it.
        out: the run folder, which all processes see.
        resume: continue the run from its last checkpoint, bit for bit on a CPU; "auto"
            resumes a run that exists and else starts one.
        overwrite: replace the run folder if there is one.
        start: gives a fresh model other weights than those drawn from the seed.
        wait: for another process that writes the folder, instead of an error.
        settle: gives the configuration anew once the folder is ours.

    Returns:
        {"run", "step", "best_val_loss", "val_loss", "seconds", "peak_memory_bytes", "finished"}.

    Raises:
        UserError: bad data, a damaged checkpoint, a full disk, a loss that is not finite, another
            process that was lost, or one that writes the same folder.
        UsageError: settings that cannot work, or a run folder that exists.
    """
    with start_world(config.train) as world:
        world.from_main(lambda: is_to_resume(out, resume, overwrite))  # before anything is written
        with only_trainer(world, out, wait):
            config = world.from_main(settle or (lambda: config))  # may make the folder, as a branch
            resume = world.from_main(lambda: is_to_resume(out, resume, overwrite))
            return train_in(open_session(world, config, out, resume, overwrite, start))


@contextmanager
def only_trainer(world: World, out: Path, wait: bool) -> Iterator[None]:
    """Hold the lock of a run folder, on rank 0 for all.

    Raises:
        UserError: another process holds it, unless all ranks are to wait.
    """
    with ExitStack() as held:

        def take() -> str | None:
            try:
                held.enter_context(only_writer(out))
            except BusyError as error:
                if not wait:
                    raise
                return str(error)
            return None

        told = None
        while (busy := world.from_main(take)) is not None:  # the ranks ask together: none times out
            if busy != told:
                note(busy)
            told = busy
            time.sleep(WAIT_SECONDS)
        yield


def train_in(s: Session) -> dict[str, Any]:
    """``train`` within a process group; the wrapped model is freed on return."""
    with s.writer:  # while the folder is ours
        fit(s)
    finished = is_finished(s.config.train, s.state)
    if not finished:
        note(f"stopped at step {s.state.step}; add --resume to the same command to continue")
    with s.world.together():
        if finished and s.world.is_main and s.config.train.sample_tokens:
            write_samples(s.run, s.config.train, s.device)
    if s.world.is_main:
        stop_trackers(s.trackers, s.run, s.state.step)
    return {
        "run": str(s.run.path),
        "step": s.state.step,
        "best_val_loss": s.state.best_val_loss if s.state.best_val_loss < math.inf else None,
        "val_loss": s.state.val_loss,
        "seconds": round(s.state.seconds, 3),
        "peak_memory_bytes": peak_memory(s.device),
        "finished": finished,
    }


def fit(s: Session) -> None:
    """The loop: step, log, evaluate, save, until the last step or Ctrl-C."""
    options, state = s.config.train, s.state
    tokens_per_step = s.config.tokens_per_step
    logged_step, logged_seconds = state.step, state.seconds

    with StepProgress(state.step, options.max_iters) as progress, Interrupt() as interrupt:
        stopping = False
        if state.step == 0:
            validate(s, progress)
            state.best_val_loss = math.inf  # the start is no checkpoint, so it cannot be the best
        while not (is_finished(options, state) or stopping):
            is_logged = (state.step + 1) % options.log_interval == 0
            is_logged = is_logged or state.step + 1 == options.max_iters

            started = time.perf_counter()
            row = train_step(s, is_logged)
            state.step += 1
            if s.average is not None:
                s.average.update(state.step)
            if s.config.grid.changes_at(state.step):
                adapt_grids(s)
            is_evaluated = state.step % options.eval_interval == 0
            if is_logged or is_evaluated:  # other steps count in the next row
                synchronize(s.device)
            seconds = time.perf_counter() - started
            # All ranks stop when one is asked to; a step takes as long as it does on the slowest.
            stopping, seconds, failed = s.world.largest(
                interrupt.asked, seconds, s.writer.has_failed
            )
            if failed:
                finish_writing(s)
            state.seconds += seconds
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
            if wanted or stopping:
                progress.update(state.step, doing="saving")
                with s.averaged():
                    save(s, is_best)
        finish_writing(s)


def finish_writing(s: Session) -> None:
    """Wait for the last checkpoint.

    Raises:
        UserError: it cannot be written.
    """
    with s.world.together():
        s.writer.finish()


def is_finished(options: TrainConfig, state: State) -> bool:
    """Whether a run has done all its steps, or used up its time."""
    return state.step >= options.max_iters or state.seconds >= (options.max_seconds or math.inf)


def train_step(s: Session, is_logged: bool) -> dict[str, float]:
    """One optimiser step; returns its row for metrics.jsonl, or {} unless it is logged."""
    options, step = s.config.train, s.state.step
    time_used = s.state.seconds / (options.max_seconds or math.inf)
    lr = learning_rate_at(step, s.config.optim, options.max_iters, time_used)
    set_learning_rate(s.optimizer, lr)
    torch.manual_seed(seed_of(options.seed, step, s.world.rank))  # for dropout

    loss = torch.zeros((), device=s.device)
    for micro in range(options.grad_accum_steps):
        x, y = s.batches.batch(step * options.grad_accum_steps + micro, s.device)  # (B, T) each
        is_last = micro == options.grad_accum_steps - 1
        with gradient_sync(s.wrapped, is_last):  # once a step, not once a pass
            # Gradients are averaged over ranks, so the loss is weighted by the share of rows.
            part = s.wrapped(x, y) * s.batches.share / options.grad_accum_steps
            s.scaler.scale(part).backward()
        loss += part.detach()
    # A limit of infinity clips nothing and still measures the norm.
    limit = s.config.optim.grad_clip or math.inf
    s.scaler.unscale_(s.optimizer)
    grad_norm = whole(clip_grad_norm_(s.model.parameters(), limit))
    # Reading a number from a GPU waits for it, so there only logged steps are checked.
    if is_logged or s.device.type == "cpu":
        loss = s.world.sum(loss) / s.world.size
        check_finite(s, float(loss), float(grad_norm), x, y)  # pyright: ignore (at least one pass)
    s.scaler.step(s.optimizer)
    s.scaler.update()
    s.optimizer.zero_grad(set_to_none=True)
    if not is_logged:
        return {}
    (memory,) = s.world.largest(peak_memory(s.device))
    row = {"loss": float(loss), "lr": lr, "grad_norm": float(grad_norm)}
    return row | {"memory_bytes": int(memory)}


def adapt_grids(s: Session) -> None:
    """Update grids to the inputs of the next batch, or refine them, and log the change."""
    x, y = s.batches.batch(s.state.step * s.config.train.grad_accum_steps, s.device)
    try:  # each rank has its own rows; the layers reduce them, so that grids stay equal
        row = change_grids(s.model, s.optimizer, x, s.config, s.state.step)
    except ValueError as error:  # inputs that are not finite
        raise not_finite(s, str(error), x, y) from error
    # Parameters have new shapes.
    s.wrapped = parallelize(s.model, s.config.train.parallel, s.world, s.device)
    log(s, "grid_change", row)


def validate(s: Session, progress: StepProgress) -> bool:
    """Evaluate on the validation split and log it; returns whether it is the best so far."""
    state = s.state
    show = partial(progress.show_part, "evaluating")
    with s.averaged(), eagerly(s.model):
        result = evaluate(s.model, s.data.val, s.config.train.batch_size, show, s.world)
    if not math.isfinite(result.loss):
        x, y = s.batches.batch(0, s.device)
        raise not_finite(s, f"the validation loss is {result.loss}", x, y)
    if state.val_tokens not in (None, result.tokens):
        state.best_val_loss = math.inf  # of another text
    is_best = result.loss < state.best_val_loss
    state.val_loss, state.best_val_loss = result.loss, min(result.loss, state.best_val_loss)
    state.val_tokens = result.tokens
    (memory,) = s.world.largest(peak_memory(s.device))
    log(s, "val", result.as_dict() | result.parts() | {"memory_bytes": int(memory)})
    look_at_grids(s)
    progress.show_validation(state.step, result.loss, result.perplexity, state.seconds)
    return is_best


def look_at_grids(s: Session) -> None:
    """Log how well the grids fit their inputs, on the first batch of the validation split."""
    x, _ = next(blocks(s.data.val, s.config.model.block_size, s.config.train.batch_size))
    with eagerly(s.model):
        row = grid_health(s.model, x.to(s.device))
    if row:
        log(s, "grid", row)
        if s.state.step:  # before it has learned, a model says little about its inputs
            warn_of_grids(row, s.warned)


def save(s: Session, is_best: bool) -> None:
    """Begin to save a checkpoint, unless a weight is not finite."""
    finish_writing(s)  # which removes what no checkpoint is made of, such as shards
    weights = whole_weights(s.model)
    is_bad = not all(torch.isfinite(tensor).all() for tensor in weights.values())
    if any(s.world.largest(is_bad)):
        raise not_finite(s, "a weight is not finite", *s.batches.batch(0, s.device))
    if s.world.is_main:  # the rows are there if the checkpoint is
        with writing(s.run.metrics_file):
            fsync_file(s.run.metrics_file)
    s.state.scaler = s.scaler.state_dict()
    kept = is_best, s.config.train.keep_every
    own = s.run, s.state, s.model, weights, s.optimizer
    save_training(*own, *kept, s.world, s.average, s.writer.start)


def log(s: Session, split: str, values: dict[str, Any]) -> None:
    """Append a row to metrics.jsonl and send its numbers to the trackers, on rank 0."""
    if not s.world.is_main:
        return
    row = {"step": s.state.step, "split": split} | values | {"seconds": round(s.state.seconds, 3)}
    with writing(s.run.metrics_file), open(s.run.metrics_file, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    log_row(s.trackers, row)


def write_samples(run: RunFolder, options: TrainConfig, device: torch.device) -> None:
    """Sample from the run's best model into samples.txt."""
    trained = load_model(run.path, "best", device)
    start = trained.tokenizer.encode(trained.tokenizer.start)
    prompt = torch.as_tensor(start.astype("int64"), device=device)[None]
    written = generate(trained.model, prompt, options.sample_tokens, seed=options.seed)
    ids = [int(token) for token in written]
    write_atomic(run.samples_file, trained.tokenizer.decode(ids) + "\n")
