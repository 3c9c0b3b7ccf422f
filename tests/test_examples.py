"""The scripts of examples/ run, and say what they promise."""

import os
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
