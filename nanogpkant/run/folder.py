"""Run folders: the files of a run, written atomically and verified when read.

    runs/NAME/
      config.yaml         the resolved configuration
      environment.json    versions, device, command, revision, data fingerprint
      metrics.jsonl       one JSON object a row
      tokenizer.json
      checkpoints/step-000250/   model.safetensors, training.pt, manifest.json, and of a run in
                                 shards the optimiser's moments: moments/shard-*.safetensors
      checkpoints/index.json     which is best, which is last
      samples.txt

An exported run is the same folder with one checkpoint's weights instead of ``checkpoints``:
model.safetensors, and a manifest.json with the hash of every file. It opens wherever a run does.

A checkpoint is written to a temporary folder, flushed, and renamed; then the index is replaced;
then checkpoints that nothing points to any more are removed. Killed between any two of these, the
run resumes from the checkpoint that the index names.
"""

import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanogpkant.base.answer import command_line
from nanogpkant.base.errors import UsageError, UserError, nearest, prefixed
from nanogpkant.base.files import (
    is_new,
    new_folder,
    read_json,
    sha256_of,
    write_atomic,
    write_json,
    writing,
)
from nanogpkant.config import RunConfig, config_from, load_config, settings_that_differ, to_yaml
from nanogpkant.data import Tokenizer, load_tokenizer
from nanogpkant.pretrained import PREFIX, pretrained_folder
from nanogpkant.run.manifest import MANIFEST

WEIGHTS, TRAINING, SHARDS = "model.safetensors", "training.pt", "moments"
EXPORTED = (WEIGHTS, "config.yaml", "tokenizer.json", "environment.json")
EXPORTED_IF_THERE = ("metrics.jsonl", "samples.txt")
# Settings of a model that do not change what it computes once it is trained.
NOT_COMPUTED = {"model.dropout", "model.init", "model.residual", "model.curve.learned"}
NOT_COMPUTED |= {"model.kan.dropout", "model.kan.init", "model.kan.backend"}
FORMULAS = Path("export/curves.safetensors")  # of curves of distance, in an interpretation
RUNS = Path("runs")  # where a bare name is looked for


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
        """Whether it holds only the weights of one checkpoint, and cannot be resumed."""
        return (self.path / WEIGHTS).exists() or (self.path / MANIFEST).exists()

    def index(self) -> dict[str, str]:
        """{"best": NAME, "last": NAME}, either missing before the first such checkpoint.

        Raises:
            UserError: the index was edited.
        """
        if not self.index_file.exists():
            return self._index_of_first_checkpoint()
        index = read_json(self.index_file)
        names = index.values() if isinstance(index, dict) else [None]
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise UserError(f"{self.index_file} does not name checkpoints: it was edited")
        if index and "last" not in index:  # else a resumed run would start again, and remove them
            raise UserError(f"{self.index_file} names no checkpoint as the last: it was edited")
        return index or self._index_of_first_checkpoint()

    def _index_of_first_checkpoint(self) -> dict[str, str]:
        """Killed between its first checkpoint and the index, a run has only the former."""
        folders = sorted(path.name for path in self.checkpoints.glob("step-*"))
        if len(folders) > 1:
            remedy = 'put it back, or write {"last": "' + folders[-1] + '"} into it'
            raise UserError(
                f"{self.index_file} is missing or empty beside {len(folders)} checkpoints: {remedy}"
            )
        return {"last": folders[0]} if folders else {}

    def environment(self) -> dict[str, Any]:
        """environment.json: versions, device, command, data fingerprint.

        Raises:
            UserError: it is missing, has no fingerprint, or an entry of another type.
        """
        environment = read_json(self.environment_file)
        known = isinstance(environment, dict) and environment.get("data_fingerprint")
        if not isinstance(known, str):
            raise UserError(f"{self.environment_file} has no data_fingerprint: it was edited")
        texts = ("device", "device_name", "git_revision", "command", "id")
        is_valid = all(isinstance(environment.get(key, ""), str | None) for key in texts)
        is_valid &= isinstance(environment.get("parameters", 0), int)
        if not (is_valid and isinstance(environment.get("versions", {}), dict)):
            raise UserError(f"{self.environment_file} has an entry of a wrong type: it was edited")
        return environment

    def config(self) -> RunConfig:
        """config.yaml, of the model that the run was made with.

        Raises:
            UserError: it cannot be read, or describes another model.
        """
        config, made = load_config(self.config_file), self._made_of().get("model")
        if made is not None:
            with prefixed(str(self.environment_file)):
                model = config_from({"model": made}).model
            for name, value in settings_that_differ(config.model, model, "model.").items():
                if name not in NOT_COMPUTED:
                    problem = f"{self.config_file} has {name} {value!s:.80}"
                    raise UserError(f"{problem}, but the run was made with another: restore it")
        return config

    def tokenizer(self) -> Tokenizer:
        """tokenizer.json, the one that the run was made with.

        Raises:
            UserError: it cannot be read, or is another one.
        """
        tokenizer, made = load_tokenizer(self.tokenizer_file), self._made_of().get("tokenizer")
        if made not in (None, sha256_of(self.tokenizer_file)):
            raise UserError(f"{self.tokenizer_file} is not the vocabulary of this run: restore it")
        return tokenizer

    def _made_of(self) -> dict[str, Any]:
        """What ``create_run`` recorded of the other files; {} in older runs."""
        made = self.environment().get("made_of")
        return made if isinstance(made, dict) else {}

    def data_fingerprint(self) -> str:
        """Fingerprint of the training data.

        Raises:
            UserError: environment.json has none.
        """
        return self.environment()["data_fingerprint"]


def open_run(name: str | Path) -> RunFolder:
    """The run of a name: a folder, trained or exported; NAME for runs/NAME; or pretrained:NAME.

    Raises:
        UserError: there is none; the error names the nearest one.
    """
    path = Path(name)
    if str(name).startswith(PREFIX):
        path = pretrained_folder(str(name).removeprefix(PREFIX))
    elif not path.exists() and path.name == str(name):
        path = RUNS / path
    if not RunFolder(path).config_file.is_file():
        raise UserError(f"{name} is not a run: {_remedy(str(name), path)}")
    return RunFolder(path)


def interpretation_folder(name: str | Path) -> Path:
    """Where a run's interpretation lies: in it, or in runs/NAME for a model of the package's.

    Raises:
        UserError: there is no such run.
    """
    run = open_run(name).path
    return (RUNS / run.name if str(name).startswith(PREFIX) else run) / "interpret"


def _remedy(name: str, path: Path) -> str:
    """What to do about a run that is not there."""
    if path.exists():
        return "it has no config.yaml; nanogpkant train makes one"
    there = [folder.parent.name for folder in RUNS.glob("*/config.yaml")]
    none = f"there is no {path}; nanogpkant runs lists those that there are"
    return nearest(Path(name).name, there, none)


def create_run(
    path: Path, config: RunConfig, environment: dict[str, Any], tokenizer: Tokenizer
) -> RunFolder:
    """Make a run folder with all that is known before the first step, in one rename.

    Raises:
        UserError: the folder cannot be written.
        UsageError: it is not empty.
    """
    with new_folder(path) as folder, writing(path):
        draft = RunFolder(folder)
        draft.checkpoints.mkdir()
        write_atomic(draft.config_file, to_yaml(config))
        tokenizer.save(draft.tokenizer_file)
        made_of = {"tokenizer": sha256_of(draft.tokenizer_file), "model": asdict(config.model)}
        write_json(draft.environment_file, environment | {"made_of": made_of})
        draft.metrics_file.touch()
    return RunFolder(path)


def branch_run(parent: RunFolder, path: Path, config: RunConfig) -> None:
    """Make a run that continues another one: a copy of its last and its best, in one rename.

    Raises:
        UserError: it has no checkpoint, or the folder cannot be written.
        UsageError: the folder is not empty.
    """
    index = parent.index()
    if "last" not in index or parent.is_exported:
        raise UserError(f"--branch_of {parent.path}: has no checkpoint to continue from")
    with new_folder(path) as folder, writing(path):
        draft = RunFolder(folder)
        for name in set(index.values()):
            shutil.copytree(parent.checkpoints / name, draft.checkpoints / name)
        for file in (parent.tokenizer_file, parent.metrics_file):
            shutil.copyfile(file, folder / file.name)
        own = {"id": uuid.uuid4().hex[:8], "command": command_line(), "branch_of": str(parent.path)}
        write_json(draft.environment_file, parent.environment() | own)
        write_json(draft.index_file, index)
        write_atomic(draft.config_file, to_yaml(config))


def remove_run(path: Path) -> None:
    """Delete a run folder, and nothing that is not one.

    Raises:
        UsageError: the folder holds something else.
    """
    if is_new(path):
        return
    if path.is_symlink() or not RunFolder(path).config_file.is_file():
        what = "a symbolic link" if path.is_symlink() else "not a run folder"
        raise UsageError(f"--overwrite: {path} is {what}; remove it yourself, or use --out")
    doomed = path.with_name(f".{path.name}.removed")
    with writing(path):
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)  # killed from here on, no half run is left under its name
        shutil.rmtree(doomed)
