"""An experiment's file: variants, seeds and one budget for all of them; read and checked.

``planning`` turns it into runs, ``training`` trains those that are missing.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nanogpkant.base.errors import UsageError
from nanogpkant.base.files import read_text
from nanogpkant.comparison.file import (
    check_different,
    check_keys,
    data_in,
    list_in,
    name_in,
    overrides_in,
    positive,
    preset_in,
    reading,
    seeds_in,
)

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
    """Read an experiment's file; raises as ``reading`` does."""
    with reading(path) as values:
        return _experiment(path, values)


def _experiment(path: Path, values: Any) -> Experiment:
    check_keys(values, [f.name for f in fields(Experiment) if f.name != "text"])
    given = list_in(values, "variants", "models")
    variants = [_variant(n, v, path.parent) for n, v in enumerate(given, start=1)]
    names = [variant.name for variant in variants]
    check_different("variants", names, "give each its own name")
    return Experiment(
        name=name_in(values, path.stem),
        about=str(values.get("about") or ""),
        variants=variants,
        seeds=seeds_in(list_in(values, "seeds", "whole numbers")),
        budget=_budget(values.get("budget")),
        data=data_in(values),
        overrides=overrides_in(values, DECIDED),
        comparisons=_comparisons(values.get("comparisons") or [], names),
        margin=_margin(values.get("margin", MARGIN)),
        judged_on=_judged_on(values.get("judged_on", JUDGED[0])),
        text=read_text(path),
    )


def _variant(number: int, values: Any, folder: Path) -> Variant:
    prefix = f"variants, number {number}: "
    check_keys(values, Variant, prefix)
    preset = preset_in(values, folder, prefix)
    name = name_in(values, Path(preset).stem, prefix)
    return Variant(name, preset, overrides_in(values, DECIDED, prefix))


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
    check_different("comparisons", [sorted(pair) for pair in pairs])
    return [(first, second) for first, second in pairs]


def _margin(value: Any) -> float:
    if (margin := positive("margin", value)) >= 1:
        raise UsageError(f"margin {value!r}: must be a number of nats above 0 and below 1")
    return margin


def _judged_on(value: Any) -> str:
    if value not in JUDGED:
        raise UsageError(f"judged_on {value!r}: must be one of {', '.join(JUDGED)}")
    return value


def _budget(values: Any) -> dict[str, float]:
    check_keys(values, [*BUDGETS, "evaluations"], "budget.")
    if sum(key in values for key in BUDGETS) != 1:
        raise UsageError(f"budget {values}: must name just one of {', '.join(BUDGETS)}")
    budget = {
        key: positive(f"budget.{key}", value, key in ("iterations", "evaluations"))
        for key, value in values.items()
    }
    if "seconds" in budget and "evaluations" in budget:
        problem = "the number of steps in the seconds is unknown; set train.eval_interval instead"
        raise UsageError(f"budget.evaluations: {problem}")
    return budget
