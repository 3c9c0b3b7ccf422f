"""What stages keep on disk, and what becomes of it when it is old or damaged."""

import shutil
from dataclasses import dataclass

import pytest
import safetensors.torch
import torch

from nanogpkant.base.errors import UserError
from nanogpkant.cli import main
from nanogpkant.interpretation.store import Stage

pytestmark = pytest.mark.usefixtures("no_pictures")


@dataclass(frozen=True)
class Record:
    """One of each kind."""

    values: torch.Tensor
    number: int
    word: str

    def is_of(self, n_in: int, n_out: int) -> bool:
        return len(self.values) == n_in


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
    sizes = {"blocks.0.mlp": (4, 1), "b": (1, 1)}
    stage.records(Record, "r", lambda: records, sizes)
    found = stage.records(Record, "r", pytest.fail, sizes)
    assert set(found) == set(records)
    for name, record in records.items():
        assert torch.equal(found[name].values, record.values)
        assert (found[name].number, found[name].word) == (record.number, record.word)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\x02\0\0\0\0\0\0\0{}"])
def test_damaged_records(tmp_path, content):
    stage = Stage(tmp_path, {})
    (tmp_path / "r.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"r\.safetensors is damaged: remove it"):
        stage.records(Record, "r", pytest.fail, {})


@pytest.mark.parametrize("sizes", [{"a": (3, 1)}, {"b": (2, 1)}, {}, {"a": (2, 1), "b": (2, 1)}])
def test_records_of_other_layers(tmp_path, sizes):
    stage = Stage(tmp_path, {})
    with pytest.raises(UserError, match=r"r\.safetensors is damaged: remove it"):
        stage.records(Record, "r", lambda: {"a": Record(torch.ones(2), 1, "")}, sizes)


RECORDS = {"observed": "mean", "formulas": "option", "curves": "front_options"}
FLAGS = ["--budget", "64", "--device", "cpu", "--top", "1"]


@pytest.fixture(scope="module")
def interpreted(run_with_curves, tmp_path_factory):
    """A run that was interpreted. Not to be changed."""
    run = shutil.copytree(run_with_curves, tmp_path_factory.mktemp("interpreted") / "run")
    assert main(["interpret", str(run), *FLAGS]) == 0
    return run


@pytest.mark.parametrize("stage", RECORDS)
@pytest.mark.parametrize("change", ["shape", "nan", "gone"])
def test_altered_results_are_refused(interpreted, tmp_path, capsys, stage, change):
    """Whoever wrote the folder of an interpretation can have written anything."""
    run = shutil.copytree(interpreted, tmp_path / "run")
    file = next((run / "interpret" / "cache" / stage).glob("*.safetensors"))
    with safetensors.safe_open(file, "pt") as saved:
        metadata = saved.metadata()
        tensors = {key: saved.get_tensor(key) for key in saved.keys()}  # noqa: SIM118
    name = next(key for key in tensors if key.endswith(f"/{RECORDS[stage]}"))
    value = tensors.pop(name)
    if change == "shape":
        tensors[name] = value[:0]
    elif change == "nan":
        tensors[name] = torch.full_like(value.float(), torch.nan)
    file.write_bytes(safetensors.torch.save(tensors, metadata))
    capsys.readouterr()
    assert main(["interpret", str(run), *FLAGS]) == 1
    assert "is damaged: remove it" in capsys.readouterr().err
