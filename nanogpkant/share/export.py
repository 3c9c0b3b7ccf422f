"""``nanogpkant export``: one checkpoint of a run as a folder to share, which opens as a run does.

DIR/
  README.md            the model card; yours to edit, so the manifest leaves it out
  model.safetensors    the weights, as they are or rounded to bfloat16
  config.yaml · environment.json · metrics.jsonl · tokenizer.json · samples.txt    as in the run
  manifest.json        sha256 of each file
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanogpkant.checkpoint import (
    EXPORTED,
    EXPORTED_IF_THERE,
    WEIGHTS,
    RunFolder,
    load_checkpoint,
    load_model,
    open_run,
    write_weights,
)
from nanogpkant.console import warn
from nanogpkant.errors import UsageError
from nanogpkant.files import fsync_folder, read_text, write_atomic, writing
from nanogpkant.manifest import write_manifest
from nanogpkant.share.card import model_card

CARD = "README.md"


def export_run(
    path: Path,
    to: Path,
    which: str = "best",
    bfloat16: bool = False,
    licence: str | None = None,
) -> dict[str, Any]:
    """Write a run's checkpoint as a folder to share.

    Args:
        path, which: the run folder and its checkpoint.
        to: the folder to write; one that is there has to be empty.
        bfloat16: round the weights to it, which halves them.
        licence: for the model card, by the Hub's identifier, such as mit.

    Returns:
        {"folder", "step", "bytes"}.

    Raises:
        UserError: no such run or checkpoint, one that does not fit its model, or a full disk.
        UsageError: ``to`` holds something.
    """
    check_is_new(to)
    run = open_run(path)
    step = load_model(path, which).step  # whoever gets the folder can load it
    checkpoint = load_checkpoint(run, which)
    specs = {name: features.spec for name, features in checkpoint.features().items()}
    weights = checkpoint.weights()
    if bfloat16:
        weights = {n: t.bfloat16() if t.is_floating_point() else t for n, t in weights.items()}
    with new_folder(to) as draft:
        write_weights(draft / WEIGHTS, weights, specs)
        for name in (*EXPORTED, *EXPORTED_IF_THERE):
            if name != WEIGHTS and (run.path / name).is_file():
                write_atomic(draft / name, (run.path / name).read_bytes())
        write_manifest(draft, step, sorted(path.name for path in draft.iterdir()))
        card = model_card(RunFolder(draft), to.name, step, weights, licence)
        write_atomic(draft / CARD, card)
    warn_of_paths(RunFolder(to))
    return {"folder": str(to), "step": step, "bytes": (to / WEIGHTS).stat().st_size}


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


def warn_of_paths(run: RunFolder) -> None:
    """Say which folders of this machine a shared run would tell of."""
    text = read_text(run.config_file) + read_text(run.environment_file)
    if paths := re.findall(r"(?<![\w.:])(?:/|[A-Z]:\\)[^\s'\",]+", text):
        named = ", ".join(dict.fromkeys(paths))
        warn(f"config.yaml or environment.json name {named}: look before you share them")
