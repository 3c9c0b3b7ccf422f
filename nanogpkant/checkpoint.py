"""Run folders: what a run leaves on disk, saved whole or not at all, and verified when read.

    runs/NAME/
      config.yaml         the resolved configuration
      environment.json    versions, device, command, revision, data fingerprint
      metrics.jsonl       one JSON object a row
      tokenizer.json
      checkpoints/step-000250/   model.safetensors, training.pt, manifest.json, and of a run in
                                 shards the optimiser's moments: moments/shard-*.safetensors
      checkpoints/index.json     which is best, which is last
      samples.txt

An exported run is the same folder with one checkpoint's weights in the place of ``checkpoints``:
model.safetensors, and a manifest.json with the hash of every file. It opens wherever a run does.

A checkpoint is written to a temporary folder, flushed, and renamed; then the index is replaced;
then checkpoints that nothing points to any more are removed. Killed between any two of these, the
run goes on from the checkpoint that the index names.
"""

import io
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from nanogpkant.config import DataConfig, RunConfig, load_config, to_yaml
from nanogpkant.console import bar
from nanogpkant.data import TokenData, Tokenizer, ensure, load_tokenizer
from nanogpkant.errors import UsageError, UserError
from nanogpkant.files import (
    fsync_folder,
    read_json,
    read_text,
    write_atomic,
    write_json,
    writing,
)
from nanogpkant.kan import KANLinear
from nanogpkant.kan.features import Features
from nanogpkant.kan.grid import set_features
from nanogpkant.kan.pruned import like_saved
from nanogpkant.manifest import MANIFEST, verify, write_manifest
from nanogpkant.model import GPT
from nanogpkant.pretrained import PREFIX, pretrained_folder

WEIGHTS, TRAINING, SHARDS = "model.safetensors", "training.pt", "moments"
EXPORTED = (WEIGHTS, "config.yaml", "tokenizer.json", "environment.json")
EXPORTED_IF_THERE = ("metrics.jsonl", "samples.txt")
FEATURES = "kan_features"  # key of the weights' metadata: JSON, {layer: its Features.spec}


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def environment_file(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tokenizer_file(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def samples_file(self) -> Path:
        return self.path / "samples.txt"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def index_file(self) -> Path:
        return self.checkpoints / "index.json"

    @property
    def is_exported(self) -> bool:
        """Whether it holds the weights of one checkpoint, and nothing to go on training from."""
        return (self.path / WEIGHTS).exists() or (self.path / MANIFEST).exists()

    def index(self) -> dict[str, str]:
        """{"best": NAME, "last": NAME}, either missing before the first such checkpoint.

        Raises:
            UserError: the index is not what this project writes.
        """
        if not self.index_file.exists():
            return self._index_of_first_checkpoint()
        index = read_json(self.index_file)
        names = index.values() if isinstance(index, dict) else [None]
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise UserError(f"{self.index_file} does not name checkpoints: it was edited")
        return index

    def _index_of_first_checkpoint(self) -> dict[str, str]:
        """Killed between its first checkpoint and the index, a run has only the former."""
        folders = sorted(path.name for path in self.checkpoints.glob("step-*"))
        if len(folders) > 1:
            remedy = 'put it back, or write {"last": "' + folders[-1] + '"} into it'
            raise UserError(
                f"{self.index_file} is missing beside {len(folders)} checkpoints: {remedy}"
            )
        return {"last": folders[0]} if folders else {}

    def environment(self) -> dict[str, Any]:
        """What environment.json says: versions, device, command, data fingerprint.

        Raises:
            UserError: it is missing, or no longer says that.
        """
        environment = read_json(self.environment_file)
        known = isinstance(environment, dict) and environment.get("data_fingerprint")
        if not isinstance(known, str):
            raise UserError(f"{self.environment_file} has no data_fingerprint: it was edited")
        return environment

    def data_fingerprint(self) -> str:
        """Identifies the data that the run was trained on.

        Raises:
            UserError: environment.json does not say.
        """
        return self.environment()["data_fingerprint"]


def open_run(path: Path) -> RunFolder:
    """The run in a folder, trained or exported, or that of a model such as ``pretrained:NAME``.

    Raises:
        UserError: there is none.
    """
    if str(path).startswith(PREFIX):
        path = pretrained_folder(str(path).removeprefix(PREFIX))
    run = RunFolder(path)
    if not run.config_file.is_file():
        raise UserError(f"{path} is not a run: it has no config.yaml; nanogpkant train makes one")
    return run


def create_run(
    path: Path, config: RunConfig, environment: dict[str, Any], tokenizer: Tokenizer
) -> RunFolder:
    """Make a run folder with all that is known before the first step, in one rename.

    Raises:
        UserError: the folder cannot be written.
        UsageError: it exists.
    """
    if path.exists():
        raise UsageError(f"{path} exists; --resume continues it, --overwrite replaces it")
    draft = RunFolder(path.with_name(f".{path.name}.tmp"))
    with writing(path):
        shutil.rmtree(draft.path, ignore_errors=True)
        draft.checkpoints.mkdir(parents=True)
        write_atomic(draft.config_file, to_yaml(config))
        write_json(draft.environment_file, environment)
        tokenizer.save(draft.tokenizer_file)
        draft.metrics_file.touch()
        draft.path.rename(path)
        fsync_folder(path.parent)
    return RunFolder(path)


def remove_run(path: Path) -> None:
    """Delete a run folder, and nothing that is not one.

    Raises:
        UsageError: the folder holds something else.
    """
    if not path.exists():
        return
    if not RunFolder(path).config_file.is_file():
        raise UsageError(
            f"--overwrite: {path} is not a run folder; remove it yourself, or use --out"
        )
    doomed = path.with_name(f".{path.name}.removed")
    with writing(path):
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)  # killed from here on, no half run is left under its name
        shutil.rmtree(doomed)


def save_checkpoint(
    run: RunFolder,
    step: int,
    weights: dict[str, Tensor],
    training: dict[str, Any],
    is_best: bool,
    keep_every: int,
    features: dict[str, str] | None = None,
    shards: Path | None = None,
) -> None:
    """Save a checkpoint, point the index at it and remove those that are no longer wanted.

    Args:
        weights: the model's state.
        training: all else that continuing needs: tensors, numbers, text, lists and dicts.
        is_best: whether the index should call it the best so far; it is always the last.
        keep_every: checkpoints at multiples of this step are kept for good; 0 keeps none.
        features: what ``features_of`` says of the model.
        shards: a folder of files, written to the disk, that becomes a part of the checkpoint.

    Raises:
        UserError: it cannot be written, say on a full disk; earlier checkpoints are untouched.
    """
    folder = run.checkpoints / f"step-{step:06d}"
    draft = run.checkpoints / f".{folder.name}.tmp"
    index = run.index() | {"last": folder.name} | ({"best": folder.name} if is_best else {})
    with writing(folder):
        try:
            draft.mkdir(parents=True)
            if shards is not None:
                shards.rename(draft / SHARDS)
            _write_files(draft, step, weights, training, features or {})
            if folder.exists():  # left by a kill before the index named it
                shutil.rmtree(folder)
            draft.rename(folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        fsync_folder(run.checkpoints)
    write_json(run.index_file, index)
    remove_stray_checkpoints(run, keep_every)


def features_of(model: nn.Module) -> dict[str, str]:
    """The features of every KAN layer, by name, as text: grids change in training."""
    modules = model.named_modules()
    return {name: m.features.spec for name, m in modules if isinstance(m, KANLinear)}


def _write_files(
    folder: Path,
    step: int,
    weights: dict[str, Tensor],
    training: dict[str, Any],
    features: dict[str, str],
) -> None:
    write_weights(folder / WEIGHTS, weights, features)
    buffer = io.BytesIO()
    torch.save(training, buffer)
    write_atomic(folder / TRAINING, buffer.getvalue())
    shards = sorted(f"{SHARDS}/{path.name}" for path in (folder / SHARDS).glob("*"))
    write_manifest(folder, step, (WEIGHTS, TRAINING, *shards))


def write_weights(path: Path, weights: dict[str, Tensor], features: dict[str, str]) -> None:
    """Write a model's state, with what ``features_of`` says of the model, as a safetensors file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    metadata = {"format": "pt", FEATURES: json.dumps(features)}
    # Made in memory and written by ourselves, so that a full disk is one plain OSError.
    write_atomic(path, safetensors.torch.save(tensors, metadata))


def remove_stray_checkpoints(run: RunFolder, keep_every: int) -> None:
    """Remove the checkpoints, whole or half-written, that nothing asks to keep."""
    named = set(run.index().values())
    for folder in run.checkpoints.glob("*step-*"):
        step = folder.name.removeprefix("step-")
        by_rule = keep_every and step.isdigit() and int(step) % keep_every == 0
        if folder.is_dir() and folder.name not in named and not by_rule:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint. ``training`` is read only when asked for."""

    folder: Path
    step: int

    def weights(self) -> dict[str, Tensor]:
        return safetensors.torch.load_file(self.folder / WEIGHTS)

    def features(self) -> dict[str, Features]:
        """The features of every KAN layer; {} in a file that does not say.

        Raises:
            UserError: they are no features.
        """
        with safetensors.safe_open(self.folder / WEIGHTS, "pt") as file:
            specs = (file.metadata() or {}).get(FEATURES, "{}")
        try:
            return {name: Features.from_spec(spec) for name, spec in json.loads(specs).items()}
        except (ValueError, AttributeError, TypeError) as error:
            problem = f"{FEATURES} in {self.folder / WEIGHTS} describes no KAN layers"
            raise UserError(f"{problem}: {error}") from error

    @property
    def shards(self) -> Path | None:
        """The folder of the optimiser's moments, where they were saved in shards."""
        return folder if (folder := self.folder / SHARDS).is_dir() else None

    def training(self) -> dict[str, Any]:
        return torch.load(self.folder / TRAINING, map_location="cpu", weights_only=True)


def load_checkpoint(run: RunFolder, which: str = "best") -> Checkpoint:
    """Find and verify a checkpoint.

    Args:
        which: "best", "last", or the name of a checkpoint's folder, such as step-000250. A run that
            was stopped before an evaluation could call one the best gives its last.

    Raises:
        UserError: there is none, or a file of it is missing or not the one that was saved.
    """
    if run.is_exported:
        step = verify(run.path, EXPORTED, EXPORTED_IF_THERE)
        if which not in ("best", "last", only := f"step-{step:06d}"):
            raise UserError(f"{run.path} has no checkpoint {which}; it is {only} alone")
        return Checkpoint(run.path, step)
    index = run.index()
    if not index:
        raise UserError(f"{run.path} has no checkpoint yet: it was stopped before the first one")
    name = index["last"] if which == "best" and "best" not in index else index.get(which, which)
    folder = run.checkpoints / name
    if Path(name).name != name or not folder.is_dir():
        have = ", ".join([*index, *sorted(p.name for p in run.checkpoints.glob("step-*"))])
        raise UserError(f"{run.path} has no checkpoint {which}; it has {have}")
    return Checkpoint(folder, verify(folder, (WEIGHTS, TRAINING), (f"{SHARDS}/",)))


def take_pruned_shape(model: GPT, checkpoint: Checkpoint) -> None:
    """Give a model the layers of a checkpoint that pruning made smaller, not yet filled.

    Raises:
        UserError: their tensors make no layer.
    """
    weights = checkpoint.weights()
    for name, module in list(model.named_modules()):
        start = f"{name}."
        if isinstance(module, KANLinear) and f"{start}layer.weight" in weights:
            own = {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
            try:
                model.set_submodule(name, like_saved(module, own))
            except ValueError as error:
                raise UserError(f"{name} in {checkpoint.folder / WEIGHTS}: {error}") from error


def load_weights(model: GPT, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights into a model, and the grids and shapes that they belong to.

    Raises:
        UserError: a tensor is missing, extra, of another shape, or with values that are not finite.
    """
    take_pruned_shape(model, checkpoint)
    saved, where = checkpoint.features(), checkpoint.folder / WEIGHTS
    for name, module in model.named_modules():
        if isinstance(module, KANLinear) and name in saved:
            try:
                set_features(module, saved[name])
            except ValueError as error:
                problem = f"{name} in {where}: config.yaml describes another model"
                raise UserError(f"{problem}: {error}") from error
    weights, expected = checkpoint.weights(), model.state_dict()
    for name in sorted(weights.keys() ^ expected.keys()):
        problem = "is missing from" if name in expected else "is not expected in"
        raise UserError(f"{name} {problem} {where}: config.yaml describes another model")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, but config.yaml or tokenizer.json make it"
            raise UserError(f"{name} in {where} is {shapes} {tuple(expected[name].shape)}")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{name} in {where} holds values that are not finite; use another step")
    model.load_state_dict(weights)


@dataclass(frozen=True)
class TrainedModel:
    """What sampling, evaluating and interpreting start from."""

    model: GPT
    tokenizer: Tokenizer
    config: RunConfig
    step: int


def load_model(path: Path, which: str = "best", device: torch.device | str = "cpu") -> TrainedModel:
    """Load a run's model for inference, in evaluation mode.

    Raises:
        UserError: no such run or checkpoint, or one that is damaged or does not fit.
    """
    run = open_run(path)
    checkpoint = load_checkpoint(run, which)
    config, tokenizer = load_config(run.config_file), load_tokenizer(run.tokenizer_file)
    model = GPT(config.model, tokenizer.vocab_size)
    load_weights(model, checkpoint)
    for module in model.modules():
        if isinstance(module, KANLinear):
            module.fold_scale()
    return TrainedModel(model.to(device).eval(), tokenizer, config, checkpoint.step)


def open_run_data(run: RunFolder, options: DataConfig) -> TokenData:
    """The data that a run was trained on; the text that it was made from may be gone.

    Raises:
        UserError: it is missing, damaged, or no longer the same.
    """
    if not run.data_fingerprint():
        remedy = "convert it again with --data.dataset NAME"
        raise UserError(f"{run.path} was made by nanogpkant convert, without data: {remedy}")
    folder = Path(options.dir) / options.dataset
    if not folder.exists():
        folder = prepare_data(options)
    data = TokenData.open(folder)
    if data.fingerprint != run.data_fingerprint():
        remedy = "restore that data, or train a new run on this"
        raise UserError(f"{run.path} was trained on other data than {folder} holds: {remedy}")
    return data


def prepare_data(options: DataConfig) -> Path:
    """The folder of a configuration's dataset, prepared first where that needs no network."""
    file = None if options.file is None else Path(options.file)
    with bar(f"preparing {options.dataset}", "bytes") as progress:
        return ensure(options.dataset, Path(options.dir), file, progress)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last row that a kill cut short is left out.

    Raises:
        UserError: the file cannot be read, or another row is not JSON.
    """
    rows, lines = [], read_text(path).splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number} is not JSON: the file was damaged") from error
        if not isinstance(row, dict) or not {"step", "split"} <= row.keys():
            raise UserError(f"{path}, line {number} is not a row of metrics: the file was edited")
        rows.append(row)
    return rows


def write_metrics(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace a metrics.jsonl, atomically."""
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
