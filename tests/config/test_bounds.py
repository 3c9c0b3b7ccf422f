"""Every setting has bounds, and says so in one line before anything is allocated."""

import dataclasses
import itertools
import math
import os
import random
import types
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from nanogpkant.base.errors import UsageError, UserError, refuse
from nanogpkant.cli import function_of, main
from nanogpkant.config import ModelConfig, RunConfig, field_names, with_settings
from nanogpkant.run.load import check_fits
from nanogpkant.training import opening
from nanogpkant.verbs import flags

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


ABSURD = ["0", "-1", "1e30", "nan", "inf", "1e-320", "9" * 30, "9" * 5000, "", "[1, 2]", "{a: 1}"]
ABSURD += ["null", "true", "../../no/such", "é日\u202e", "x" * 20_000, "[" * 3000, "&a [*a]"]


def test_any_value_of_any_flag_is_taken_or_refused_in_one_line(
    tiny_experiment, tmp_path, capsys, monkeypatch
):
    """Before a model is made; the error names the flag, or the path that it gave.

    ``ABSURD=18 pytest --timeout 900 tests/config/test_bounds.py`` gives every flag all values.
    """
    verb = function_of("train")
    parser = flags.parser_of("train", verb, with_all_settings=True)
    monkeypatch.setattr(flags, "parser_of", lambda *_, **__: parser)  # made once
    monkeypatch.setattr(opening, "make_model", lambda *_: refuse("taken", "", ""))
    here = tmp_path / "deep" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    ends = ("--help", "--help_all", "--print_config", "--debug", "--json")
    every = [f for a in parser._actions for f in a.option_strings if f.startswith("--")]
    names = [name for name in every if not name.startswith(ends) and not name.endswith("+")]
    assert len(names) > 65
    chance, taken = random.Random(0), set()
    for name in names:
        for value in chance.sample(ABSURD, int(os.environ.get("ABSURD", "2"))):
            out = [] if name == "--out" else ["--out", "r"]
            status = main(["train", str(tiny_experiment), *out, f"{name}={value}"])
            (line,) = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("note")]
            assert status in (1, 2) and line.startswith("error: ") and len(line) < 900
            if line.startswith("error: --taken"):
                taken.add(name)
            else:
                told = (name.removeprefix("--"), value[:20], repr(value)[1:20])
                assert any(each in line for each in told), (name, value, line)
    assert "--about" in taken
    assert not {"--resume", "--config", "--model"} & taken
    assert {path.name for path in here.iterdir()} <= {*ABSURD, "corpus"}  # of data


@pytest.mark.parametrize("name", ["data.dataset", "data.file", "data.dir", "train.init_from"])
@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 256, "a/" * 2100])
def test_what_cannot_be_a_path(name: str, text: str):
    with pytest.raises(UsageError, match=name):
        with_settings(RunConfig(), {name: text})


@pytest.mark.parametrize("flag", ["--config", "--model"])
@pytest.mark.parametrize("text", ["aliases", "itself", "depth"])
def test_a_file_of_flags_is_bounded(flag, text, tiny_experiment, tmp_path, capsys, monkeypatch):
    """As a preset is: here it is jsonargparse that reads it."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for old, new in itertools.pairwise("abcdefghi"):
        lines.append(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]")
    texts = {"aliases": "\n".join(lines), "itself": "a: &a [*a]", "depth": "a: " + "[" * 5000}
    (tmp_path / "f.yaml").write_text(texts[text], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(tiny_experiment), "--out", "r", flag, "f.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert flag in line or "parsing config" in line


def test_a_model_that_cannot_fit_is_refused_before_it_is_built(tiny_experiment, tmp_path, capsys):
    with pytest.raises(UserError, match="parameters need at least"):
        check_fits(ModelConfig(n_layer=10**4, n_head=1, n_embd=2**20), 65)
    for given in (
        ["--model.n_layer", "10000", "--model.n_embd", "65536"],
        ["--train.batch_size", "1048576", "--model.block_size", "1024"],
    ):
        assert main(["train", str(tiny_experiment), *given, "--out", str(tmp_path / "r")]) == 1
        error = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert len(error) == 1 and ("GB" in error[0] or "tokens a split" in error[0])
        assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("cap", [1e-320, 1e-30, 9e-4])
def test_a_soft_limit_that_logits_would_overflow(cap: float):
    with pytest.raises(UsageError, match=r"model\.logit_softcap"):
        with_settings(RunConfig(), {"model.logit_softcap": cap})


def test_a_message_of_the_parser_is_put_in_plain_words_to_its_end():
    said = """Parser key "model": Unable to load config 'xxx' - no such file"""
    wanted = "--model xxx: must be keys and values, or a YAML file of them"
    assert flags.in_plain_words(said) == wanted
    assert flags.in_plain_words("Option 'xyz' is not accepted").startswith("--config: unknown")
