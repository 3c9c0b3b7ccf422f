"""Export one checkpoint of a run as a folder to share.

DIR/
  README.md            the model card; left out of the manifest, so that you may edit it
  manifest.json        SHA-256 of every other file

The format ``run`` opens wherever a run does; ``huggingface`` and ``onnx_format`` have the others.

  model.safetensors    the weights, as saved or rounded to bfloat16
  config.yaml · environment.json · metrics.jsonl · tokenizer.json · samples.txt    as in the run
"""

import re
from pathlib import Path
from typing import Any, Literal

from nanogpkant.base.console import warn
from nanogpkant.base.errors import UsageError
from nanogpkant.base.files import new_folder, read_text, write_atomic
from nanogpkant.run.checkpoint import load_checkpoint, write_weights
from nanogpkant.run.folder import EXPORTED, EXPORTED_IF_THERE, WEIGHTS, open_run
from nanogpkant.run.load import load_model
from nanogpkant.run.manifest import write_manifest
from nanogpkant.share.card import SAMPLE_TITLE, model_card
from nanogpkant.share.huggingface import FILES as HUGGINGFACE
from nanogpkant.share.huggingface import write_huggingface
from nanogpkant.share.onnx_format import FILES as ONNX
from nanogpkant.share.onnx_format import MODEL, write_onnx

CARD = "README.md"
FOR_OTHERS = {"config.json": HUGGINGFACE, MODEL: ONNX}  # by a file that no other format has
TELLING = (CARD, "config.yaml", "environment.json")  # files that hold a command and settings


def export_run(
    run: str | Path,
    out: Path,
    format: Literal["run", "hf", "onnx"] = "run",
    checkpoint: str = "best",
    bfloat16: bool = False,
    license: str | None = None,
) -> dict[str, Any]:
    """Write a run's checkpoint as a folder to share: the values of ``verbs.share.Exported``."""
    if bfloat16 and format == "onnx":
        raise UsageError("--bfloat16: is not for --format onnx, whose weights are float32")
    with new_folder(out) as draft:
        source = open_run(run)
        saved = load_checkpoint(source, checkpoint)
        trained = load_model(run, f"step-{saved.step:06d}")  # it loads, whatever the format
        weights = saved.weights() if format == "run" else trained.model.state_dict()
        if bfloat16:
            weights = {n: t.bfloat16() if t.is_floating_point() else t for n, t in weights.items()}
        if format == "hf":
            write_huggingface(draft, trained, weights)
        elif format == "onnx":
            write_onnx(draft, trained)
        else:
            specs = {name: features.spec for name, features in saved.features().items()}
            write_weights(draft / WEIGHTS, weights, specs)
            for name in {*EXPORTED, *EXPORTED_IF_THERE} - {WEIGHTS}:
                if (source.path / name).is_file():
                    write_atomic(draft / name, (source.path / name).read_bytes())
        write_manifest(draft, trained.step, sorted(path.name for path in draft.iterdir()))
        card = model_card(source, trained, weights, name=out.name, license=license, format=format)
        write_atomic(draft / CARD, card)
    warn_of_paths(out)
    size = (out / (MODEL if format == "onnx" else WEIGHTS)).stat().st_size
    return {"folder": str(out), "step": trained.step, "bytes": size}


def warn_of_paths(folder: Path) -> None:
    """Name the paths of this machine that a folder to share contains."""
    files = [file for name in TELLING if (file := folder / name).is_file()]
    text = "".join(read_text(file).partition(f"\n{SAMPLE_TITLE}\n")[0] for file in files)
    if paths := re.findall(r"(?<![\w.:/])(?:/|[A-Z]:\\)[^\s'\",/][^\s'\",]*", text):
        named, where = ", ".join(dict.fromkeys(paths)), " or ".join(file.name for file in files)
        warn(f"{where} name {named}: look before you share them")
