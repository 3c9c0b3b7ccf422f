"""The commands and the Python of docs/kanify.md."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from test_nanogpt import TEXT, save

from nanogpkant.cli import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "kanify.md"


def blocks(language: str) -> list[str]:
    form = rf"^```{language}\n(.*?)^```$"
    return re.findall(form, PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_its_commands_work(gpt2, plain_run, tmp_path, monkeypatch, capsys) -> None:
    gpt2("gpt2-tiny", n_embd=24)
    shutil.copytree(plain_run, tmp_path / "runs" / "quickstart_gpt")
    (tmp_path / "input.txt").write_text(TEXT)
    save(tmp_path, is_kan=True)
    monkeypatch.chdir(tmp_path)
    for line in "".join(blocks("bash")).splitlines():
        assert main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
    assert main(["sample", "runs/original", "--tokens", "3"]) == 0


def test_its_python_runs(tmp_path, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    exec("\n".join(blocks("python")), {})
    assert (tmp_path / "edges.png").stat().st_size > 1000
