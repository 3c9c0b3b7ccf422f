"""``python -m benchmarks.speed``: help, answers to bad flags, output."""

import json

import pytest

from benchmarks.speed import gate
from benchmarks.speed.__main__ import BENCHES, main

TINY = ["--inputs", "4", "--rows", "20", "--rivals", "none", "--repeats", "3", "--device", "cpu"]


@pytest.mark.parametrize("kind", BENCHES)
def test_every_kind_has_help_with_defaults(kind, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([kind, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "--repeats" in text
    assert "default: " in text


def test_help_lists_the_benchmarks(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {kind} " in text for kind in BENCHES)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["layer", "--repeats", "0"], "--repeats 0: must be above 0"),
        (["layer", "--inputs", "-3"], "--inputs -3: must be above 0"),
        (["layer", "--outputs", "3"], "say --inputs too"),
        (["layer", "--shapes", "narrow"], "--shapes"),
        (["layer", "--sweep", "depth"], "--sweep"),
        (["layer", "--repeat", "3"], "did you mean --repeats?"),
        (["layer", "--device", "toaster"], "--device toaster: must be auto, cpu"),
        (["step", "--batch_size", "0"], "--batch_size 0"),
        (["step", "--sweep", "grid"], "--sweep"),
        (["sample", "--tokens", "0"], "--tokens 0"),
        (["sample", "--preset", "nobody"], "unknown preset nobody"),
        (["gpu", "--minutes", "0"], "--minutes 0"),
        (["cake"], "cake"),
        ([], "name a benchmark: known are layer, step, sample, gpu"),
    ],
)
def test_bad_flags_get_one_line(arguments, words, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert words in line


def test_a_table_or_one_json_object(capsys):
    assert main(["layer", *TINY, "--dtypes", "fp32"]) == 0
    assert "| layer | dtype | contender |" in capsys.readouterr().out
    assert main(["layer", *TINY, "--dtypes", "fp32", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["title", "machine", "command", "tables", "goals", "notes", "wrong"]


def test_a_gate_that_ours_does_not_pass_is_a_failure(capsys, monkeypatch):
    monkeypatch.setitem(gate.TOLERANCE, "fp32", 0.0)
    assert main(["layer", *TINY, "--dtypes", "fp32"]) == 1
    assert "error: a gate was not passed: nanogpkant, 4 -> 4, fp32" in capsys.readouterr().err
