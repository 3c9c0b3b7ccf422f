"""Exported tokenizers give the ids of the run's own, by the tokenizers library itself."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpkant.data import ByteTokenizer, CharTokenizer
from nanogpkant.share.tokenizers_json import PADDING, to_tokenizers, tokenizer_config

tokenizers = pytest.importorskip("tokenizers")

ODD = "\n \t\r\x00\x85\u2028\u00a0Aa<|pad|>é\u0301€😀"  # U+0301 combines; several are line ends
CHARACTERS = CharTokenizer(ODD)


def same(ours, theirs, text: str) -> None:
    theirs.encode_special_tokens = True  # as split_special_tokens says
    ids = ours.encode(text).tolist()
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("text", ["", ODD, "\n\n  a  \r\n", "A é e\u0301"[:3], PADDING, "😀" * 50])
def test_characters(text: str):
    theirs = tokenizers.Tokenizer.from_str(to_tokenizers(CHARACTERS).to_str())
    same(CHARACTERS, theirs, text)


@given(st.text(ODD))
@settings(max_examples=50, deadline=None)
def test_any_text_of_its_characters(text: str):
    same(CHARACTERS, to_tokenizers(CHARACTERS), text)


def test_an_unseen_character_is_an_error():
    theirs = to_tokenizers(CHARACTERS)
    for text in ("z", "Az", "é" + "z"):
        with pytest.raises(Exception, match="UNK"):
            theirs.encode(text)


@given(st.text())
@settings(max_examples=50, deadline=None)
def test_bytes(text: str):
    same(ByteTokenizer(), to_tokenizers(ByteTokenizer()), text)


def test_every_byte_has_its_value():
    theirs = to_tokenizers(ByteTokenizer())
    every = "".join(map(chr, range(256)))
    assert theirs.encode(every).ids == list(every.encode())
    assert theirs.get_vocab_size() == 257
    assert theirs.token_to_id(PADDING) == 256


def test_padding_lies_beyond_the_model(tmp_path: Path):
    theirs = to_tokenizers(CHARACTERS)
    assert theirs.token_to_id(PADDING) == CHARACTERS.vocab_size
    config = tokenizer_config(CHARACTERS, 8)
    assert json.loads(json.dumps(config))["pad_token"] == PADDING
    assert config["model_max_length"] == 8
    assert "eos_token" not in config
