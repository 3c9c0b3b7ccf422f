import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from hypothesis.extra.numpy import arrays as arrays_of

from nanogpkant.base.errors import UserError
from nanogpkant.data import Batches, TokenData, Tokens, prepare

SHARD_FILES = ["train-00000.bin", "val-00000.bin"]
SHARDS = [{"file": "train-00000.bin", "tokens": 378, "sha256": ""}]
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
    assert isinstance(train._shards[0].base, np.memmap)
    with pytest.raises(TypeError):
        train[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        train._shards[0][0] = 1


def test_unknown_split(folder):
    with pytest.raises(UserError, match="has no split 'test'; choose one of train, val"):
        TokenData.open(folder).split("test")


def test_the_first_format_is_read(folder):
    """One file a split, and no list of shards: what version 0.1.0 prepared."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    now = TokenData.open(folder)
    train, val = np.asarray(now.train), np.asarray(now.val)
    for split in ("train", "val"):
        (folder / f"{split}-00000.bin").rename(folder / f"{split}.bin")
    old = {key: meta[key] for key in meta if key not in ("splits", "settings")} | {"format": 1}
    (folder / "meta.json").write_text(json.dumps(old), encoding="utf-8")
    data = TokenData.open(folder)
    data.verify()
    assert np.array_equal(data.train, train)
    assert np.array_equal(data.val, val)
    # its fingerprint, as that version defined it
    files = [folder / name for name in ("train.bin", "val.bin", "tokenizer.json")]
    hashes = "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    assert data.fingerprint == now.fingerprint == hashlib.sha256(hashes.encode()).hexdigest()
    (folder / "val.bin").write_bytes(bytes(val.nbytes))
    with pytest.raises(UserError, match="fingerprint"):
        data.verify()


# --- Tokens, against numpy


@given(st.lists(st.lists(st.integers(0, 300), max_size=5), max_size=5), st.data())
def test_shards_read_as_one_array(shards, draw):
    arrays = [np.array(shard, dtype="<u2") for shard in shards]
    whole = np.concatenate([np.empty(0, dtype="<u2"), *arrays])
    tokens = Tokens(arrays, np.dtype("<u2"))
    assert len(tokens) == len(whole)
    assert np.asarray(tokens).dtype == whole.dtype
    assert np.array_equal(tokens, whole)
    index = draw.draw(st.slices(len(whole)))
    assert np.array_equal(tokens[index], whole[index])
    if len(whole):
        places = st.integers(-len(whole), len(whole) - 1)
        shapes = array_shapes(min_dims=0, max_dims=3, max_side=4, min_side=0)
        picked = draw.draw(arrays_of(np.int64, shapes, elements=places))
        assert np.array_equal(tokens[picked], whole[picked])
        assert tokens[picked].shape == picked.shape
        assert tokens[picked].dtype == whole.dtype
        assert tokens[int(picked.flat[0])] == whole[picked.flat[0]] if picked.size else True


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("step", [2**63, -(2**63), 2**63 - 1, 6, -6, 5])
def test_steps_longer_than_the_text(count, step):
    whole = np.arange(count, dtype="<u2")
    tokens = Tokens([whole[:2], whole[2:]], whole.dtype)
    assert np.array_equal(tokens[::step], whole[::step])


@pytest.mark.parametrize("index", [5, -6, [0, 5], np.array([[-6]])])
def test_index_out_of_range(index):
    tokens = Tokens([np.arange(3), np.arange(2)], np.dtype("<u2"))
    with pytest.raises(IndexError, match="out of range: there are 5 tokens"):
        tokens[index]


def test_tokens_are_picked_by_integers():
    tokens = Tokens([np.arange(3)], np.dtype("<u2"))
    with pytest.raises(IndexError, match="picked by integers, not by bool"):
        tokens[np.array([True, False, True])]


def test_batches_do_not_depend_on_the_shards():
    ids = np.arange(100, dtype="<u2")
    one, many = (Tokens(np.split(ids, cuts), ids.dtype) for cuts in ([], [7, 8, 50]))
    for a, b in zip(Batches(one, 8, 5, 1).batch(3), Batches(many, 8, 5, 1).batch(3), strict=True):
        assert a.equal(b)


# --- damage


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="nanogpkant prepare shakespeare_char"):
        TokenData.open(tmp_path / "shakespeare_char")


@pytest.mark.parametrize(
    "name", ["train-00000.bin", "val-00000.bin", "tokenizer.json", "meta.json"]
)
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=name):
        TokenData.open(folder)


@pytest.mark.parametrize("name", SHARD_FILES)
@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b"", lambda b: b + b"\0\0"])
def test_token_file_of_another_size(folder, name, change):
    file = folder / name
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(UserError, match=rf"damaged \({name} has .* remove that folder and run"):
        TokenData.open(folder)


def test_altered_token_file_of_the_same_size(folder):
    file = folder / "train-00000.bin"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged \(train-00000.bin is not what was written"):
        TokenData.open(folder).verify()


@pytest.mark.parametrize(
    "change",
    [
        {"format": None},
        {"splits": None},
        {"splits": {"train": []}},
        {"splits": {"train": SHARDS, "val": SHARDS, "rest": SHARDS}},
        {"splits": {"train": SHARDS, "val": []}},
        {"splits": {"train": SHARDS, "val": [{"file": "../x", "tokens": 42, "sha256": ""}]}},
        {"splits": {"train": SHARDS, "val": [{"file": "x", "tokens": "42", "sha256": ""}]}},
        {"splits": {"train": SHARDS, "val": [{"file": "x", "tokens": -42, "sha256": ""}]}},
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
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 3}), encoding="utf-8")
    with pytest.raises(UserError, match="has format 3 where this version reads 2: remove"):
        TokenData.open(folder)


def test_batches_from_a_prepared_dataset(folder):
    data = TokenData.open(folder)
    x, y = Batches(data.train, 16, 3, seed=0).batch(0)
    for row, target in zip(x, y, strict=True):
        assert data.tokenizer.decode(row) in TEXT
        assert data.tokenizer.decode(row)[1:] == data.tokenizer.decode(target)[:-1]
    x.fill_(0)  # a copy: the files are read-only


@pytest.mark.parametrize("how", ["indices", "slice", "all"])
def test_a_file_cut_while_it_is_open_is_an_error_and_no_signal(folder, how):
    """Reading a mapped file beyond its end would kill the process."""
    tokens = TokenData.open(folder).train
    part = tokens[: len(tokens) - 1]
    (folder / "train-00000.bin").write_bytes(b"")
    with pytest.raises(UserError, match="cut short"):
        if how == "indices":
            tokens[np.array([0, len(tokens) - 1])]
        elif how == "slice":
            part[np.array([0])]
        else:
            np.asarray(tokens)
