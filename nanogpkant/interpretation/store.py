"""Results of the stages of an interpretation on disk, from which an interrupted one resumes."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from nanogpkant.base.errors import UserError
from nanogpkant.base.files import read_json, write_atomic, write_json, writing

KEY, RESULTS = "key.json", "results.json"

Remember = Callable[[str, Callable[[], Any]], Any]
"""``Stage.result``: a name, and how to find what is not known under it yet"""


class Stage:
    """The folder of one stage.

    It is emptied where it was made under another key: another checkpoint, other settings.

    Args:
        folder: where it lies; may be missing.
        key: all that decides the stage's results, as JSON can hold it.
    """

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        self.folder, key = folder, json.loads(json.dumps(key))  # as it will be read back
        if _read(folder / KEY) != key:
            with writing(folder):
                shutil.rmtree(folder, ignore_errors=True)
            write_json(folder / KEY, key)
        self._results: dict[str, Any] = _read(folder / RESULTS) or {}

    def result(self, name: str, find: Callable[[], Any]) -> Any:
        """What the stage found under this name, now or before: numbers, text, lists and dicts."""
        if name not in self._results:
            self._results[name] = find()
            write_json(self.folder / RESULTS, self._results)
        return self._results[name]


def rows_of(
    trials: Mapping[str, Callable[[], dict[str, Any]]],
    remember: Remember,
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """A row for each trial: its name is what it is remembered under."""
    rows = []
    for done, (name, find) in enumerate(trials.items()):
        progress(done, len(trials))
        rows.append(remember(name, find))
    return rows


def _read(path: Path) -> Any:
    """A JSON file, or None where it is missing or damaged: a cache can be made again."""
    try:
        return read_json(path)
    except UserError:
        return None


def save_records(records: dict[str, Any], file: Path) -> None:
    """Write dataclasses of tensors, numbers and text, by name, into one safetensors file."""
    tensors, others = {}, {}
    for name, record in records.items():
        values = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = value.detach().cpu().contiguous()
            else:
                others[f"{name}/{key}"] = value
    write_atomic(file, safetensors.torch.save(tensors, {"others": json.dumps(others)}))


def load_records(kind: type, file: Path) -> dict[str, Any]:
    """What ``save_records`` wrote, as dataclasses of one kind.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with safetensors.safe_open(file, "pt") as saved:
            values = json.loads(saved.metadata()["others"])
            values |= {key: saved.get_tensor(key) for key in saved.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is damaged: remove it and run the command again") from error
    records: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        name, _, field = key.rpartition("/")
        records.setdefault(name, {})[field] = value
    return {name: kind(**record) for name, record in records.items()}
