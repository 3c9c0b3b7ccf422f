"""A run's model and data, loaded for inference or for more training."""

from dataclasses import dataclass
from pathlib import Path

import torch

from nanogpkant.base.console import bar
from nanogpkant.base.errors import UserError
from nanogpkant.config import DataConfig, ModelConfig, RunConfig
from nanogpkant.data import TokenData, Tokenizer, ensure
from nanogpkant.kan import kan_layers
from nanogpkant.kan.pruned import like_saved
from nanogpkant.kan.state import coefficients_of, set_features
from nanogpkant.machine.device import memory_of
from nanogpkant.model.counting import count
from nanogpkant.model.gpt import GPT
from nanogpkant.run.checkpoint import Checkpoint, load_checkpoint, tensors_of
from nanogpkant.run.folder import WEIGHTS, RunFolder, open_run


def check_fits(
    config: ModelConfig,
    vocab_size: int,
    bytes_each: int = 4,
    others: int = 0,
    device: torch.device | str = "cpu",
) -> None:
    """Refuse a model that a device surely cannot hold, before anything is allocated.

    Args:
        bytes_each: of a parameter, with all that training keeps beside it.
        others: bytes besides the parameters.

    Raises:
        UserError: that is more than the memory of the device.
    """
    device, parameters = torch.device(device), count(config, vocab_size).parameters
    needed, there = bytes_each * parameters + others, memory_of(device)
    if needed > there:
        problem = f"{parameters:,} parameters need at least {needed / 1e9:,.1f} GB with all beside"
        remedy = "lower --model.n_embd, --model.n_layer or --train.batch_size"
        raise UserError(f"{problem}, and {device} has {there / 1e9:,.1f} GB: {remedy}")


def take_pruned_shape(model: GPT, checkpoint: Checkpoint) -> None:
    """Give a model the layers of a checkpoint that pruning made smaller, not yet filled.

    Raises:
        UserError: their tensors make no layer.
    """
    weights = checkpoint.weights()
    for name, layer in kan_layers(model).items():
        start = f"{name}."
        if f"{start}layer.weight" in weights:
            own = {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
            try:
                model.set_submodule(name, like_saved(layer, own))
            except ValueError as error:
                raise UserError(f"{name} in {checkpoint.folder / WEIGHTS}: {error}") from error


def load_weights(model: GPT, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights into a model, and the grids and shapes that they belong to.

    Raises:
        UserError: a tensor is missing, extra, of another shape, or with values that are not finite.
    """
    take_pruned_shape(model, checkpoint)
    saved, where = checkpoint.features(), checkpoint.folder / WEIGHTS
    weights = tensors_of(checkpoint.weights())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for name, layer in kan_layers(model).items():
        if name in saved:
            parameter, axis = coefficients_of(layer)
            learned = saved[name].coefficient_shape
            held = weights.get(names[id(parameter)], parameter).shape
            size = learned[2] if learned else saved[name].size
            if len(held) <= axis or held[axis] != size:  # before anything of that size is made
                raise UserError(f"{name} in {where} is {tuple(held)}, but its features are {size}")
            try:
                set_features(layer, saved[name])
            except ValueError as error:
                problem = f"{name} in {where}: config.yaml describes another model"
                raise UserError(f"{problem}: {error}") from error
    expected = tensors_of(model.state_dict())
    for name in sorted(weights.keys() ^ expected.keys()):
        problem = "is missing from" if name in expected else "is not expected in"
        raise UserError(f"{name} {problem} {where}: config.yaml describes another model")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, but config.yaml or tokenizer.json make it"
            raise UserError(f"{name} in {where} is {shapes} {tuple(expected[name].shape)}")
        if tensor.is_floating_point() != expected[name].is_floating_point():
            raise UserError(f"{name} in {where} is of {tensor.dtype}: use another checkpoint")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{name} in {where} holds values that are not finite; use another step")
    model.load_state_dict(weights)


@dataclass(frozen=True)
class TrainedModel:
    """A trained model for inference, with its tokenizer and settings."""

    model: GPT
    tokenizer: Tokenizer
    config: RunConfig
    step: int


def load_model(
    name: str | Path, which: str = "best", device: torch.device | str = "cpu"
) -> TrainedModel:
    """Load a run's model for inference, in evaluation mode.

    Raises:
        UserError: no such run or checkpoint, or one that is damaged or does not fit.
    """
    run = open_run(name)
    checkpoint = load_checkpoint(run, which)
    config, tokenizer = run.config(), run.tokenizer()
    check_fits(config.model, tokenizer.vocab_size)
    model = GPT(config.model, tokenizer.vocab_size)
    load_weights(model, checkpoint)
    for layer in kan_layers(model).values():
        layer.fold_scale()
    return TrainedModel(model.to(device).eval(), tokenizer, config, checkpoint.step)


def open_run_data(run: RunFolder, options: DataConfig) -> TokenData:
    """The data that a run was trained on; the text that it was made from may be gone.

    Prepared first where that needs no network, unless the configuration, which may be a stranger's,
    names a text or a folder outside of this one.

    Raises:
        UserError: it is missing, damaged, or no longer the same.
    """
    if not run.data_fingerprint():
        remedy = "convert it again with --data.dataset NAME"
        raise UserError(f"{run.path} was made by nanogpkant convert, without data: {remedy}")
    folder = Path(options.dir) / options.dataset
    if not folder.exists():
        file = "" if options.file is None else f" --file {options.file}"
        here, named = Path().resolve(), [folder, Path(options.file or "x")]
        if not all(here in path.resolve().parents for path in named):
            command = f"nanogpkant prepare {options.dataset} --dir {options.dir}{file}"
            raise UserError(f"there is no data in {folder}: if you trust this run, {command}")
        folder = prepare_data(options)
    data = TokenData.open(folder)
    if data.fingerprint != run.data_fingerprint():
        remedy = "restore that data, or train a new run on this"
        raise UserError(f"{run.path} was trained on other data than {folder} holds: {remedy}")
    if data.tokenizer != run.tokenizer():
        remedy = "restore tokenizer.json"
        raise UserError(f"{data.folder} has another vocabulary than {run.path}: {remedy}")
    return data


def prepare_data(options: DataConfig) -> Path:
    """The folder of a configuration's dataset, prepared first where that needs no network."""
    file = None if options.file is None else Path(options.file)
    with bar(f"preparing {options.dataset}", "bytes") as progress:
        return ensure(options.dataset, Path(options.dir), file, progress)
