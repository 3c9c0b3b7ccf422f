"""``nanogpkant export``: one checkpoint of a run as a folder to share.

DIR/
  README.md            the model card; yours to edit, so the manifest leaves it out
  manifest.json        sha256 of each other file

By itself it opens as a run does, and has these files besides; ``huggingface`` and ``onnx`` say what
the folders for others' programs hold.

  model.safetensors    the weights, as they are or rounded to bfloat16
  config.yaml · environment.json · metrics.jsonl · tokenizer.json · samples.txt    as in the run
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from nanogpkant.base.console import warn
from nanogpkant.base.errors import UsageError
from nanogpkant.base.files import fsync_folder, read_text, write_atomic, writing
from nanogpkant.run.checkpoint import load_checkpoint, write_weights
from nanogpkant.run.folder import EXPORTED, EXPORTED_IF_THERE, WEIGHTS, RunFolder, open_run
from nanogpkant.run.load import TrainedModel, load_model
from nanogpkant.run.manifest import write_manifest
from nanogpkant.share.card import model_card
from nanogpkant.share.huggingface import FILES as HUGGINGFACE
from nanogpkant.share.huggingface import write_huggingface
from nanogpkant.share.onnx_format import FILES as ONNX
from nanogpkant.share.onnx_format import MODEL, write_onnx

CARD = "README.md"
FOR_OTHERS = {"config.json": HUGGINGFACE, MODEL: ONNX}  # by a file that no other format has
TELLING = (CARD, "config.yaml", "environment.json")  # files with a command and settings


def export_run(
    path: Path,
    to: Path,
    which: str = "best",
    bfloat16: bool = False,
    licence: str | None = None,
    form: str = "run",
) -> dict[str, Any]:
    """Write a run's checkpoint as a folder to share.

    Args:
        path, which: the run folder and its checkpoint.
        to: the folder to write; one that is there has to be empty.
        bfloat16: round the weights to it, which halves them.
        licence: for the model card, by the Hub's identifier, such as mit.
        form: one of ``FORMATS``.

    Returns:
        {"folder", "step", "bytes"}, the last those of the weights.

    Raises:
        UserError: no such run or checkpoint, one that does not fit its model, a full disk, or a
            package that is not installed.
        UsageError: ``to`` holds something.
    """
    check_is_new(to)
    run = open_run(path)
    trained = load_model(path, which)  # whoever gets the folder can load it
    with new_folder(to) as draft:
        write = {"run": _write_run, "hf": _write_hf, "onnx": _write_onnx}[form]
        weights = write(draft, run, which, trained, bfloat16)
        names = sorted(path.name for path in draft.iterdir())
        write_manifest(draft, trained.step, names)
        card = model_card(run, to.name, trained.step, weights, licence, form)
        write_atomic(draft / CARD, card)
    warn_of_paths(to)
    (model,) = (to / name for name in names if name in (WEIGHTS, MODEL))
    return {"folder": str(to), "step": trained.step, "bytes": model.stat().st_size}


def _write_run(
    draft: Path, run: RunFolder, which: str, trained: TrainedModel, bfloat16: bool
) -> dict[str, Tensor]:
    """The files of the run, and the checkpoint's weights as they were saved, which are returned."""
    checkpoint = load_checkpoint(run, which)
    specs = {name: features.spec for name, features in checkpoint.features().items()}
    weights = _rounded(checkpoint.weights(), bfloat16)
    write_weights(draft / WEIGHTS, weights, specs)
    for name in (*EXPORTED, *EXPORTED_IF_THERE):
        if name != WEIGHTS and (run.path / name).is_file():
            write_atomic(draft / name, (run.path / name).read_bytes())
    return weights


def _write_hf(
    draft: Path, run: RunFolder, which: str, trained: TrainedModel, bfloat16: bool
) -> dict[str, Tensor]:
    """What transformers loads."""
    weights = _rounded(trained.model.state_dict(), bfloat16)
    write_huggingface(draft, trained, weights)
    return weights


def _write_onnx(
    draft: Path, run: RunFolder, which: str, trained: TrainedModel, bfloat16: bool
) -> dict[str, Tensor]:
    """What ONNX runtimes load."""
    if bfloat16:
        raise UsageError("--bfloat16: is not for --format onnx, whose weights are float32")
    write_onnx(draft, trained)
    return trained.model.state_dict()


def _rounded(weights: dict[str, Tensor], bfloat16: bool) -> dict[str, Tensor]:
    if not bfloat16:
        return weights
    return {n: t.bfloat16() if t.is_floating_point() else t for n, t in weights.items()}


def check_is_new(to: Path, flag: str = "--to") -> None:
    """Refuse a folder to write that holds something.

    Raises:
        UsageError: it does, or is a file.
    """
    if to.is_file() or (to.is_dir() and any(to.iterdir())):
        raise UsageError(f"{flag} {to}: exists and is not an empty folder; name another")


@contextmanager
def new_folder(to: Path) -> Iterator[Path]:
    """A draft to fill, which becomes the folder ``to`` when it is whole, and else goes.

    Raises:
        UserError: it cannot be written.
    """
    draft = to.with_name(f".{to.name}.tmp")
    with writing(to):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    try:
        yield draft
        with writing(to):
            if to.exists():
                to.rmdir()
            draft.rename(to)
            fsync_folder(to.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def warn_of_paths(folder: Path) -> None:
    """Say which folders of this machine a folder to share would tell of."""
    files = [file for name in TELLING if (file := folder / name).is_file()]
    text = "".join(map(read_text, files))
    if paths := re.findall(r"(?<![\w.:/])(?:/|[A-Z]:\\)[^\s'\",/][^\s'\",]*", text):
        named, where = ", ".join(dict.fromkeys(paths)), " or ".join(file.name for file in files)
        warn(f"{where} name {named}: look before you share them")
