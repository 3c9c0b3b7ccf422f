import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanogpkant.base.errors import UserError
from nanogpkant.data import CharTokenizer, load_tokenizer

ANY_CHARACTER = st.characters(exclude_categories=["Cs"])  # all but surrogate halves


@given(st.text(ANY_CHARACTER, min_size=1))
def test_round_trip(text):
    tokenizer = CharTokenizer(text)
    ids = tokenizer.encode(text)
    assert ids.shape == (len(text),)
    assert ids.max() < tokenizer.vocab_size == len(set(text))
    assert tokenizer.decode(ids) == text


@given(st.sets(ANY_CHARACTER, min_size=1))
def test_saved_and_loaded(tmp_path_factory, characters):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer = CharTokenizer(sorted(characters))
    tokenizer.save(path)
    assert load_tokenizer(path) == tokenizer


def test_ids_follow_the_sorted_characters():
    tokenizer = CharTokenizer("cabba")
    assert tokenizer.characters == ("a", "b", "c")
    assert tokenizer.encode("cab").tolist() == [2, 0, 1]
    assert tokenizer != CharTokenizer("ab")
    assert len({tokenizer, CharTokenizer("abc")}) == 1


def test_decodes_lists_tensors_and_nothing():
    tokenizer = CharTokenizer("ab")
    assert tokenizer.decode([0, 1]) == tokenizer.decode(torch.tensor([0, 1])) == "ab"
    assert tokenizer.decode([]) == ""
    assert tokenizer.encode("").shape == (0,)


def test_the_smallest_type_that_holds_every_id():
    every = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    assert CharTokenizer(every[: 1 << 16]).dtype == np.dtype("<u2")
    large = CharTokenizer(every[: (1 << 16) + 1])
    assert large.dtype == large.encode("a").dtype == np.dtype("<u4")
    assert large.decode(large.encode(every[1 << 16])) == every[1 << 16]


def test_unseen_characters_are_named_once_in_order():
    with pytest.raises(UserError) as error:
        CharTokenizer("abc").encode("a\u00e9b\u00e9\n\U0001f600")
    assert str(error.value) == (
        "the text holds characters that the vocabulary does not: 'é' (U+00E9), '\\n' (U+000A), "
        "'\U0001f600' (U+1F600); use only its 3 characters 'abc'"
    )


def test_a_long_list_of_unseen_characters_is_cut_short():
    with pytest.raises(UserError) as error:
        CharTokenizer([chr(code) for code in range(200, 1000)]).encode("abcdefgh")
    assert "'e' (U+0065); use" in str(error.value)
    assert "..." in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("unseen", ["\x00", "\udcff", "\U0010ffff"])
def test_unseen_at_the_ends_of_the_code_space(unseen):
    with pytest.raises(UserError, match=rf"U\+{ord(unseen):04X}"):
        CharTokenizer("a").encode(unseen)


@pytest.mark.parametrize("id_", [-1, 3, 1 << 40])
def test_ids_outside_the_vocabulary(id_):
    with pytest.raises(UserError, match=f"token id {id_} is not in .*: ids run from 0 to 2"):
        CharTokenizer("abc").decode([0, id_])


@pytest.mark.parametrize("characters", ["", [], ["ab"], ["a", ""], [1], ["\ud800"]])
def test_a_vocabulary_is_single_characters(characters):
    with pytest.raises(UserError, match="one or more single characters"):
        CharTokenizer(characters)


@pytest.mark.parametrize("characters", [None, [], "ab", ["b", "a"], ["a", "a"], ["ab"], [1, 2]])
def test_malformed_characters_in_a_file(tmp_path, characters):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"type": "char", "characters": characters}), encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer.json is not a character tokenizer"):
        load_tokenizer(path)


@pytest.mark.parametrize(
    "content", ["[]", '"char"', "{}", '{"type": "word"}', '{"type": ["char"]}']
)
def test_files_that_are_no_tokenizer(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer.json is not a tokenizer.*'char'"):
        load_tokenizer(path)


def test_missing_and_broken_files(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match=r"cannot read .*tokenizer.json"):
        load_tokenizer(path)
    path.write_text('{"type": "char", "chara', encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer.json is not valid JSON"):
        load_tokenizer(path)


def test_the_canonical_text(canonical):
    tokenizer = CharTokenizer(canonical)
    assert tokenizer.vocab_size == 65
    assert tokenizer.encode("\nAz").tolist() == [0, 13, 64]
    assert tokenizer.decode(tokenizer.encode(canonical)) == canonical
