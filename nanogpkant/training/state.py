"""Training state of a checkpoint, besides the weights: progress and the optimiser's moments.

The moments of an unsharded model are in training.pt. With ``--train.parallel fsdp`` every rank
writes its shard as a safetensors file, with torch.distributed.checkpoint. Both kinds load on any
number of processes, sharded or not. The weights are one whole file in either case, which every
command opens.

torch.distributed.checkpoint takes half a second to import, so it is imported where it is needed.
"""

import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from nanogpkant.base.errors import UserError, prefixed
from nanogpkant.machine.distributed import World
from nanogpkant.run.checkpoint import Checkpoint, features_of, save_checkpoint
from nanogpkant.run.folder import RunFolder
from nanogpkant.training.average import WeightAverage
from nanogpkant.training.parallel import is_sharded


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
    val_tokens: int | None = None
    """predictions in that; None in a run of before 2026-12-01"""
    scaler: dict[str, float] = field(default_factory=dict)
    """state of float16's gradient scaler"""


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's state with every tensor whole; of a model in shards on rank 0 alone, else {}."""
    if not is_sharded(model):
        return model.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, Tensor], get_model_state_dict(model, options=options))


def save_training(
    run: RunFolder,
    state: State,
    model: nn.Module,
    weights: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    is_best: bool,
    keep_every: int,
    world: World,
    average: WeightAverage | None,
    run_job: Callable[[Callable[[], None]], object],
) -> None:
    """Save a checkpoint of a run; all ranks call.

    Args:
        weights: result of ``whole_weights``.
        is_best, keep_every, run_job: see ``save_checkpoint``.
        average: in place of the weights in training, which go to training.pt.

    Raises:
        UserError: it cannot be written; earlier checkpoints are untouched.
    """
    shards, saved = None, optimizer.state_dict()
    if is_sharded(model):
        shards = run.checkpoints / f".step-{state.step:06d}.{world.size}-shards.tmp"
        _write_shards(_moments(model, optimizer, saved["state"]), shards, world)
        saved["state"] = {}
    training = asdict(state) | {"optimizer": saved}
    if average is not None:
        training["weights"] = average.values
    with world.together():
        if world.is_main:
            features = features_of(model)
            save_checkpoint(
                run, state.step, weights, training, is_best, keep_every, features, shards, run_job
            )


def load_training(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None = None,
) -> State:
    """Put a checkpoint's moments into an optimiser of the model's parameters.

    Where the checkpoint's weights are an average, the model gets those in training.

    Learning rates, decays and betas stay the optimiser's own: the current settings, not the saved.

    Returns:
        progress of the run at the checkpoint.

    Raises:
        UserError: the moments are another optimiser's, or of other parameters.
    """
    training = checkpoint.training()
    if (weights := training.pop("weights", None)) is not None:
        with prefixed(f"{checkpoint.folder}"):
            (average or WeightAverage(model, 0.0)).restore(weights)
    saved, own = training.pop("optimizer"), optimizer.state_dict()
    groups, moments = saved.get("param_groups"), saved.get("state")
    is_list = isinstance(groups, list) and groups and all(isinstance(g, dict) for g in groups)
    if not (is_list and isinstance(moments, dict)):
        raise UserError(f"{checkpoint.folder} has no moments: use another checkpoint")
    # "matrices": the key's name before 2026-11-29
    was_muon = not {"n_stacked", "matrices"}.isdisjoint(groups[0])
    if was_muon != ("n_stacked" in own["param_groups"][0]):
        problem = "has the moments of another optimiser"
        raise UserError(f"{checkpoint.folder} {problem}: leave --optim.name as it was")
    if [group.get("params") for group in groups] != [g["params"] for g in own["param_groups"]]:
        problem = "has moments of other parameters than the model's"
        remedy = "leave --optim.function_learning_rate as it was"
        raise UserError(f"{checkpoint.folder} {problem}: {remedy}")
    parameters = _numbered(optimizer)
    if checkpoint.shards is not None:
        moments = _read_shards(checkpoint.shards, model, parameters)
    stepped = {n: g.get("n_stacked", 0) for g in own["param_groups"] for n in g["params"]}
    own["state"] = {}
    for number, values in moments.items():
        if number not in stepped:
            raise UserError(f"{checkpoint.folder} has moments of a parameter that there is not")
        keys = ("step", "exp_avg") if stepped[number] else ("step", "exp_avg", "exp_avg_sq")
        like = parameters[number]
        with prefixed(f"moments of parameter {number} in {checkpoint.folder}"):
            _check_moments(values, keys, like)
        own["state"][number] = {key: _sharded_as(v, like) for key, v in values.items()}
    optimizer.load_state_dict(own)
    return _state_from(training, checkpoint)


def _check_moments(values: Any, keys: tuple[str, ...], parameter: nn.Parameter) -> None:
    """Compare moments with their parameter: kernels that read them take its shape for theirs.

    Raises:
        UserError: they are not its moments.
    """
    if not (isinstance(values, dict) and values.keys() == set(keys)):
        raise UserError(f"must be {', '.join(keys)}: use another checkpoint")
    for key, value in values.items():
        shape = torch.Size() if key == "step" else parameter.shape
        if not (isinstance(value, Tensor) and value.shape == shape):
            raise UserError(f"{key} is not of shape {tuple(shape)}: use another checkpoint")
        if value.dtype != parameter.dtype or value.layout != torch.strided:
            raise UserError(f"{key} is not {parameter.dtype}: use another checkpoint")
        whole: Any = value
        part = whole.to_local() if hasattr(whole, "to_local") else whole
        if not torch.isfinite(part).all() or (key != "exp_avg" and (part < 0).any()):
            raise UserError(f"{key} has values that cannot be: use another checkpoint")
        if not part.is_contiguous():  # elements may lie on each other
            values[key] = value.contiguous()


def _state_from(training: dict[str, Any], checkpoint: Checkpoint) -> State:
    """The progress that a checkpoint was saved with.

    Raises:
        UserError: it is none, or of another step.
    """
    try:
        state = State(**training)
        numbers = (state.seconds, state.best_val_loss, state.val_loss)
        is_valid = state.step == checkpoint.step and all(number >= 0 for number in numbers)
        is_valid &= all(0 <= number < math.inf for number in state.scaler.values())
        if state.scaler:  # KeyError if it is none
            torch.amp.GradScaler("cpu").load_state_dict(state.scaler)
        if is_valid and state.seconds < 1e9:  # 30 years, to which a step's time can be added
            return state
    except (TypeError, AttributeError, KeyError):
        pass
    raise UserError(f"{checkpoint.folder}: training.pt is not of that step: use another checkpoint")


def _numbered(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """The parameters in the order in which the optimiser's saved state numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _sharded_as(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """This rank's part of a whole tensor, if it has only a part of the parameter."""
    if hasattr(parameter, "full_tensor") and value.shape == parameter.shape:
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(parameter, DTensor)
        # All ranks have read the same file: nothing has to be sent.
        mesh, placements = parameter.device_mesh, parameter.placements
        return distribute_tensor(value.to(parameter.device), mesh, placements, src_data_rank=None)
    return value


def _moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[int, dict[str, Tensor]]
) -> dict[str, Tensor]:
    """An optimiser's state as tensors by name: {"blocks.0.norm_1.weight/exp_avg": ...}."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    numbered = [names[id(parameter)] for parameter in _numbered(optimizer)]
    return {
        f"{numbered[number]}/{key}": value
        for number, values in state.items()
        for key, value in values.items()
    }


def _write_shards(moments: dict[str, Tensor], folder: Path, world: World) -> None:
    """Write every rank's parts into one folder.

    Raises:
        UserError: on all ranks, where one cannot.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    with world.together():
        if world.is_main:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
    with world.together(), _explaining(f"cannot write {folder}"):
        save(moments, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def _read_shards(
    folder: Path, model: nn.Module, parameters: list[nn.Parameter]
) -> dict[int, dict[str, Any]]:
    """An optimiser's state from shards of any number, in shards where the parameters are.

    Raises:
        UserError: they do not fit the parameters.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    names = dict(model.named_parameters())
    numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
    state: dict[int, dict[str, Any]] = {number: {} for number in range(len(parameters))}
    moments = {}
    try:
        there = reader.read_metadata().state_dict_metadata.items()
    except Exception as error:  # whatever the bytes lead torch to
        raise UserError(f"{folder} cannot be read ({type(error).__name__})") from error
    for saved, found in there:
        name, _, key = saved.rpartition("/")
        parameter, size = names.get(name), getattr(found, "size", None)
        if parameter is None or size not in (torch.Size(()), parameter.shape):
            raise UserError(f"{saved} in {folder} fits no parameter of the model")
        value = torch.zeros(()) if not size else torch.zeros_like(parameter.data)
        moments[saved] = state[numbers[id(parameter)]][key] = value
    with warnings.catch_warnings(), _explaining(f"cannot read {folder}"):
        warnings.simplefilter("ignore", UserWarning)  # of reading alone, where every rank holds all
        load(moments, storage_reader=reader, no_dist=not is_sharded(model))
    return state


@contextmanager
def _explaining(problem: str) -> Iterator[None]:
    """Say in one line why torch.distributed.checkpoint failed, which it does on all ranks at once.

    Raises:
        UserError: it did.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        reasons = (f"rank {rank}: {why[0]}" for rank, why in error.failures.items())
        raise UserError(f"{problem}: {'; '.join(reasons)}") from error
