import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpkant.data import Batches, TokenData, blocks, check_length, prepare
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


# --- check_length


def test_check_length():
    check_length(np.zeros(9, dtype=np.uint16), 8, "val")
    with pytest.raises(UserError, match=r"--model.block_size 8 needs 9 tokens .* val split has 8"):
        check_length(np.zeros(8, dtype=np.uint16), 8, "val")


# --- Batches


@given(
    length=st.integers(2, 300),
    block_size=st.integers(1, 50),
    batch_size=st.integers(1, 8),
    seed=st.integers(0, 2**32),
    index=st.integers(0, 10**9),
)
def test_targets_are_inputs_one_token_later(length, block_size, batch_size, seed, index):
    block_size = min(block_size, length - 1)
    tokens = np.arange(length, dtype=np.uint16)
    x, y = Batches(tokens, block_size, batch_size, seed).batch(index)
    assert x.shape == y.shape == (batch_size, block_size)
    assert x.dtype == y.dtype == torch.int64
    assert x.is_contiguous() and y.is_contiguous()
    assert torch.equal(y, x + 1)  # the tokens count up, so this checks the whole window
    assert torch.equal(x, x[:, :1] + torch.arange(block_size))
    assert x.min() >= 0
    assert y.max() < length


def test_a_batch_depends_on_seed_and_index_alone():
    tokens = np.arange(1000, dtype=np.uint16)
    in_order = [Batches(tokens, 8, 4, seed=1).batch(i) for i in range(20)]
    resumed = Batches(tokens, 8, 4, seed=1)
    for index in reversed(range(20)):
        assert torch.equal(resumed.batch(index)[0], in_order[index][0])
    inputs = torch.stack([x for x, _ in in_order])
    assert len(inputs.flatten(1).unique(dim=0)) == 20
    assert not torch.equal(Batches(tokens, 8, 4, seed=2).batch(0)[0], in_order[0][0])


@pytest.mark.parametrize(("length", "block_size"), [(12, 4), (5, 4), (100, 1)])
def test_every_start_is_possible_and_equally_likely(length, block_size):
    starts = length - block_size
    tokens = np.arange(length, dtype=np.uint16)
    x, _ = Batches(tokens, block_size, 1000 * starts, seed=0).batch(0)
    counts = torch.bincount(x[:, 0])
    assert len(counts) == starts
    assert (counts - 1000).abs().max() < 6 * 1000**0.5  # six standard deviations


def test_batches_from_a_prepared_dataset(folder):
    data = TokenData.open(folder)
    x, y = Batches(data.train, 16, 3, seed=0).batch(0)
    for row, target in zip(x, y, strict=True):
        assert data.tokenizer.decode(row) in TEXT
        assert data.tokenizer.decode(row)[1:] == data.tokenizer.decode(target)[:-1]
    x.fill_(0)  # a copy: the files are read-only


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_a_device():
    batches = Batches(np.arange(1000, dtype=np.uint16), 8, 4, seed=0)
    for on_cpu, on_device in zip(batches.batch(3), batches.batch(3, "cuda"), strict=True):
        assert on_device.is_cuda
        assert torch.equal(on_device.cpu(), on_cpu)


# --- blocks


@settings(max_examples=200)
@given(length=st.integers(1, 200), block_size=st.integers(1, 50), batch_size=st.integers(1, 8))
def test_blocks_ask_for_each_prediction_once_in_order(length, block_size, batch_size):
    tokens = np.random.default_rng(0).integers(1000, size=length).astype(np.uint16)
    pairs = list(blocks(tokens, block_size, batch_size))
    inputs = [x.flatten() for x, _ in pairs]
    targets = [y.flatten() for _, y in pairs]
    assert torch.cat([torch.empty(0), *inputs]).tolist() == tokens[:-1].tolist()
    assert torch.cat([torch.empty(0), *targets]).tolist() == tokens[1:].tolist()
    full, rest = divmod(length - 1, block_size)
    rows = [x.shape for x, _ in pairs]
    assert rows == [
        *[(batch_size, block_size)] * (full // batch_size),
        *[(full % batch_size, block_size)] * (full % batch_size > 0),
        *[(1, rest)] * (rest > 0),
    ]
