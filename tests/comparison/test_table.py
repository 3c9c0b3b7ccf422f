"""Runs side by side: the figures are those of the runs, the picture is a picture."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from nanogpkant.cli import main
from nanogpkant.comparison.runs import load_runs
from nanogpkant.comparison.table import compare_runs, table
from nanogpkant.report.theme import COLOURS
from nanogpkant.run.load import load_model
from nanogpkant.run.metrics import read_metrics


@pytest.fixture
def other_run(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "other")
    return tmp_path / "other"


def test_the_rows_are_what_the_runs_say(tiny_run, other_run):
    rows = compare_runs(load_runs([tiny_run, other_run]))
    assert [row["run"] for row in rows] == ["tiny", "other"]
    evaluations = [r for r in read_metrics(tiny_run / "metrics.jsonl") if r["split"] == "val"]
    best = min(evaluations, key=lambda r: r["loss"])
    row = rows[0]
    assert (row["best_val_loss"], row["perplexity"]) == (best["loss"], best["perplexity"])
    assert row["val_loss"] == evaluations[-1]["loss"]
    assert row["tokens_per_second"] == pytest.approx(12 * 4 * 16 / evaluations[-1]["seconds"])
    folded = load_model(tiny_run).model  # without the 2 * 2 * 16 * 64 spline scales
    counted = sum(p.numel() for p in folded.parameters())
    assert row["parameters"] == counted + 2 * 2 * 16 * 64


def test_the_table_holds_every_run_and_column(tiny_run, other_run):
    rows = compare_runs(load_runs([tiny_run, other_run]))
    text = table(rows, list(range(len(rows))))
    assert "tiny" in text
    assert "other" in text
    assert text.count(f"{rows[0]['best_val_loss']:.4f}") >= 2


def test_names_have_their_models_colour_in_a_terminal(tiny_run, other_run, monkeypatch):
    rows = compare_runs(load_runs([tiny_run, other_run]))
    plain = table(rows, [1, 0])
    for name, value in (("FORCE_COLOR", "1"), ("COLORTERM", "truecolor"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    head = table(rows, [1, 0]).split("\n")[0]
    red, blue = (tuple(bytes.fromhex(colour[1:])) for colour in COLOURS[:2])
    for name, (r, g, b) in (("tiny", blue), ("other", red)):
        assert f"\x1b[38;2;{r};{g};{b}m{name}\x1b[0m" in head
    assert re.sub(r"\x1b\[[\d;]+m", "", head) == plain.split("\n")[0]


def test_compare_prints_json_or_a_table_and_plots(tiny_run, other_run, tmp_path, capsys):
    runs = [str(tiny_run), str(other_run)]
    assert main(["compare", *runs, "--json"]) == 0
    assert [row["run"] for row in json.loads(capsys.readouterr().out)] == ["tiny", "other"]
    picture = tmp_path / "plots" / "curves.png"
    assert main(["compare", *runs, "--plot", str(picture)]) == 0
    told = capsys.readouterr().out
    assert "best val loss" in told
    assert "other repeats tiny with the same seed: counted once." in told
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 10_000


def test_runs_on_different_data_are_not_passed_off_as_comparable(tiny_run, other_run, capsys):
    environment = json.loads((other_run / "environment.json").read_text(encoding="utf-8"))
    environment["data_fingerprint"] = "something else"
    (other_run / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    assert main(["compare", str(tiny_run), str(other_run)]) == 0
    assert "different data" in capsys.readouterr().err


def test_what_is_no_run_or_has_no_evaluation(tiny_run, other_run, tmp_path, capsys):
    assert main(["compare", str(tmp_path)]) == 1
    assert "is not a run" in capsys.readouterr().err
    (other_run / "metrics.jsonl").write_text("", encoding="utf-8")
    assert main(["compare", str(other_run)]) == 1
    assert "no evaluation yet" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["matplotlib", "jinja2", "scipy"])
def test_a_missing_package_is_named_with_its_remedy(package, make_run, tmp_path):
    code = """
import sys
package, run, to = sys.argv[1:]
sys.modules[package] = None
from nanogpkant.cli import main
assert [main(["compare", run, flag, to]) for flag in ("--plot", "--out")] == [1, 1]
"""
    command = [sys.executable, "-c", code, package, make_run("run", [4, 3]), tmp_path / "to.png"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    remedy = f"needs the {package} package: pip install 'nanogpkant[compare]'"
    assert done.stderr.count(remedy) == 2
    assert not (tmp_path / "to.png").exists()
