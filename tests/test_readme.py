"""Commands of README and of the docs beside it are run, and their claims about files looked at.

Commands run in a folder of their own, where runs/quickstart_kan and its like are copies of a tiny
run. Training is not repeated here (other tests train): a train command must resolve its whole
configuration, flags and all.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks.speed.__main__ import main as benchmark
from nanogpkant.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md"] + [
    ROOT / "docs" / f"{name}.md"
    for name in ("original", "comparing", "looking_inside", "layer", "results")
]


# Beside the interpreter that runs the tests, whether its environment is active or not.
HADOLINT = shutil.which("hadolint", path=Path(sys.executable).parent)


def code(language: str) -> list[str]:
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    blocks = [re.findall(r"^```(\w*)\n(.*?)^```$", t, re.MULTILINE | re.DOTALL) for t in texts]
    found = [block for of_page in blocks for name, block in of_page if name == language]
    return list(dict.fromkeys(found))


def commands(program: str) -> list[list[str]]:
    lines = [line for block in code("bash") for line in block.splitlines()]
    split = [shlex.split(line, comments=True) for line in lines]
    found = [tuple(words) for words in split if words and words[0] == program]
    return [list(words) for words in dict.fromkeys(found)]


def absent() -> set[str]:
    """Modules of the extras that ``make quickstart`` does not install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installed = re.search(r"/\.ready: EXTRAS := ([\w,]+)", makefile)
    modules = {
        extra: {re.match(r"[\w-]+", package)[0].replace("-", "_") for package in packages}
        for extra, packages in project["optional-dependencies"].items()
        if extra not in ("dev", "docs", "all")
    }
    present = set().union(*(modules.pop(extra) for extra in installed[1].split(",")))
    return set().union(*modules.values()) - present


@pytest.fixture
def newcomer(run_with_curves, corpus, tmp_path, monkeypatch) -> Path:
    """A folder with the runs that README's earlier commands would have made, and no other extra."""
    others = absent()
    for name in [*sys.modules, *others]:
        if name.partition(".")[0] in others:
            monkeypatch.setitem(sys.modules, name, None)
    for name in ("quickstart_kan", "quickstart_gpt", "wide"):
        shutil.copytree(run_with_curves, tmp_path / "runs" / name)
    shutil.copy(corpus, tmp_path / "corpus.txt")
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("words", commands("nanogpkant"), ids=shlex.join)
def test_the_commands_work(words, newcomer, capsys):
    if words[1] == "train":
        words = [*words, "--print_config"]
    if words[1] == "prepare":
        pytest.skip("downloads; tests/data covers it with a stand-in for the network")
    if words[1] == "sample":  # the tiny run has never seen README's prompt
        words[words.index("--prompt") + 1] = "Speak"
    if words[1] == "interpret":  # little text, and one layer of the model that comes with it
        words = [*words, "--budget", "64", "--top", "2"]
        if "quickstart_kan" not in words:
            words += ["--layers", "blocks.1.mlp.out"]
    assert main(words[1:]) == 0, capsys.readouterr().err
    if "--plot" in words:
        assert (newcomer / "runs" / "quickstart.png").stat().st_size > 10_000


@pytest.mark.parametrize("words", commands("make"), ids=shlex.join)
def test_the_make_targets_exist(words):
    subprocess.run([*words, "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("block", code("python"))
def test_the_python_runs(block, newcomer):
    exec(block, {})


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
        "play",
        "interpret",
    }
    assert [words[1] for words in commands("make")] == ["quickstart", "test", "bench"]
    assert len(code("python")) == 3


def test_readme_is_short():
    assert len(PAGES[0].read_text(encoding="utf-8").split()) <= 1200


@pytest.mark.parametrize(
    "page", [PAGES[0], *sorted(ROOT.glob("docs/*.md"))], ids=lambda page: page.stem
)
def test_every_file_that_a_page_names_exists(page: Path):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert all((page.parent / link).exists() for link in links if "://" not in link)


def test_the_map_names_every_room():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`(\w+)(?:/|\.py)`", " ".join(cells)))
    package = ROOT / "nanogpkant"
    rooms = {p.stem for p in package.glob("*.py")} | {p.parent.name for p in package.glob("*/*.py")}
    assert rooms - {"__init__", "__main__"} == named


@pytest.mark.parametrize("words", commands("python"), ids=shlex.join)
def test_the_benchmarks_have_these_flags(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark([*words[3:], "--help"])
    assert stopped.value.code == 0
    assert all(word in capsys.readouterr().out for word in words if word.startswith("--"))


@pytest.mark.skipif(HADOLINT is None, reason="needs hadolint")
def test_the_dockerfile_is_sound():
    done = subprocess.run([HADOLINT, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
