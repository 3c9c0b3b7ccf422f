import json

import numpy as np
import pytest

from nanogpkant.data import Batches, TokenData, prepare
from nanogpkant.errors import UserError

TEXT = "to be or not to be, that is the question: " * 10


@pytest.fixture
def folder(tmp_path):
    file = tmp_path / "hamlet.txt"
    file.write_text(TEXT, encoding="utf-8")
    return prepare("hamlet", tmp_path / "data", file)


# --- TokenData


def test_open(folder):
    data = TokenData.open(folder)
    cut = int(0.9 * len(TEXT))
    assert data.tokenizer.decode(data.train) == TEXT[:cut]
    assert data.tokenizer.decode(data.val) == TEXT[cut:]
    assert data.split("train") is data.train
    assert data.split("val") is data.val
    assert data.vocab_size == len(set(TEXT))
    assert len(data.fingerprint) == 64
    data.verify()


def test_token_files_are_mapped_and_cannot_be_written(folder):
    train = TokenData.open(folder).train
    assert isinstance(train, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        train[0] = 1


def test_unknown_split(folder):
    with pytest.raises(UserError, match="no split 'test'; choose one of train, val"):
        TokenData.open(folder).split("test")


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="nanogpkant prepare shakespeare_char"):
        TokenData.open(tmp_path / "shakespeare_char")


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "tokenizer.json", "meta.json"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=name):
        TokenData.open(folder)


@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b"", lambda b: b + b"\0\0"])
def test_token_file_of_another_size(folder, name, change):
    file = folder / name
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(UserError, match=rf"damaged \({name} has .* remove that folder and run"):
        TokenData.open(folder)


def test_altered_token_file_of_the_same_size(folder):
    file = folder / "train.bin"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="fingerprint"):
        TokenData.open(folder).verify()


@pytest.mark.parametrize(
    "change",
    [
        {"format": None},
        {"train_tokens": "378"},
        {"train_tokens": 0},
        {"val_tokens": -42},
        {"vocab_size": True},
        {"vocab_size": 65},
        {"dtype": "uint32"},
        {"dtype": None},
        {"fingerprint": None},
        {"source_sha256": 1},
    ],
)
def test_altered_meta(folder, change):
    path = folder / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}), encoding="utf-8")
    with pytest.raises(UserError, match=r"meta\.json"):
        TokenData.open(folder)


@pytest.mark.parametrize("content", ["", '{"format": 1', "[]", "{}"])
def test_broken_meta(folder, content):
    (folder / "meta.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"meta\.json"):
        TokenData.open(folder)


def test_another_format_says_so(folder):
    path = folder / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}), encoding="utf-8")
    with pytest.raises(UserError, match="has format 2 where this version reads 1: remove"):
        TokenData.open(folder)


def test_batches_from_a_prepared_dataset(folder):
    data = TokenData.open(folder)
    x, y = Batches(data.train, 16, 3, seed=0).batch(0)
    for row, target in zip(x, y, strict=True):
        assert data.tokenizer.decode(row) in TEXT
        assert data.tokenizer.decode(row)[1:] == data.tokenizer.decode(target)[:-1]
    x.fill_(0)  # a copy: the files are read-only
