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

from benchmarks.speed.__main__ import main as benchmark
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
def newcomer(run_with_curves, corpus, tmp_path, monkeypatch) -> Path:
    """A folder with the runs that README's earlier commands would have made."""
    for name in ("quickstart_kan", "quickstart_gpt", "wide"):
        shutil.copytree(run_with_curves, tmp_path / "runs" / name)
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
    if words[1] == "interpret":  # little text, and one layer of the model that comes with it
        words = [*words, "--budget", "64"]
        if "quickstart_kan" not in words:
            words += ["--layers", "blocks.1.mlp.out"]
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
        "experiment",
        "prune",
        "match",
        "track",
        "export",
        "interpret",
        "play",
    }
    assert [words[1] for words in commands("make")] == ["quickstart", "test", "bench"]
    assert len(code("python")) == 2


def test_every_file_that_readme_names_exists():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert pictures
    assert all((ROOT / path).is_file() for path in pictures + links)


def test_the_map_names_every_room():
    (tree,) = [block for block in code("") if "nanogpkant/" in block]
    named = set(re.findall(r"([a-z_]+)(?:/|\.py)", tree))
    package = ROOT / "nanogpkant"
    rooms = {p.stem for p in package.glob("*.py")} | {p.parent.name for p in package.glob("*/*.py")}
    assert rooms - {"__init__", "__main__", "nanogpkant"} <= named
    assert all(
        (package / n).is_dir() or (ROOT / n).is_dir() or (package / f"{n}.py").is_file()
        for n in named
    )


@pytest.mark.parametrize("words", commands("python"), ids=shlex.join)
def test_the_benchmarks_have_these_flags(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark([*words[3:], "--help"])
    assert stopped.value.code == 0
    assert all(word in capsys.readouterr().out for word in words if word.startswith("--"))
