"""``nanogpkant bench``: its help, its answers to bad flags, what it prints."""

import json
import subprocess
import sys

import pytest
from benchmarks.speed.flags import KINDS

from benchmarks.speed import gate
from nanogpkant.cli import main

TINY = ["--inputs", "4", "--rows", "20", "--rivals", "none", "--repeats", "3", "--device", "cpu"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_help_with_defaults(kind, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", kind, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "--repeats" in text
    assert "default: " in text


def test_help_comes_without_loading_torch():
    code = "import sys; from nanogpkant.cli import main; main(['bench', 'layer', '--help'])"
    check = f"try:\n  {code}\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", f"import sys\n{check}"], check=True, capture_output=True)


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
        (["step", "--sweep", "grid"], "unknown flag --sweep"),
        (["sample", "--tokens", "0"], "--tokens 0"),
        (["sample", "--preset", "nobody"], "unknown preset nobody"),
        (["gpu", "--minutes", "0"], "--minutes 0"),
        (["cake"], "cake"),
        ([], "what"),
    ],
)
def test_bad_flags_get_one_line(arguments, words, capsys):
    assert main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert words in line


def test_a_table_or_one_json_object(capsys):
    assert main(["bench", "layer", *TINY, "--dtypes", "fp32"]) == 0
    assert "| layer | dtype | contender |" in capsys.readouterr().out
    assert main(["bench", "layer", *TINY, "--dtypes", "fp32", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["title", "machine", "command", "tables", "goals", "notes", "wrong"]


def test_a_gate_that_ours_does_not_pass_is_a_failure(capsys, monkeypatch):
    monkeypatch.setitem(gate.TOLERANCE, "fp32", 0.0)
    assert main(["bench", "layer", *TINY, "--dtypes", "fp32"]) == 1
    assert "error: a gate was not passed: nanogpkant, 4 -> 4, fp32" in capsys.readouterr().err
