"""An experiment's file: variants, seeds and one budget for all of them; read and checked.

``planning`` turns it into runs, ``training`` trains those that are missing.
"""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nanogpkant.base.errors import UsageError, nearest, prefixed
from nanogpkant.base.files import read_text
from nanogpkant.config import DataConfig, check_seed, read_yaml

BUDGETS = ("iterations", "flops", "seconds")
MARGIN = 0.003
JUDGED = ("all", "first_half", "second_half")
# Settings that the experiment decides for all variants, and the key of its file that does.
DECIDED = {"train.seed": "seeds", "train.max_iters": "budget", "train.max_seconds": "budget"}


@dataclass(frozen=True)
class Variant:
    """A model of the experiment, as its file has it."""

    name: str
    preset: str  # name of a preset, or path to a .yaml file
    overrides: dict[str, Any]  # settings that differ from the preset's, with dotted keys


@dataclass(frozen=True)
class Experiment:
    """The content of an experiment's file."""

    name: str  # of its folder
    about: str
    variants: list[Variant]
    seeds: list[int]
    budget: dict[str, float]
    """one of ``BUDGETS``; with iterations or flops optionally "evaluations", the number of
    evenly spaced evaluations of a run, which replaces train.eval_interval"""
    data: dict[str, Any]  # settings of the data section, for all variants
    overrides: dict[str, Any]  # settings of all variants, with dotted keys
    text: str  # the file itself
    comparisons: list[tuple[str, str]] = field(default_factory=list)
    """pairs of variants that the experiment was made to compare"""
    margin: float = MARGIN  # difference of losses that does not matter, nats per token
    judged_on: str = JUDGED[0]  # part of the validation split that the comparisons are judged on


def load_experiment(path: Path) -> Experiment:
    """Read an experiment's file.

    Raises:
        UserError: it cannot be read.
        UsageError: it is not YAML, has an unknown key, lacks one or holds an invalid value.
    """
    values = values_in(path)
    with prefixed(str(path)):
        return _experiment(path, values)


def values_in(path: Path) -> Any:
    """The content of a YAML file, by its name too."""
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{path}: name a file that ends in .yaml")
    return read_yaml(path)


def _experiment(path: Path, values: Any) -> Experiment:
    check_keys(values, [f.name for f in fields(Experiment) if f.name != "text"], "")
    for key, kind, what in (
        ("variants", list, "a list of models"),
        ("seeds", list, "a list of whole numbers"),
        ("budget", dict, f"one of {', '.join(BUDGETS)} with a number"),
    ):
        if not isinstance(values.get(key), kind) or not values[key]:
            raise UsageError(f"{key} {values.get(key)!r}: must be {what}, and not empty")
    data, seeds = values.get("data") or {}, values["seeds"]
    check_keys(data, [f.name for f in fields(DataConfig)], "data.")
    variants = [_variant(n, v, path.parent) for n, v in enumerate(values["variants"], start=1)]
    names = [variant.name for variant in variants]
    check_names("variants", names)
    for seed in seeds:
        if type(seed) is not int:
            raise UsageError(f"seeds {seeds}: must be whole numbers")
        check_seed(seed, "seeds")
    if len(set(seeds)) != len(seeds):
        raise UsageError(f"seeds {seeds}: names one twice; name each once")
    return Experiment(
        name=name_in(values, "", path.stem),
        about=str(values.get("about", "")),
        variants=variants,
        seeds=seeds,
        budget=_budget(values["budget"]),
        data=data,
        overrides=overrides_in(values, ""),
        comparisons=_comparisons(values.get("comparisons") or [], names),
        margin=_margin(values.get("margin", MARGIN)),
        judged_on=_judged_on(values.get("judged_on", JUDGED[0])),
        text=read_text(path),
    )


def check_keys(values: Any, known: list[str], prefix: str) -> None:
    """Check that ``values`` is a mapping with no other keys than ``known``."""
    if not isinstance(values, dict):
        where = prefix.rstrip(". ") or "the file"
        raise UsageError(f"{where} must hold keys and values, not {values!r}")
    for key in values:
        if key not in known:
            raise UsageError(f"unknown key {prefix}{key}: {nearest(str(key), known)}")


def check_names(key: str, names: list[str]) -> None:
    """Check that no two parts of a list in a file have the same name."""
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{key}: {twice[0]} is the name of two of them; give each its own name")


def name_in(values: dict[str, Any], prefix: str, default: str | None) -> str:
    """The name that a part of a file gives itself; a folder must be able to have it."""
    name = values.get("name", default)
    if not isinstance(name, str) or not name or Path(name).name != name or name.startswith("."):
        raise UsageError(f"{prefix}name {name!r}: must be text that a folder can be called")
    return name


def preset_in(values: dict[str, Any], prefix: str, folder: Path) -> str:
    """The preset that a part of a file names; a path is relative to the file's folder."""
    preset = values.get("preset")
    if not isinstance(preset, str):
        raise UsageError(f"{prefix}preset {preset!r}: must be a preset's name or a path to a file")
    return str(folder / preset) if preset.endswith((".yaml", ".yml")) else preset


def overrides_in(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The overrides in a part of a file; none of the settings that the experiment decides."""
    overrides = values.get("overrides") or {}
    if not isinstance(overrides, dict):
        raise UsageError(f"{prefix}overrides must hold dotted keys and values, not {overrides!r}")
    for key in overrides:
        if key in DECIDED:
            raise UsageError(f"{prefix}overrides: {key} is decided by {DECIDED[key]}; leave it out")
    return overrides


def _variant(number: int, values: Any, folder: Path) -> Variant:
    prefix = f"variants, number {number}: "
    check_keys(values, [f.name for f in fields(Variant)], prefix)
    preset = preset_in(values, prefix, folder)
    name = name_in(values, prefix, Path(preset).stem)
    return Variant(name, preset, overrides_in(values, prefix))


def _comparisons(pairs: Any, names: list[str]) -> list[tuple[str, str]]:
    if not isinstance(pairs, list):
        raise UsageError(f"comparisons {pairs!r}: must be a list of pairs of variants")
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or pair[0] == pair[1]:
            example = f"such as [{names[0]}, ...]"
            raise UsageError(f"comparisons: {pair!r} must be two variants, {example}")
        if unknown := [name for name in pair if name not in names]:
            known = ", ".join(names)
            raise UsageError(f"comparisons: {unknown[0]!r} is no variant; known are {known}")
    return [(first, second) for first, second in pairs]


def _margin(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise UsageError(f"margin {value!r}: must be a number of nats above 0 and below 1")
    return float(value)


def _judged_on(value: Any) -> str:
    if value not in JUDGED:
        raise UsageError(f"judged_on {value!r}: must be one of {', '.join(JUDGED)}")
    return value


def _budget(values: dict[str, Any]) -> dict[str, float]:
    check_keys(values, [*BUDGETS, "evaluations"], "budget.")
    if sum(key in values for key in BUDGETS) != 1:
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
        problem = "the number of steps in the seconds is unknown; set train.eval_interval instead"
        raise UsageError(f"budget.evaluations: {problem}")
    return budget
