"""An experiment's file: variants, seeds and one budget for all of them. Read and checked here.

``planning`` makes runs of it, ``training`` trains those that are missing.
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from nanogpkant.base.errors import UsageError
from nanogpkant.base.files import read_text
from nanogpkant.config import DataConfig, check_seed, nearest

BUDGETS = ("iterations", "flops", "seconds")
# What the experiment decides for all variants, and the key of its file that does.
DECIDED = {"train.seed": "seeds", "train.max_iters": "budget", "train.max_seconds": "budget"}


@dataclass(frozen=True)
class Variant:
    """A model of the experiment, as the file asks for it."""

    name: str
    preset: str
    """name of a preset, or path to a .yaml file"""
    overrides: dict[str, Any]
    """settings that differ from the preset's, with dotted keys"""


@dataclass(frozen=True)
class Experiment:
    """The content of an experiment's file."""

    name: str
    """of its folder"""
    about: str
    variants: list[Variant]
    seeds: list[int]
    budget: dict[str, float]
    """one of ``BUDGETS``; with iterations or flops perhaps "evaluations" as well: how many a run
    makes, evenly apart, whatever its train.eval_interval"""
    data: dict[str, Any]
    """settings of the data section, for all variants"""
    overrides: dict[str, Any]
    """settings of all variants, with dotted keys"""
    text: str
    """the file itself"""


def load_experiment(path: Path) -> Experiment:
    """Read an experiment's file.

    Raises:
        UserError: it cannot be read.
        UsageError: it is not YAML, has an unknown key, lacks one or holds a value that cannot work.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{path}: name a file that ends in .yaml")
    text = read_text(path)
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        raise UsageError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    try:
        return _experiment(path, values, text)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _experiment(path: Path, values: Any, text: str) -> Experiment:
    known = [f.name for f in fields(Experiment) if f.name != "text"]
    check_keys(values, known, "")
    for key, kind, what in (
        ("variants", list, "a list of models"),
        ("seeds", list, "a list of whole numbers"),
        ("budget", dict, f"one of {', '.join(BUDGETS)} with a number"),
    ):
        if not isinstance(values.get(key), kind) or not values[key]:
            raise UsageError(f"{key} {values.get(key)!r}: must be {what}, and not empty")
    name = values.get("name", path.stem)
    check_name(name, "name")
    data, overrides = values.get("data") or {}, values.get("overrides") or {}
    check_keys(data, [f.name for f in fields(DataConfig)], "data.")
    check_overrides(overrides, "")
    variants = [_variant(n, v, path.parent) for n, v in enumerate(values["variants"], start=1)]
    names = [variant.name for variant in variants]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"variants: {twice[0]} is the name of two of them; give each its own name")
    about, seeds, budget = str(values.get("about", "")), values["seeds"], _budget(values["budget"])
    _check_seeds(seeds)
    return Experiment(name, about, variants, seeds, budget, data, overrides, text)


def check_keys(values: Any, known: list[str], prefix: str) -> None:
    if not isinstance(values, dict):
        where = prefix.rstrip(". ") or "the file"
        raise UsageError(f"{where} must hold keys and values, not {values!r}")
    for key in values:
        if key not in known:
            hint = nearest(str(key), known)
            hint = hint if hint.startswith("did") else f"known are {', '.join(known)}"
            raise UsageError(f"unknown key {prefix}{key}: {hint}")


def check_name(name: Any, where: str) -> None:
    """A name is also that of a folder."""
    if not isinstance(name, str) or not name or Path(name).name != name or name.startswith("."):
        raise UsageError(f"{where} {name!r}: must be text that a folder can be called")


def check_overrides(overrides: Any, prefix: str) -> None:
    if not isinstance(overrides, dict):
        raise UsageError(f"{prefix}overrides must hold dotted keys and values, not {overrides!r}")
    for key in overrides:
        if key in DECIDED:
            raise UsageError(
                f"{prefix}overrides: {key} is what {DECIDED[key]} decides; leave it out"
            )


def _variant(number: int, values: Any, folder: Path) -> Variant:
    prefix = f"variants, number {number}: "
    check_keys(values, [f.name for f in fields(Variant)], prefix)
    preset, overrides = values.get("preset"), values.get("overrides") or {}
    if not isinstance(preset, str):
        raise UsageError(f"{prefix}preset {preset!r}: must be a preset's name or a path to a file")
    name = values.get("name", Path(preset).stem)
    check_name(name, f"{prefix}name")
    check_overrides(overrides, prefix)
    if preset.endswith((".yaml", ".yml")):
        preset = str(folder / preset)
    return Variant(name, preset, overrides)


def _check_seeds(seeds: list[Any]) -> None:
    for seed in seeds:
        if type(seed) is not int:
            raise UsageError(f"seeds {seeds}: must be whole numbers")
        check_seed(seed, "seeds")
    if len(set(seeds)) != len(seeds):
        raise UsageError(f"seeds {seeds}: names one twice; name each once")


def _budget(values: dict[str, Any]) -> dict[str, float]:
    check_keys(values, [*BUDGETS, "evaluations"], "budget.")
    named = [key for key in BUDGETS if key in values]
    if len(named) != 1:
        raise UsageError(f"budget: must name just one of {', '.join(BUDGETS)}")
    budget = {}
    for key, value in values.items():
        try:  # PyYAML reads 1e15 as text
            number = float(value)
        except (TypeError, ValueError):
            number = 0.0
        whole = key in ("iterations", "evaluations")
        if not 0 < number < math.inf or (whole and number % 1):
            raise UsageError(f"budget.{key} {value!r}: must be a {'whole ' * whole}number above 0")
        budget[key] = number
    if "seconds" in budget and "evaluations" in budget:
        problem = "how many steps the seconds hold is not known; set train.eval_interval instead"
        raise UsageError(f"budget.evaluations: {problem}")
    return budget
