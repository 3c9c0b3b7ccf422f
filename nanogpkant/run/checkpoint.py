"""Checkpoints: saved whole or not at all, verified when read."""

import io
import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from nanogpkant.base.errors import UserError
from nanogpkant.base.files import (
    fsync_folder,
    new_folder,
    parse_json,
    read_json,
    write_atomic,
    write_json,
    writing,
)
from nanogpkant.config import RunConfig, save_config
from nanogpkant.data import Tokenizer
from nanogpkant.kan import kan_layers
from nanogpkant.kan.features import Features
from nanogpkant.kan.state import STATE
from nanogpkant.machine.device import describe
from nanogpkant.run.folder import EXPORTED, EXPORTED_IF_THERE, SHARDS, TRAINING, WEIGHTS, RunFolder
from nanogpkant.run.manifest import MANIFEST, verify, write_manifest

FEATURES = "kan_features"  # key of the weights' metadata: JSON, {layer: its Features.spec}


def save_checkpoint(
    run: RunFolder,
    step: int,
    weights: dict[str, Tensor],
    training: dict[str, Any],
    is_best: bool,
    keep_every: int,
    features: dict[str, str] | None = None,
    shards: Path | None = None,
    run_job: Callable[[Callable[[], None]], object] = lambda job: job(),
) -> None:
    """Save a checkpoint, point the index at it and remove those that are no longer wanted.

    The state is copied, as the bytes of the files, before this returns.

    Args:
        weights: the model's state.
        training: all else that continuing needs: tensors, numbers, text, lists and dicts.
        is_best: whether the index should call it the best so far; it is always the last.
        keep_every: checkpoints at multiples of this step are kept for good; 0 keeps none.
        features: result of ``features_of``.
        shards: a folder of files, written to the disk, that becomes a part of the checkpoint.
        run_job: runs what is left to do, the writing; such as ``Writer.start``.

    Raises:
        UserError: it cannot be written, say on a full disk; earlier checkpoints are untouched.
    """
    buffer = io.BytesIO()
    torch.save(training, buffer)
    files = {WEIGHTS: weights_file(weights, features or {}), TRAINING: buffer.getvalue()}
    run_job(partial(_write_checkpoint, run, step, files, is_best, keep_every, shards))


class Writer:
    """Writes checkpoints in a thread, one after the other; leaving its context waits for them."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[None] | None = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def start(self, job: Callable[[], None]) -> None:
        """Run a job once earlier ones are done."""
        self._last = self._thread.submit(job)

    @property
    def has_failed(self) -> bool:
        """Whether the last job is over, and failed."""
        last = self._last
        return last is not None and last.done() and last.exception() is not None

    def finish(self) -> None:
        """Wait for the last job.

        Raises:
            UserError: it failed.
        """
        if self._last is not None:
            self._last.result()


def _write_checkpoint(
    run: RunFolder,
    step: int,
    files: dict[str, bytes],
    is_best: bool,
    keep_every: int,
    shards: Path | None,
) -> None:
    folder = run.checkpoints / f"step-{step:06d}"
    draft = run.checkpoints / f".{folder.name}.tmp"
    index = run.index() | {"last": folder.name} | ({"best": folder.name} if is_best else {})
    with writing(folder):
        try:
            draft.mkdir(parents=True)
            if shards is not None:
                shards.rename(draft / SHARDS)
            for name, content in files.items():
                write_atomic(draft / name, content)
            names = sorted(f"{SHARDS}/{path.name}" for path in (draft / SHARDS).glob("*"))
            write_manifest(draft, step, (*files, *names))
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
    return {name: layer.features.spec for name, layer in kan_layers(model).items()}


def tensors_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model's state without the features of its KAN layers, which files have as metadata."""
    return {name: tensor for name, tensor in state.items() if not name.endswith(STATE)}


def write_weights(path: Path, weights: dict[str, Tensor], features: dict[str, str]) -> None:
    """Write a model's state and the result of ``features_of`` as a safetensors file."""
    # Made in memory and written by ourselves, so that a full disk is one plain OSError.
    write_atomic(path, weights_file(weights, features))


def weights_file(weights: dict[str, Tensor], features: dict[str, str]) -> bytes:
    """A safetensors file of a model's state and the result of ``features_of``."""
    own = tensors_of(weights).items()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in own}
    metadata = {"format": "pt", FEATURES: json.dumps(features)}
    return _with_ordered_metadata(safetensors.torch.save(tensors, metadata))


def write_run(
    out: Path,
    model: nn.Module,
    config: RunConfig,
    tokenizer: Tokenizer,
    step: int,
    about: dict[str, Any],
) -> None:
    """Write a model as an exported run: weights, settings and tokenizer, but nothing of training.

    Args:
        out: folder to write; it must not exist, or be empty.
        about: more for environment.json than the machine: "data_fingerprint" and what it is.

    Raises:
        UserError: it cannot be written.
        UsageError: it is not empty.
    """
    with new_folder(out) as draft:
        run = RunFolder(draft)
        write_weights(draft / WEIGHTS, model.state_dict(), features_of(model))
        save_config(config, run.config_file)
        tokenizer.save(run.tokenizer_file)
        device = next(model.parameters()).device
        write_json(run.environment_file, describe(device) | about)
        write_manifest(draft, step, sorted(path.name for path in draft.iterdir()))


def _with_ordered_metadata(file: bytes) -> bytes:
    """Sort the metadata, which safetensors writes in a random order: equal weights, equal files."""
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    if len(ordered) > size:
        return file
    return b"".join([file[:8], ordered.ljust(size), memoryview(file)[8 + size :]])


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

    @cached_property
    def _file(self) -> Any:
        """The weights' file, held open: it can be read even if a trainer removes it."""
        path = self.folder / WEIGHTS
        try:
            with open(path, "rb") as file:
                # By descriptor: that outlives the name, which torch needs to be text, besides.
                name = Path(f"/dev/fd/{file.fileno()}")
                return safetensors.safe_open(name if name.exists() else path, "pt")
        except (safetensors.SafetensorError, RuntimeError) as error:
            raise _unreadable(path, error) from error

    def weights(self) -> dict[str, Tensor]:
        """Every tensor by name.

        Raises:
            UserError: the file holds no tensors.
        """
        return {name: self._file.get_tensor(name) for name in self._file.keys()}  # noqa: SIM118

    def features(self) -> dict[str, Features]:
        """The features of every KAN layer; {} in a file that does not say.

        Raises:
            UserError: they are no features.
        """
        specs = (self._file.metadata() or {}).get(FEATURES, "{}")
        try:
            return {name: Features.from_spec(spec) for name, spec in parse_json(specs).items()}
        except (ValueError, AttributeError, TypeError) as error:
            problem = f"{FEATURES} in {self.folder / WEIGHTS} describes no KAN layers"
            raise UserError(f"{problem}: {error}") from error

    @property
    def shards(self) -> Path | None:
        """The folder of the optimiser's moments, where they were saved in shards."""
        return folder if (folder := self.folder / SHARDS).is_dir() else None

    def training(self) -> dict[str, Any]:
        """All else that was saved to continue.

        Raises:
            UserError: the file is none of ours.
        """
        file = self.folder / TRAINING
        try:
            values = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises whatever the bytes lead it to
            raise _unreadable(file, error) from error
        if not (isinstance(values, dict) and isinstance(values.get("optimizer"), dict)):
            raise UserError(f"{file} is not what training saved: use another checkpoint")
        return values


def _unreadable(file: Path, error: BaseException) -> UserError:
    return UserError(f"{file} cannot be read ({type(error).__name__}): use another checkpoint")


def load_checkpoint(run: RunFolder, which: str = "best") -> Checkpoint:
    """Find and verify a checkpoint, also while the run trains and removes older ones.

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
        return _opened(run.path, step)
    while True:
        index = run.index()
        try:
            return _named(run, which, index)
        except (UserError, OSError):
            if run.index() == index:
                raise


def weights_hash(run: RunFolder, step: int) -> str:
    """SHA-256 of the weights of a checkpoint."""
    folder = load_checkpoint(run, f"step-{step:06d}").folder
    return read_json(folder / MANIFEST)["sha256"][WEIGHTS]


def _named(run: RunFolder, which: str, index: dict[str, str]) -> Checkpoint:
    if not index:
        raise UserError(f"{run.path} has no checkpoint yet: it was stopped before the first one")
    name = index["last"] if which == "best" and "best" not in index else index.get(which, which)
    folder = run.checkpoints / name
    if Path(name).name != name or not folder.is_dir():
        have = ", ".join([*index, *sorted(p.name for p in run.checkpoints.glob("step-*"))])
        raise UserError(f"{run.path} has no checkpoint {which}; it has {have}")
    return _opened(folder, verify(folder, (WEIGHTS, TRAINING), (f"{SHARDS}/",)))


def _opened(folder: Path, step: int) -> Checkpoint:
    checkpoint = Checkpoint(folder, step)
    checkpoint._file  # noqa: B018 (opens it)
    return checkpoint
