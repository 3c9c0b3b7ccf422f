"""What stages keep on disk, and what becomes of it when it is old or damaged."""

from dataclasses import dataclass

import pytest
import torch

from nanogpkant.base.errors import UserError
from nanogpkant.interpretation.store import Stage


@dataclass(frozen=True)
class Record:
    """One of each kind."""

    values: torch.Tensor
    number: int
    word: str


def test_results_are_found_once(tmp_path):
    stage = Stage(tmp_path / "stage", {"seed": 1, "layers": ("a", "b")})
    assert stage.result("x", lambda: {"loss": 1.5}) == {"loss": 1.5}
    again = Stage(tmp_path / "stage", {"seed": 1, "layers": ("a", "b")})
    assert again.result("x", pytest.fail) == {"loss": 1.5}


def test_another_key_empties_the_folder(tmp_path):
    stage = Stage(tmp_path / "stage", {"seed": 1})
    stage.result("x", lambda: 1)
    (stage.folder / "observed.safetensors").write_bytes(b"old")
    other = Stage(tmp_path / "stage", {"seed": 2})
    assert not (other.folder / "observed.safetensors").exists()
    assert other.result("x", lambda: 2) == 2


@pytest.mark.parametrize("file", ["results.json", "key.json"])
def test_damaged_files_are_made_again(tmp_path, file):
    Stage(tmp_path / "stage", {"seed": 1}).result("x", lambda: 1)
    (tmp_path / "stage" / file).write_text('{"x": ', encoding="utf-8")
    assert Stage(tmp_path / "stage", {"seed": 1}).result("x", lambda: 3) == 3


def test_results_before_an_interruption_stay(tmp_path):
    def stop():
        raise KeyboardInterrupt

    stage = Stage(tmp_path / "stage", {})
    stage.result("a", lambda: {"n": 1})
    with pytest.raises(KeyboardInterrupt):
        stage.result("b", stop)
    again = Stage(tmp_path / "stage", {})
    assert again.result("a", pytest.fail) == {"n": 1}
    assert again.result("b", lambda: {"n": 2}) == {"n": 2}


def test_records_come_back(tmp_path):
    records = {
        "blocks.0.mlp": Record(torch.randn(3, 4).T, 7, "ü"),
        "b": Record(torch.ones(1), 0, ""),
    }
    stage = Stage(tmp_path, {})
    stage.records(Record, "r", lambda: records)
    found = stage.records(Record, "r", pytest.fail)
    assert set(found) == set(records)
    for name, record in records.items():
        assert torch.equal(found[name].values, record.values)
        assert (found[name].number, found[name].word) == (record.number, record.word)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\x02\0\0\0\0\0\0\0{}"])
def test_damaged_records(tmp_path, content):
    stage = Stage(tmp_path, {})
    (tmp_path / "r.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"r\.safetensors is damaged: remove it"):
        stage.records(Record, "r", pytest.fail)
