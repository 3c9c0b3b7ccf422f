"""The YAML files that describe experiments, searches and studies: their parts, read and checked.

Every function here raises a UsageError that names the key and what would be right.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from nanogpkant.base.errors import UsageError, check_seed, nearest, prefixed
from nanogpkant.config import DataConfig, read_yaml


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """The content of a YAML file; errors within name the file.

    Raises:
        UserError: it cannot be read.
        UsageError: it is not YAML, has an unknown key, lacks one or holds an invalid value.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{path}: name a file that ends in .yaml")
    values = read_yaml(path)
    with prefixed(str(path)):
        yield values


def check_keys(values: Any, known: Iterable[str] | type, prefix: str = "") -> None:
    """Check that values are a mapping with no other keys than these, or a dataclass's fields."""
    if isinstance(known, type):
        known = [each.name for each in fields(known)]
    if not isinstance(values, dict):
        where = prefix.rstrip(". ") or "the file"
        raise UsageError(f"{where} must hold keys and values, not {values!r}")
    for key in values:
        if key not in known:
            raise UsageError(f"unknown key {prefix}{key}: {nearest(str(key), known)}")


def list_in(values: dict[str, Any], key: str, what: str) -> list[Any]:
    """A list that is not empty; ``what`` are its items."""
    if not isinstance(values.get(key), list) or not values[key]:
        raise UsageError(f"{key} {values.get(key)!r}: must be a list of {what}, and not empty")
    return values[key]


def check_different(key: str, values: list[Any], remedy: str = "name each once") -> None:
    """Check that no item of a list stands in it twice."""
    if twice := [value for value in values if values.count(value) > 1]:
        raise UsageError(f"{key}: {twice[0]} stands there twice; {remedy}")


def seeds_in(seeds: list[Any]) -> list[int]:
    """Different seeds."""
    for seed in seeds:
        check_seed(seed, "seeds")
    check_different("seeds", seeds)
    return seeds


def name_in(values: dict[str, Any], default: str | None, prefix: str = "") -> str:
    """The name that a part of a file gives itself; a folder must be able to have it."""
    name = values.get("name", default)
    if not isinstance(name, str) or not name or Path(name).name != name or name.startswith("."):
        raise UsageError(f"{prefix}name {name!r}: must be text that a folder can be called")
    return name


def preset_in(values: dict[str, Any], folder: Path, prefix: str = "") -> str:
    """The preset that a part of a file names; a path is relative to the file's folder."""
    preset = values.get("preset")
    if not isinstance(preset, str):
        raise UsageError(f"{prefix}preset {preset!r}: must be a preset's name or a path to a file")
    return str(folder / preset) if preset.endswith((".yaml", ".yml")) else preset


def data_in(values: dict[str, Any]) -> dict[str, Any]:
    """Settings of the data section."""
    data = values.get("data") or {}
    check_keys(data, DataConfig, "data.")
    return data


def overrides_in(
    values: dict[str, Any], decided: Mapping[str, str], prefix: str = ""
) -> dict[str, Any]:
    """Settings by dotted key; none of those that another key of the file decides."""
    overrides = values.get("overrides") or {}
    if not isinstance(overrides, dict):
        raise UsageError(f"{prefix}overrides must hold dotted keys and values, not {overrides!r}")
    for key in overrides:
        if key in decided:
            raise UsageError(f"{prefix}overrides: {key} is decided by {decided[key]}; leave it out")
    return overrides


def positive(key: str, value: Any, whole: bool = False, finite: bool = True) -> float:
    """A number above 0."""
    try:  # PyYAML reads 1e6 as text
        number = 0.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not number > 0 or (whole and number % 1) or (finite and math.isinf(number)):
        raise UsageError(f"{key} {value!r}: must be a {'whole ' * whole}number above 0")
    return number
