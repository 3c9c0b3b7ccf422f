"""The verb prepare, in Python and in the shell."""

import doctest
import json
import shutil

import pytest

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.cli import main
from nanogpkant.data import DATASETS, TokenData, ensure, load_tokenizer
from nanogpkant.pretrained import pretrained_folder
from nanogpkant.verbs import prepare as module
from nanogpkant.verbs.prepare import prepare


def test_its_example():
    assert doctest.testmod(module).failed == 0


def test_every_dataset_is_in_its_help():
    assert [name for name in DATASETS if name not in prepare.__doc__] == []


def test_the_answer(corpus, tmp_path):
    answer = prepare("own", file=str(corpus), dir=str(tmp_path), tokenizer="byte")
    assert answer.folder == tmp_path / "own"
    assert answer.meta == TokenData.open(answer.folder).meta
    assert answer.as_dict() == {"folder": str(answer.folder), **answer.meta}
    assert answer.words() == f"own is ready in {tmp_path / 'own'}"
    with pytest.raises(UsageError, match="--workers 0: must be at least 1"):
        prepare("own", dir=str(tmp_path), workers=0)


def test_the_tokenizer_of_a_run(corpus, tmp_path):
    name = "pretrained:shakespeare-mini-kan"
    answer = prepare("own", file=str(corpus), dir=str(tmp_path), tokenizer=name)
    trained = load_tokenizer(pretrained_folder("shakespeare-mini-kan") / "tokenizer.json")
    assert TokenData.open(answer.folder).tokenizer == trained
    with pytest.raises(UsageError, match="neither one of char, byte, gpt2, bpe nor a file"):
        prepare("other", file=str(corpus), dir=str(tmp_path), tokenizer="gpt3")
    with pytest.raises(UsageError, match="--file '': must name a text"):
        prepare("other", file="", dir=str(tmp_path))


def test_a_tokenizer_is_known_by_its_tokens(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare("first", file=str(corpus), tokenizer="bpe", vocab_size=270)
    prepare("second", file=str(corpus), tokenizer="data/first")
    prepare("second", file=str(corpus), tokenizer="./data/first")
    ensure("second", tmp_path / "data", corpus)
    shutil.rmtree("data/first")
    ensure("second", tmp_path / "data", corpus)
    prepare("first", file=str(corpus), tokenizer="bpe", vocab_size=280)
    with pytest.raises(UserError, match="with --tokenizer data/first, not data/first as it is now"):
        prepare("second", file=str(corpus), tokenizer="data/first")


def test_the_shell(tmp_path, capsys):
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(f"line {number}" for number in range(100)), encoding="utf-8")
    command = ["prepare", "own", "--file", str(file), "--dir", str(tmp_path / "data"), "--json"]
    flags = ["--separator", "\\n", "--val_fraction", "0.3", "--tokenizer", "byte"]
    assert main([*command, *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["separator"] == "\n"
    assert found["folder"] == str(tmp_path / "data/own")
    assert 680 < found["train_tokens"] + found["val_tokens"] < 800
