"""Cutting a stream of text into documents, pieces and splits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpkant.base.errors import UserError
from nanogpkant.data import documents
from nanogpkant.data.documents import ByContent, ByPosition, pieces

WORDS = st.text("ab \n-", max_size=40)


def whole_documents(found) -> list[str]:
    """Documents put together from their pieces."""
    made, rest = [], ""
    for text, ends in found:
        rest += text
        if ends:
            made, rest = [*made, rest], ""
    assert rest == ""
    return made


@pytest.fixture
def short_pieces(monkeypatch):
    monkeypatch.setattr(documents, "PIECE", 12)
    monkeypatch.setattr(documents, "WINDOW", 8)
    monkeypatch.setattr(documents, "LONGEST", 30)


@pytest.mark.usefixtures("short_pieces")
def test_documents_are_what_split_gives():
    @given(st.lists(WORDS), st.sampled_from(["\n", "--", "\n-\n", "-\n \n-", " a"]))
    def check(chunks, separator):
        kept = [text for text in "".join(chunks).split(separator) if text.strip()]
        assert whole_documents(pieces(chunks, separator)) == kept

    check()


@pytest.mark.usefixtures("short_pieces")
def test_one_document_is_cut_only_before_white_space_that_follows_something():
    @given(st.lists(WORDS))
    def check(chunks):
        text = "".join(chunks)
        found = list(pieces(chunks))
        assert "".join(t for t, _ in found) == text
        assert [ends for _, ends in found] == [False] * (len(found) - 1) + [True] * bool(found)
        at = 0
        for piece, _ in found[:-1]:
            at += len(piece)
            if len(piece) < 15:  # half of LONGEST: such a cut may come anywhere
                assert text[at] in " \n"
                assert not text[at - 1].isspace()

    check()


def test_a_text_without_spaces_is_cut_in_the_end(monkeypatch):
    monkeypatch.setattr(documents, "PIECE", 4)
    monkeypatch.setattr(documents, "LONGEST", 8)
    assert list(pieces(["aaaa"] * 3)) == [("aaaa", False), ("aaaa", False), ("aaaa", True)]


def test_by_position():
    divide = ByPosition({"train": 5, "val": 3}, "this text")
    assert list(divide("abc", False)) == [("train", "abc")]
    assert list(divide("defg", False)) == [("train", "de"), ("val", "fg")]
    assert list(divide("h", True)) == [("val", "h")]
    for text, ends in (("abcdefgh", True), ("abcd", False)):
        divide = ByPosition({"train": 4, "val": 3}, "this text")
        with pytest.raises(UserError, match="this text changed while it was read"):
            [*divide(text, ends), *divide("", True)]


def test_copies_of_a_document_are_in_one_split_wherever_they_are():
    texts = [f"document {number}" for number in range(2000)]
    forwards, backwards = ByContent(0.1), ByContent(0.1)
    splits = {text: split for t in texts for split, text in forwards(t, True)}
    assert {text: split for t in texts[::-1] for split, text in backwards(t, True)} == splits
    assert 150 < sum(split == "val" for split in splits.values()) < 250


def test_a_long_document_stays_in_one_split():
    divide = ByContent(0.5)
    for number in range(50):
        head = f"{number}" * documents.HEAD
        (first,) = {s for piece in (head, "more", "") for s, _ in divide(piece, piece == "")}
        assert list(divide(head + "other", True)) == [(first, head + "other")]
