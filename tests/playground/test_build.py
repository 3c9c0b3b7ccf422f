"""play as a command: what it writes, and what it cannot."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nanogpkant.cli import main
from nanogpkant.interpretation.show.mathml import spoken
from nanogpkant.playground import build


def data_of(file):
    pattern = r'<script type="application/json" id="run">(.*?)</script>'
    return json.loads(re.search(pattern, file.read_text(encoding="utf-8"), re.DOTALL)[1])


def test_the_command_says_what_the_page_costs(run_with_curves, tmp_path, capsys):
    sizes = {}
    for weights in ("float32", "bfloat16", "int8"):
        out = tmp_path / f"{weights}.html"
        flags = ["--out", str(out), "--weights", weights]
        assert main(["play", str(run_with_curves), *flags, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["bytes"] == out.stat().st_size and answer["step"] > 0
        assert answer["functions"] == 2 * (16 * 64 * 2) + 2 * 2  # edges, and heads
        assert answer["loss"]["page"] == pytest.approx(answer["loss"]["exact"], abs=0.05)
        sizes[weights] = out.stat().st_size
    assert sizes["int8"] < sizes["bfloat16"] < sizes["float32"]


def test_a_text_of_ones_own(run_with_curves, tmp_path, capsys):
    text, out = tmp_path / "text.txt", tmp_path / "page.html"
    text.write_text("I hear you. " * 30, encoding="utf-8")
    flags = ["--out", str(out), "--text", str(text)]
    assert main(["play", str(run_with_curves), *flags]) == 0
    assert len(data_of(out)["text"]) == 360
    text.write_text("I", encoding="utf-8")
    assert main(["play", str(run_with_curves), *flags]) == 1
    assert "has 1 tokens; it needs 17 or more" in capsys.readouterr().err


def test_a_run_that_is_too_large(run_with_curves, tmp_path, capsys, monkeypatch):
    out = tmp_path / "page.html"
    for limit, remedy in ((3e4, "--weights int8"), (1e3, "play a smaller model")):
        monkeypatch.setattr(build, "LARGEST", limit)
        assert main(["play", str(run_with_curves), "--out", str(out)]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "parameters" in line and remedy in line
    assert not out.exists()


def test_a_pruned_run(tiny_run, tmp_path, capsys):
    pruned, out = tmp_path / "pruned", tmp_path / "page.html"
    shutil.copytree(tiny_run, tmp_path / "run")  # prune leaves what it has seen there
    assert main(["prune", str(tmp_path / "run"), "--share", "0.5", "--out", str(pruned)]) == 0
    capsys.readouterr()
    assert main(["play", str(pruned), "--out", str(out)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "is pruned" in line and "play the run that it was pruned from" in line


def test_without_the_packages_of_interpret_there_are_no_formulas(
    run_with_curves, tmp_path, monkeypatch
):
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    out = tmp_path / "page.html"
    assert main(["play", str(run_with_curves), "--out", str(out)]) == 0
    layers = data_of(out)["functions"]
    assert all(each["formulas"] is None for each in (*layers["curves"], *layers["layers"]))


def text_of(tree) -> str:
    return tree if isinstance(tree, str) else "".join(map(text_of, tree[1:]))


@pytest.mark.parametrize(
    ("formula", "wanted"),
    [
        ("-0.5 + 2*x", "\u22120.5+2\u2062x"),
        ("1.2e-07*(x - 3)^2", "1.2·10-7\u2062(x\u22123)2"),
        ("0.3*tanh(2*x + 1)/(x - 4)", None),
        ("1 - 2*s + abs(s), s = log2(1 + d)", None),
        ("3*sqrt(2*x + 1) + 0.1*(x)^3 - 2*gaussian(1*x)", None),
    ],
)
def test_formulas_as_mathml(formula, wanted):
    terms = spoken(formula)
    if wanted:
        assert (
            "".join(text_of(piece) for term in terms for piece in term).replace("\u00a0", "")
            == wanted
        )


def test_what_is_no_formula_is_refused():
    with pytest.raises(ValueError, match="no part of a formula"):
        spoken("__import__('os').system('x')")


def test_the_playground_needs_no_extra_package():
    code = "import sys; sys.modules['pandas'] = None; import nanogpkant.playground.build"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_names_the_run_as_it_was_given(tiny_run, tmp_path, monkeypatch):
    shutil.copytree(tiny_run, tmp_path / "runs" / "seed-1")
    monkeypatch.chdir(tmp_path)
    for name, shown in (("runs/seed-1", "runs/seed-1"), (str(tiny_run), tiny_run.name)):
        assert main(["play", name, "--out", "page.html"]) == 0
        assert data_of(Path("page.html"))["run"] == shown
