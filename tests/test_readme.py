"""README's commands are run, and its claims about files are looked at.

Commands run in a folder of their own, where runs/quickstart_kan and its like are copies of a tiny
run. Training is not repeated here (other tests train): a train command must resolve its whole
configuration, flags and all.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nanogpkant.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code(language: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [block for name, block in blocks if name == language]


def commands(program: str) -> list[list[str]]:
    lines = [line for block in code("bash") for line in block.splitlines()]
    split = [shlex.split(line, comments=True) for line in lines]
    return [words for words in split if words and words[0] == program]


@pytest.fixture
def newcomer(tiny_run, corpus, tmp_path, monkeypatch) -> Path:
    """A folder with the runs that README's earlier commands would have made."""
    for name in ("quickstart_kan", "quickstart_gpt", "wide"):
        shutil.copytree(tiny_run, tmp_path / "runs" / name)
    shutil.copy(corpus, tmp_path / "corpus.txt")
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", commands("nanogpkant"), ids=shlex.join)
def test_the_commands_work(words, newcomer, capsys):
    if words[1] == "train":
        words = [*words, "--print_config"]
    if words[1] == "prepare":
        pytest.skip("downloads; tests/data covers it with a stand-in for the network")
    if words[1] == "sample":  # the tiny run has never seen README's prompt
        words[words.index("--prompt") + 1] = "Speak"
    if words[1] == "bench":  # a layer of 4 by 4 alone, not minutes of everybody's
        words = [*words, "--inputs", "4", "--rows", "16", "--rivals", "none", "--repeats", "3"]
    if words[1] == "interpret":  # little text, and one layer of the model that comes with it
        layers = [] if "runs/quickstart_kan" in words else ["--layers", "blocks.1.mlp.out"]
        words = [*words, "--budget", "64", *layers]
    assert main(words[1:]) == 0, capsys.readouterr().err
    if "--plot" in words:
        assert (newcomer / "runs" / "quickstart.png").stat().st_size > 10_000


@pytest.mark.parametrize("words", commands("make"), ids=shlex.join)
def test_the_make_targets_exist(words):
    subprocess.run([*words, "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("block", code("python"))
def test_the_python_runs(block):
    subprocess.run([sys.executable, "-c", block], check=True)


def test_there_are_commands_to_run():
    assert {words[1] for words in commands("nanogpkant")} == {
        "presets",
        "train",
        "sample",
        "eval",
        "compare",
        "prepare",
        "bench",
        "match",
        "track",
        "export",
        "interpret",
    }
    assert [words[1] for words in commands("make")] == ["quickstart", "test", "bench"]
    assert len(code("python")) == 1


def test_every_file_that_readme_names_exists():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert pictures
    assert all((ROOT / path).is_file() for path in pictures + links)


def test_the_file_map_is_the_package():
    """Every module is on the map, and everything on the map exists."""
    (tree,) = [block for block in code("") if "nanogpkant/" in block]
    named = set(re.findall(r"([a-z_]+\.py)", tree))
    top = {p.name for p in (ROOT / "nanogpkant").glob("*.py")} - {
        "__init__.py",
        "errors.py",
        "files.py",
    }
    assert top <= named
    everywhere = {p.name for p in (ROOT / "nanogpkant").rglob("*.py")}
    assert named <= everywhere
