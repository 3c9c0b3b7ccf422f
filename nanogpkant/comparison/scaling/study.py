"""A study's file: families of models, a ladder of sizes and numbers of tokens; read and checked."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nanogpkant.base.errors import UsageError, prefixed
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

# Settings that the study decides for all runs, and the key of its file that does.
DECIDED = {
    **dict.fromkeys(("model.n_layer", "model.n_head", "model.n_embd"), "sizes and shape"),
    **dict.fromkeys(("train.max_iters", "train.max_seconds", "train.eval_interval"), "tokens"),
    **dict.fromkeys(("optim.decay", "optim.decay_iters", "optim.decay_lr"), "cooldown"),
    **dict.fromkeys(("optim.min_lr", "optim.lr_decay_iters"), "cooldown"),
    "optim.learning_rate": "learning_rate",
    "train.seed": "seeds",
}
OWN = ("sizes", "tokens", "seeds", "learning_rate")  # keys that a family may have for itself


@dataclass(frozen=True)
class Shape:
    """How a width becomes a model: heads of one size, and layers in proportion to the width."""

    head_size: int = 16
    width_per_layer: int = 32
    min_layers: int = 2

    def settings(self, heads: int) -> dict[str, Any]:
        """Settings of the model with so many heads."""
        width = heads * self.head_size
        layers = max(self.min_layers, round(width / self.width_per_layer))
        return {"model.n_layer": layers, "model.n_head": heads, "model.n_embd": width}


@dataclass(frozen=True)
class Family:
    """A kind of model, over all sizes."""

    name: str
    preset: str  # name of a preset, or path to a .yaml file
    overrides: dict[str, Any]  # settings that differ from the preset's, with dotted keys
    sizes: list[float]  # parameters wanted
    tokens: list[float]  # training tokens of its cells
    seeds: list[int]
    learning_rate: dict[float, float]  # by width

    def rate_at(self, width: int) -> float:
        """The line through the rates measured, in logarithms of width and rate, also beyond them.

        Constant where there is one.
        """
        (width_1, rate_1), *more = self.learning_rate.items()
        if not more:
            return rate_1
        width_2, rate_2 = more[0]
        slope = math.log(rate_2 / rate_1) / math.log(width_2 / width_1)
        return float(f"{rate_1 * (width / width_1) ** slope:.4g}")


@dataclass(frozen=True)
class Study:
    """The content of a study's file."""

    name: str  # of its folder
    about: str
    families: list[Family]  # the first is what the others are measured in
    shape: Shape
    cooldown: float  # share of a run's steps in which the rate falls to zero
    most_flops: float  # training FLOPs that no run exceeds
    repeat_flops: float  # of the dearest run that has all seeds; above, the first alone
    data: dict[str, Any]
    overrides: dict[str, Any]  # settings of all families, with dotted keys
    text: str  # the file itself


def load_study(path: Path) -> Study:
    """Read a study's file; raises as ``reading`` does."""
    with reading(path) as values:
        return _study(path, values)


def _study(path: Path, values: Any) -> Study:
    check_keys(values, [*(f.name for f in fields(Study) if f.name != "text"), *OWN])
    given = list_in(values, "families", "models")
    common = {key: values[key] for key in OWN if key in values}
    families = [_family(n, v, path.parent, common) for n, v in enumerate(given, start=1)]
    check_different("families", [family.name for family in families], "give each its own name")
    cooldown = positive("cooldown", values.get("cooldown", 0.2))
    if cooldown >= 1:
        raise UsageError(f"cooldown {cooldown:g}: must be a share of a run, below 1")
    return Study(
        name=name_in(values, path.stem),
        about=str(values.get("about") or ""),
        families=families,
        shape=_shape(values.get("shape") or {}),
        cooldown=cooldown,
        most_flops=positive("most_flops", values.get("most_flops", math.inf), finite=False),
        repeat_flops=positive("repeat_flops", values.get("repeat_flops", math.inf), finite=False),
        data=data_in(values),
        overrides=overrides_in(values, DECIDED),
        text=read_text(path),
    )


def _family(number: int, values: Any, folder: Path, common: dict[str, Any]) -> Family:
    prefix = f"families, number {number}: "
    check_keys(values, Family, prefix)
    preset = preset_in(values, folder, prefix)
    values = {"seeds": [1]} | common | values
    with prefixed(prefix.rstrip(": ")):
        return Family(
            name=name_in(values, Path(preset).stem),
            preset=preset,
            overrides=overrides_in(values, DECIDED),
            sizes=_ladder(values, "sizes"),
            tokens=_ladder(values, "tokens"),
            seeds=seeds_in(list_in(values, "seeds", "whole numbers")),
            learning_rate=_rates(values.get("learning_rate")),
        )


def _ladder(values: dict[str, Any], key: str) -> list[float]:
    numbers = sorted(positive(key, value) for value in list_in(values, key, "numbers"))
    check_different(key, numbers)
    return numbers


def _rates(given: Any) -> dict[float, float]:
    if not isinstance(given, dict) or len(given) not in (1, 2):
        example = "such as {32: 1.6e-2, 128: 8.0e-3}"
        raise UsageError(f"learning_rate {given!r}: must be rates by width, one or two, {example}")
    return {positive("learning_rate", w): positive("learning_rate", r) for w, r in given.items()}


def _shape(given: Any) -> Shape:
    check_keys(given, Shape, "shape.")
    return Shape(**{key: int(positive(f"shape.{key}", v, whole=True)) for key, v in given.items()})
