"""Atomic writing, and words for what the operating system refuses."""

import json
import os
from pathlib import Path

import pytest

from nanogpkant.base.errors import UserError
from nanogpkant.base.files import read_json, read_text, sha256_of, write_atomic, write_json


def test_text_is_written_as_utf8_and_replaces_what_was_there(tmp_path: Path):
    write_atomic(tmp_path / "new" / "a.txt", "naïve\n")
    write_atomic(tmp_path / "new" / "a.txt", "Σ\n")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "Σ\n".encode()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path, monkeypatch, call):
    write_json(tmp_path / "a.json", {"old": 1})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if call == "fsync" else Path, call, fail)
    with pytest.raises(UserError, match="a.json: No space left"):
        write_json(tmp_path / "a.json", {"new": 2})
    monkeypatch.undo()
    assert read_json(tmp_path / "a.json") == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_what_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="nowhere"):
        read_text(tmp_path / "nowhere")
    (tmp_path / "latin").write_bytes(b"abc\xe9")
    with pytest.raises(UserError, match="latin is not UTF-8 .byte 3"):
        read_text(tmp_path / "latin")
    (tmp_path / "half.json").write_text(json.dumps({"a": 1})[:-1], encoding="utf-8")
    with pytest.raises(UserError, match="half.json is not valid JSON"):
        read_json(tmp_path / "half.json")


def test_sha256_of_a_known_text(tmp_path: Path):
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "abc") == expected
