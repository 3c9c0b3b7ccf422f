"""Bytes as tokens, and enwik8, the corpus that they are for."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpkant.base.errors import UserError
from nanogpkant.data import (
    ByteTokenizer,
    CharTokenizer,
    TokenData,
    ensure,
    load_tokenizer,
    prepare,
)

BYTES = {"tokenizer": "byte"}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_ids_are_utf8(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids.tolist() == list(text.encode("utf-8"))
    assert ids.dtype == tokenizer.dtype == np.uint8
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths[ids].sum() == len(text.replace("\0", "").encode("utf-8"))


def test_half_a_character_is_replaced():
    assert ByteTokenizer().decode(list("né".encode()[:2])) == "n\ufffd"
    assert ByteTokenizer().decode_bytes(list("né".encode()[:2])) == b"n\xc3"


@pytest.mark.parametrize("id_", [-1, 256])
def test_ids_outside(id_):
    with pytest.raises(UserError, match=f"token id {id_} is not in the vocabulary: .* 0 to 255"):
        ByteTokenizer().decode([id_])


def test_saved_and_loaded(tmp_path):
    ByteTokenizer().save(tmp_path / "tokenizer.json")
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == {"type": "byte"}
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded == ByteTokenizer()
    assert hash(loaded) == hash(ByteTokenizer())
    assert loaded != CharTokenizer("ab")
    assert CharTokenizer("ab") != loaded


def test_any_file_can_be_taken_as_bytes(tmp_path):
    raw = np.random.default_rng(0).integers(256, size=5000).astype("u1")
    (tmp_path / "raw.bin").write_bytes(raw.tobytes())
    with pytest.raises(UserError, match="not UTF-8 text: .* take its bytes with --tokenizer byte"):
        prepare("raw", tmp_path / "data", tmp_path / "raw.bin")
    data = TokenData.open(prepare("raw", tmp_path / "data", tmp_path / "raw.bin", **BYTES))
    assert np.array_equal(np.concatenate([data.train, data.val]), raw)
    assert data.vocab_size == 256


def test_one_name_is_not_prepared_in_two_ways(corpus, tmp_path):
    prepare("mine", tmp_path, corpus)
    with pytest.raises(UserError, match="was prepared with --tokenizer char, not byte: choose"):
        prepare("mine", tmp_path, corpus, **BYTES)


def test_training_takes_what_is_prepared_however_that_was(corpus, tmp_path):
    folder = prepare("mine", tmp_path, corpus, **BYTES)
    assert ensure("mine", tmp_path, corpus) == folder
    assert TokenData.open(folder).tokenizer == ByteTokenizer()


def test_enwik8(enwik8_file, tmp_path):
    """The standard split, byte for byte, from the compressed file."""
    folder = prepare("enwik8", tmp_path, enwik8_file)
    data = TokenData.open(folder)
    lengths = [len(data.split(split)) for split in ("train", "val", "test")]
    assert lengths == [90_000_000, 5_000_000, 5_000_000]
    assert data.vocab_size == 256
    content = b"".join((folder / f"{s}-00000.bin").read_bytes() for s in ("train", "val", "test"))
    digest = hashlib.md5(content, usedforsecurity=False)
    assert digest.hexdigest() == "a1fa5ffddb56f4953e226637dabbb36a"


def test_enwik8_must_be_enwik8(corpus, tmp_path):
    with pytest.raises(UserError, match="is not the text of enwik8: it has md5:"):
        prepare("enwik8", tmp_path, corpus)
