"""The tokenizer beside a GPT-2, against the tokenizers package that made it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nanogpkant.base.errors import UserError
from nanogpkant.conversion.vocabulary import read_tokenizer

END = "<|endoftext|>"
TEXTS = [
    "Speak, friend, and enter.\nI hear you.\n" * 3,
    "  two spaces,\ttabs\r\n\n\nand the friend's 1234 naïve cafés: 你好 🙂",
    "",
]

pytest.importorskip("tiktoken")


def test_ids_are_those_of_the_tokenizers_package(bpe: Callable) -> None:
    theirs, folder = bpe()
    ours = read_tokenizer(folder)
    assert ours.vocab_size == theirs.get_vocab_size() == 288
    for text in TEXTS:
        assert ours.encode(text).tolist() == theirs.encode(text).ids
        assert ours.decode(ours.encode(text)) == text


def test_vocab_and_merges_say_the_same(bpe: Callable, tmp_path: Path) -> None:
    theirs, folder = bpe()
    theirs.model.save(str(tmp_path))
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    vocabulary[END] = len(vocabulary)
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    assert read_tokenizer(tmp_path) == read_tokenizer(folder)


def test_none_is_none(tmp_path: Path) -> None:
    assert read_tokenizer(tmp_path) is None


@pytest.mark.parametrize("text", ["[]", '{"a": "b", "c": 1}', '{"a": null}'])
def test_what_is_no_vocabulary(text: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(text)
    (tmp_path / "merges.txt").touch()
    with pytest.raises(UserError, match="vocab.json is no vocabulary"):
        read_tokenizer(tmp_path)


def end_first(saved: dict) -> None:
    vocabulary = saved["model"]["vocab"]
    saved["model"]["vocab"] = {END: 0} | {token: id_ + 1 for token, id_ in vocabulary.items()}
    saved["added_tokens"][0]["id"] = 0


def merges_reversed(saved: dict) -> None:
    saved["model"]["merges"].reverse()


def prefix_space(saved: dict) -> None:
    saved["pre_tokenizer"]["add_prefix_space"] = True


def no_pattern(saved: dict) -> None:
    saved["pre_tokenizer"]["use_regex"] = False


def another_model(saved: dict) -> None:
    saved["model"]["type"] = "WordPiece"


def a_strange_letter(saved: dict) -> None:
    vocabulary = saved["model"]["vocab"]
    vocabulary["你"] = vocabulary.pop("!")


def no_model(saved: dict) -> None:
    del saved["model"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (end_first, "is not of GPT-2's kind, 256 bytes, then the merges"),
        (merges_reversed, "is not of GPT-2's kind, 256 bytes, then the merges"),
        (prefix_space, "no byte-level tokenizer of GPT-2's kind"),
        (no_pattern, "no byte-level tokenizer of GPT-2's kind"),
        (another_model, "no byte-level tokenizer of GPT-2's kind"),
        (a_strange_letter, "has a token with '你', which is no byte"),
        (no_model, "is not a file of the tokenizers package"),
    ],
)
def test_other_kinds_are_refused(bpe: Callable, change: Callable, line: str) -> None:
    _, folder = bpe()
    file = folder / "tokenizer.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    change(saved)
    file.write_text(json.dumps(saved))
    with pytest.raises(UserError, match=line) as error:
        read_tokenizer(folder)
    assert "take it away" in str(error.value)
