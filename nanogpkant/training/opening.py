"""Open a run for training: a new one, or one to resume, with its data, model and optimiser."""

import math
import os
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from nanogpkant.base.console import note, warn
from nanogpkant.base.errors import UsageError, UserError, one_line
from nanogpkant.base.files import check_is_new, is_new
from nanogpkant.config import RunConfig, load_config, save_config, with_changes
from nanogpkant.data import Batches, TokenData, check_length
from nanogpkant.evaluation import Evaluation, evaluate
from nanogpkant.machine.device import (
    DTYPES,
    autocast,
    describe,
    keep_freed_memory,
    resolve_device,
    resolve_dtype,
)
from nanogpkant.machine.distributed import ALONE, World
from nanogpkant.model.gpt import GPT
from nanogpkant.model.initialization import draw_parameters
from nanogpkant.run.checkpoint import Checkpoint, load_checkpoint, remove_stray_checkpoints
from nanogpkant.run.folder import RunFolder, create_run, open_run, remove_run
from nanogpkant.run.load import check_fits, load_weights, open_run_data, prepare_data
from nanogpkant.run.metrics import read_metrics, write_metrics
from nanogpkant.training.average import WeightAverage
from nanogpkant.training.optim import make_optimizer
from nanogpkant.training.parallel import own_device, parallelize, start_world
from nanogpkant.training.session import Session
from nanogpkant.training.state import State, load_training
from nanogpkant.training.tracking import OpenTracker, check_trackers, start_trackers

Start = Callable[[GPT, RunConfig, TokenData], None]


def is_to_resume(out: Path, resume: bool | str, overwrite: bool) -> bool:
    """Whether to resume the run in ``out``; otherwise it starts from step 0.

    Args:
        resume: True, False, or "auto", which resumes a run that exists and else starts one.

    Raises:
        UsageError: the run exists, and neither resume nor overwrite is given; or overwrite under
            torchrun, whose restart would delete the progress of this very run.
    """
    is_there = not is_new(out)
    if resume == "auto":
        return is_there
    if overwrite and is_there and "TORCHELASTIC_RUN_ID" in os.environ:
        remedy = f"remove {out} yourself, and give --auto_resume"
        raise UsageError(
            f"--overwrite: torchrun may start this again, which would lose all: {remedy}"
        )
    if is_there and not (resume or overwrite):
        if not RunFolder(out).config_file.is_file():
            check_is_new(out)
        raise UsageError(f"{out} exists; --resume continues it, --overwrite replaces it")
    return bool(resume)


def open_session(
    world: World,
    config: RunConfig,
    out: Path,
    resume: bool,
    overwrite: bool,
    start: Start | None = None,
) -> Session:
    """Make or open all that training needs; the run folder is made last."""
    config, device, data = open_all(config, out, resume, world)
    keep_freed_memory()
    block_size, options = config.model.block_size, config.train
    batches = Batches(
        data.train, block_size, options.batch_size, options.seed, world.rank, world.size
    )
    with world.together():
        check_memory(config, data.vocab_size, world.size, device)
    checkpoint = last_checkpoint(out, resume, world)
    # Rank 0 first: it may have to download starting weights, which the others then find.
    model = world.main_first(lambda: make_model(config, data, checkpoint, start))
    model.forward = autocast(device, options.dtype)(model.forward)
    with world.together():
        if options.compile:
            compile_or_explain(model.to(device), batches, device)
    wrapped = parallelize(model, options.parallel, world, device)
    optimizer = make_optimizer(model, config.optim, DTYPES[options.dtype])
    average = WeightAverage(model, config.optim.ema_decay) if config.optim.ema_decay else None
    if resume:
        run, state = continue_run(config, out, checkpoint, model, optimizer, average, world)
    else:
        state = State()
        run = world.from_main(lambda: new_run(config, out, overwrite, data, device, world.size))
    scaler = torch.amp.GradScaler(device.type, enabled=options.dtype == "float16")
    if state.scaler:
        scaler.load_state_dict(state.scaler)
    trackers: list[OpenTracker] = []
    with world.together():
        if world.is_main:
            first_step = state.step + 1 if state.step else 0
            run_id = run.environment().get("id")
            trackers = start_trackers(config, run, run.path, first_step, run_id)
    return Session(
        config=config,
        run=run,
        data=data,
        device=device,
        world=world,
        model=model,
        wrapped=wrapped,
        optimizer=optimizer,
        state=state,
        batches=batches,
        scaler=scaler,
        trackers=trackers,
        average=average,
    )


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


def check_memory(config: RunConfig, vocab_size: int, processes: int, device: torch.device) -> None:
    """Refuse a model whose training cannot fit: weights, gradients and one moment in 32 bits."""
    shards = processes if config.train.parallel == "fsdp" else 1
    tokens = math.ceil(config.train.batch_size / processes) * config.model.block_size
    others = tokens * (8 + 2 * vocab_size)  # indices, and logits in 16 bits
    check_fits(config.model, vocab_size, 12 // shards, others, device)


def last_checkpoint(out: Path, resume: bool, world: World) -> Checkpoint | None:
    """The checkpoint to resume from, the same on all ranks; it has the weights and the moments."""
    last = world.from_main(lambda: open_run(out).index().get("last") if resume else None)
    with world.together():
        return load_checkpoint(open_run(out), last) if last else None


def make_model(
    config: RunConfig,
    data: TokenData,
    resumed: Checkpoint | None = None,
    start: Start | None = None,
) -> GPT:
    """A model whose weights come from the seed, ``start``, or a resumed run's checkpoint."""
    model = GPT(config.model, data.vocab_size)
    draw_parameters(model, config.train.seed)
    if resumed is not None:  # before there is an optimiser of its parameters
        load_weights(model, resumed)
    elif start is not None:
        start(model, config, data)
    return model


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


def new_run(
    config: RunConfig,
    out: Path,
    overwrite: bool,
    data: TokenData,
    device: torch.device,
    processes: int,
) -> RunFolder:
    """Create the run folder; ``overwrite`` removes an existing run first."""
    if overwrite:
        remove_run(out)
    environment = describe(device) | {"data_fingerprint": data.fingerprint}
    environment |= {"processes": processes, "id": uuid.uuid4().hex[:8]}  # of the run, in W&B
    return create_run(out, config, environment, data.tokenizer)


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


def evaluate_start(
    config: RunConfig, out: Path, resume: bool | str = False, start: Start | None = None
) -> Evaluation:
    """For ``train.eval_only``: evaluate the model that training would start from.

    Nothing is written. With ``resume`` it is the last checkpoint of the run in ``out``.
    """
    with start_world(config.train) as world:
        resumed = world.from_main(lambda: not is_new(out) if resume == "auto" else bool(resume))
        config, device, data = open_all(config, out, resumed, world)
        checkpoint = last_checkpoint(out, resumed, world)
        with world.together():
            check_fits(config.model, data.vocab_size)
            model = make_model(config, data, checkpoint, start)
        model = model.to(device)
        with autocast(device, config.train.dtype):
            return evaluate(model, data.val, config.train.batch_size, None, world)
