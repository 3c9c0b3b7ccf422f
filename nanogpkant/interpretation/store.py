"""Results of an interpretation's stages on disk, from which an interrupted one resumes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import safetensors
import safetensors.torch
from torch import Tensor

from nanogpkant.base.errors import UserError
from nanogpkant.base.files import read_json, write_atomic, write_json


class OfLayer(Protocol):
    """Results for a layer: a dataclass of tensors, numbers and text."""

    def is_of(self, n_in: int, n_out: int) -> bool:
        """Whether its content can be of a layer of these sizes."""
        ...


Record = TypeVar("Record", bound=OfLayer)
Sizes = dict[str, tuple[int, int]]
"""inputs and outputs of layers, by name"""


class Stage:
    """The folder of one stage.

    It is emptied if it was written under another key: another checkpoint, other settings.

    Args:
        folder: may be missing.
        key: everything that determines the stage's results, in types of JSON.
    """

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        self.folder, key = folder, json.loads(json.dumps(key))  # as it will be read back
        if _read(folder / "key.json") != key:
            shutil.rmtree(folder, ignore_errors=True)
            write_json(folder / "key.json", key)
        self._results: dict[str, Any] = _read(folder / "results.json") or {}

    def result(self, name: str, find: Callable[[], Any]) -> Any:
        """The result of this name, of types of JSON, computed only if it is not on disk."""
        if name not in self._results:
            self._results[name] = find()
            write_json(self.folder / "results.json", self._results)
        return self._results[name]

    def records(
        self, kind: type[Record], name: str, find: Callable[[], dict[str, Record]], sizes: Sizes
    ) -> dict[str, Record]:
        """Results for these layers, computed only if they are not on disk.

        Raises:
            UserError: their file is damaged, or of other layers.
        """
        file = self.folder / f"{name}.safetensors"
        if not file.exists():
            _save_records(find(), file)
        found = _load_records(kind, file)
        if found.keys() != sizes.keys() or not all(found[n].is_of(*sizes[n]) for n in sizes):
            raise _damaged(file)
        return found


def _read(path: Path) -> Any:
    """A JSON file, or None where it is missing or damaged: a cache can be computed again."""
    try:
        return read_json(path)
    except UserError:
        return None


def _save_records(records: dict[str, Any], file: Path) -> None:
    tensors, others = {}, {}
    for name, record in records.items():
        for key, value in vars(record).items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = value.detach().cpu().contiguous()
            else:
                others[f"{name}/{key}"] = value
    write_atomic(file, safetensors.torch.save(tensors, {"others": json.dumps(others)}))


def _load_records(kind: type[Record], file: Path) -> dict[str, Record]:
    """Fields that ``kind`` has no more are skipped: earlier versions wrote them."""
    known = kind.__dataclass_fields__  # type: ignore[attr-defined]
    records: dict[str, dict[str, Any]] = {}
    try:
        with safetensors.safe_open(file, "pt") as saved:
            values = json.loads(saved.metadata()["others"])
            values |= {key: saved.get_tensor(key) for key in saved.keys()}  # noqa: SIM118
        for key, value in values.items():
            name, _, field = key.rpartition("/")
            if field in known:
                records.setdefault(name, {})[field] = value
        return {name: kind(**record) for name, record in records.items()}
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _damaged(file) from error


def _damaged(file: Path) -> UserError:
    return UserError(f"{file} is damaged: remove it and run the command again")


def have_shapes(record: Any, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether tensors of a record have these shapes and numbers, infinite ones apart."""
    tensors = {name: getattr(record, name) for name in shapes}
    return all(
        isinstance(each, Tensor) and each.shape == shapes[name] and not each.isnan().any()
        for name, each in tensors.items()
    )
