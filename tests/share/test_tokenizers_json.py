"""Exported tokenizers give the ids of the run's own, by the tokenizers library itself."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpkant.data import BPETokenizer, ByteTokenizer, CharTokenizer
from nanogpkant.data.tokenizer import train_bpe
from nanogpkant.data.tokenizer.bpe import END
from nanogpkant.share.tokenizers_json import PADDING, merges, to_tokenizers, tokenizer_config

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


@pytest.fixture(scope="module")
def pairs() -> BPETokenizer:
    """A vocabulary of pairs, trained on this very file."""
    pytest.importorskip("tiktoken")
    return train_bpe([Path(__file__).read_text(encoding="utf-8")] * 2, 600)


def test_pairs(pairs: BPETokenizer):
    theirs = tokenizers.Tokenizer.from_str(to_tokenizers(pairs).to_str())
    assert theirs.token_to_id(END) == pairs.eot
    assert theirs.get_vocab_size() == pairs.vocab_size
    here = Path(__file__).read_text(encoding="utf-8")
    for text in ("", ODD, here, f"a{END}b", "   \n \n\n  x\n", "don't we'll", " 12 1999\t\t"):
        same(pairs, theirs, text)

    @given(st.text() | st.text("aehrst \n'_.("))
    @settings(max_examples=100, deadline=None)
    def any_text(text: str) -> None:
        same(pairs, theirs, text)

    any_text()


def test_each_longer_token_is_merged_from_two(pairs: BPETokenizer):
    found = merges(pairs.tokens)
    assert [pairs.tokens[a] + pairs.tokens[b] for a, b in found] == list(pairs.tokens[256:])


def test_a_token_that_no_pair_leads_to_is_only_a_whole_text():
    pytest.importorskip("tiktoken")
    ours = BPETokenizer([*(bytes([b]) for b in range(256)), b"abcd", b"cd"])
    assert merges(ours.tokens) == [(ord("c"), ord("d"))]
    for text in ("abcd", "abcde", " abcd", "cd"):
        same(ours, to_tokenizers(ours), text)


def test_the_end_of_a_text_is_named_where_there_is_one(pairs: BPETokenizer):
    config = tokenizer_config(pairs, 8)
    assert config["eos_token"] == config["pad_token"] == END
