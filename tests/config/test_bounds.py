"""Every setting has bounds, and says so in one line before anything is allocated."""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.cli import main
from nanogpkant.config import ModelConfig, RunConfig, field_names, with_settings
from nanogpkant.run.load import check_fits

VALUES = [
    0,
    -1,
    1,
    2**31,
    2**63,
    10**20,
    10**400,
    1e-320,
    1e20,
    1e308,
    math.inf,
    -math.inf,
    math.nan,
    "1e20",
]


def leaves(config_class: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and type of every setting; without the None of X | None."""
    for field in dataclasses.fields(config_class):
        kind: Any = field.type
        if dataclasses.is_dataclass(kind):
            yield from leaves(kind, f"{prefix}{field.name}.")
        else:
            is_optional = typing.get_origin(kind) is types.UnionType
            yield prefix + field.name, typing.get_args(kind)[0] if is_optional else kind


NUMBERS = [name for name, kind in leaves(RunConfig) if kind in (int, float)]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [10**30, 10**400, math.inf, math.nan])
def test_every_number_has_an_upper_bound(name: str, value: float):
    if isinstance(value, int) and dict(leaves(RunConfig))[name] is float and value > 1e308:
        value = 1e308
    with pytest.raises(UsageError) as found:
        with_settings(RunConfig(), {name: value})
    assert name in str(found.value) and len(str(found.value)) < 300


@pytest.mark.parametrize(
    "name", [n for n in field_names(RunConfig) if n in dict(leaves(RunConfig))]
)
def test_no_value_of_any_setting_is_more_than_one_line(name: str):
    for value in [*VALUES, None, "", "x", [], {}, [10**30], {10**30: 10**30}, "group:" + "9" * 99]:
        try:
            with_settings(RunConfig(), {name: value})
        except UsageError as error:
            assert len(str(error).splitlines()) == 1 and len(str(error)) < 400


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("grid_range", (-1e30, 1.0)),
        ("grid_range", (0.0, math.inf)),
        ("share", f"atoms:{10**12}"),
        ("share", "group:" + "9" * 5000),
    ],
)
def test_settings_of_several_numbers(setting: str, value: object):
    with pytest.raises(UsageError, match=setting):
        with_settings(RunConfig(), {f"model.kan.{setting}": value})


@pytest.mark.parametrize("refine_at", [{1: 10**9}, {10**13: 10}])
def test_refinements_are_bounded(refine_at: dict[int, int]):
    with pytest.raises(UsageError, match="refine_at"):
        with_settings(RunConfig(), {"grid.refine_at": refine_at})


def test_a_model_that_cannot_fit_is_refused_before_it_is_built(tiny_experiment, tmp_path, capsys):
    with pytest.raises(UserError, match="parameters need at least"):
        check_fits(ModelConfig(n_layer=10**4, n_head=1, n_embd=2**20), 65)
    for flags in (
        ["--model.n_layer", "10000", "--model.n_embd", "65536"],
        ["--train.batch_size", "1048576", "--model.block_size", "1024"],
    ):
        assert main(["train", str(tiny_experiment), *flags, "--out", str(tmp_path / "r")]) == 1
        error = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert len(error) == 1 and ("GB" in error[0] or "tokens a split" in error[0])
        assert not (tmp_path / "r").exists()
