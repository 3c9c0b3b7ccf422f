"""Cutting a stream of text into documents, pieces and splits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpkant.base.errors import UserError
from nanogpkant.data import read
from nanogpkant.data.encode import by_content, by_position
from nanogpkant.data.read import pieces

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
    monkeypatch.setattr(read, "PIECE", 12)
    monkeypatch.setattr(read, "WINDOW", 8)
    monkeypatch.setattr(read, "LONGEST", 30)


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
    monkeypatch.setattr(read, "PIECE", 4)
    monkeypatch.setattr(read, "LONGEST", 8)
    assert list(pieces(["aaaa"] * 3)) == [("aaaa", False), ("aaaa", False), ("aaaa", True)]


def test_by_position():
    lengths = {"train": 5, "val": 3}
    found = by_position([("abc", False), ("defg", False), ("h", True)], lengths, "this text")
    assert list(found) == [
        [("train", "abc", False)],
        [("train", "de", False), ("val", "fg", False)],
        [("val", "h", False)],
    ]
    for text in ("abcdefghi", "abcd", ""):
        with pytest.raises(UserError, match="this text changed while it was read"):
            list(by_position([(text, True)] if text else [], lengths, "this text"))


def splits_of(texts: list[str], val_fraction: float) -> dict[str, str]:
    found = by_content(((text, True) for text in texts), val_fraction)
    return {text: split for ((split, text, _),) in found}


def test_copies_of_a_document_are_in_one_split_wherever_they_are():
    texts = [f"document {number}" for number in range(2000)]
    splits = splits_of(texts, 0.1)
    assert splits_of(texts[::-1], 0.1) == splits
    assert 150 < sum(split == "val" for split in splits.values()) < 250


def test_a_long_document_stays_in_one_split():
    for number in range(50):
        head = f"{number}" * read.HEAD
        documents = [(head, False), ("more", False), ("", True), (head + "other", True)]
        found = [piece for (piece,) in by_content(documents, 0.5)]
        assert len({split for split, _, _ in found}) == 1
        assert [(text, ends) for _, text, ends in found] == documents
