"""kanify for a name: the folder of a model of transformers, or a run of ours."""

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import nn

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.base.files import new_folder, read_json
from nanogpkant.config import with_settings
from nanogpkant.conversion.gpt2 import CONFIG, NAMES, download, reading_with_transformers
from nanogpkant.conversion.kanify import GRID, kanify_module, plan
from nanogpkant.conversion.pretrained_model import load_kanified
from nanogpkant.conversion.run import convert, starting_config
from nanogpkant.conversion.source import open_source
from nanogpkant.kan import BASES

# Of a run of ours.
SITES = {"mlp": ["mlp_in", "mlp_out"], "attention": ["qkv", "attn_out"], "distance": []}
OTHERS = (".json", ".txt", ".model", ".jinja")  # files beside the weights: the tokenizer's


def kanify_folder(
    name: str, out: Path | None, where: Collection[str], share: str, basis: Any
) -> tuple[nn.Module | None, list[dict[str, Any]]]:
    """A model's copy with KAN layers, written to ``out``, or only looked at; and a row a layer.

    Returns:
        the model, None of a run that was only looked at; and the rows.

    Raises:
        UserError, UsageError: see ``verbs.kanify``.
    """
    folder = download(name) if name in NAMES else Path(name)
    if (folder / CONFIG).is_file():
        return _of_transformers(folder, out, where, share, basis)
    if unknown := [each for each in where if each not in SITES]:
        known = ", ".join(SITES)
        raise UsageError(f"--where {unknown[0]}: a run of nanogpkant has the kinds {known}")
    if basis not in BASES:
        raise UsageError(f"--basis {basis}: a run of nanogpkant takes a name: {', '.join(BASES)}")
    source = open_source(name)
    _, rows = plan(source.model(), where, share, basis)
    if out is None:
        return None, rows
    model, settings = source.config.model, {}
    if sites := [site for each in where for site in SITES[each]]:
        kan = {"sites": list(dict.fromkeys([*model.kan.sites, *sites])), "share": share}
        kan |= {"basis": basis, "grid_size": GRID["grid_size"]}
        kan["grid_range"] = list(GRID["grid_range"])
        settings = {f"model.kan.{key}": value for key, value in kan.items()}
    if "distance" in where:
        positions = [each for each in model.positions if each != "none"]
        settings |= {"model.position": "+".join([*positions, "curve"]), "model.curve.start": "zero"}
    convert(source, with_settings(starting_config(source), settings), out)
    return None, rows


def _of_transformers(
    folder: Path, out: Path | None, where: Collection[str], share: str, basis: Any
) -> tuple[nn.Module, list[dict[str, Any]]]:
    model = _read(folder).eval()
    _, rows = kanify_module(model, where, share, basis, dry_run=out is None)
    if out is not None:
        with new_folder(out) as draft, reading_with_transformers(folder):
            model.save_pretrained(draft)
            for file in folder.iterdir():
                is_weights = "safetensors" in file.name  # the index of their shards
                if file.suffix in OTHERS and not (is_weights or (draft / file.name).exists()):
                    shutil.copyfile(file, draft / file.name)
    return model, rows


def _read(folder: Path) -> Any:
    values = read_json(folder / CONFIG)
    if not isinstance(values, dict):
        raise UserError(f"{folder / CONFIG} is no configuration of a model")
    names = values.get("architectures") or [None]
    with reading_with_transformers(folder):
        import transformers

        if "kan_of" in values:
            return load_kanified(folder)
        made: Any = getattr(transformers, str(names[0]), None)
        if not issubclass(made or object, transformers.PreTrainedModel):
            raise UserError(f"its {CONFIG} names {names[0]}, no architecture of transformers")
        return made.from_pretrained(folder, local_files_only=True, use_safetensors=True)
