"""The experiments that come with the project: one YAML file each, found by name or by path."""

import difflib
from importlib.resources import files
from pathlib import Path

from nanogpkant.config import RunConfig, load_config
from nanogpkant.errors import UsageError

FOLDER = Path(str(files(__package__)))


def preset_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_preset(name_or_path: str) -> tuple[str, RunConfig]:
    """The name and configuration of a preset, or of a YAML file of one's own.

    Raises:
        UsageError: no such preset or file, or one that holds an unknown key or a bad value.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UsageError(f"{path} does not exist; nanogpkant presets lists the built-in ones")
        return path.stem, load_config(path)
    names = preset_names()
    if name_or_path not in names:
        near = difflib.get_close_matches(name_or_path, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
        raise UsageError(f"unknown preset {name_or_path}: {hint} A file ends in .yaml.")
    return name_or_path, load_config(FOLDER / f"{name_or_path}.yaml")
