"""Exported runs: what is in the folder, that it opens wherever a run does, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from nanogpkant.base.files import sha256_of
from nanogpkant.cli import VERBS, main
from nanogpkant.run.folder import EXPORTED, EXPORTED_IF_THERE
from nanogpkant.run.load import load_model
from nanogpkant.run.metrics import read_metrics


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 1) -> str:
    assert main(list(arguments)) == status
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported run, to be damaged."""
    shutil.copytree(exported, tmp_path / "copy")
    return tmp_path / "copy"


def test_the_folder_holds_what_it_says_and_no_pickle(exported: Path, tiny_run: Path):
    names = {*EXPORTED, *EXPORTED_IF_THERE}
    assert {path.name for path in exported.iterdir()} == names | {"README.md", "manifest.json"}
    manifest = json.loads((exported / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["sha256"] == {name: sha256_of(exported / name) for name in names}
    for name in names - {"model.safetensors"}:
        assert (exported / name).read_bytes() == (tiny_run / name).read_bytes()


def test_it_evaluates_and_samples_as_the_run_does(exported: Path, tiny_run: Path, capsys):
    for command in (["eval"], ["sample", "--tokens", "20"]):
        results = []
        for folder in (exported, tiny_run):
            assert main([*command, str(folder), "--device", "cpu", "--json"]) == 0
            results.append(json.loads(capsys.readouterr().out))
            results[-1].pop("tokens_per_second", None)
            results[-1].pop("seconds_to_first_token", None)
        assert results[0] == results[1]


def test_it_compares_and_tracks_as_a_run_does(exported: Path, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", str(exported), str(tiny_run)]) == 0
    before = {path: path.stat().st_mtime_ns for path in exported.rglob("*")}
    assert main(["track", str(exported), "--tracker", "tensorboard"]) == 0
    assert list((tmp_path / "runs" / "tiny-kan").glob("nanogpkant/events.*"))
    assert before == {path: path.stat().st_mtime_ns for path in exported.rglob("*")}


def test_training_can_start_from_it_but_not_resume_it(exported, tiny_experiment, tmp_path, capsys):
    command = ["train", str(tiny_experiment), "--train.max_iters", "1"]
    flags = ["--train.init_from", str(exported), "--out", str(tmp_path / "r")]
    assert main([*command, *flags]) == 0
    first = read_metrics(tmp_path / "r" / "metrics.jsonl")[0]["loss"]
    best = min(r["loss"] for r in read_metrics(exported / "metrics.jsonl") if r["split"] == "val")
    assert first == pytest.approx(best, rel=1e-5)
    capsys.readouterr()
    line = error_of(capsys, *command, "--resume", "--out", str(exported))
    assert "--train.init_from" in line


def test_bfloat16_halves_the_weights_and_rounds_them(exported, tiny_run, tmp_path, capsys):
    to = tmp_path / "half"
    assert main(["export", str(tiny_run), "--out", str(to), "--bfloat16"]) == 0
    whole = safetensors.torch.load_file(exported / "model.safetensors")
    half = safetensors.torch.load_file(to / "model.safetensors")
    assert whole.keys() == half.keys()
    assert all(torch.equal(whole[name].bfloat16(), half[name]) for name in whole)
    assert load_model(to).model.tokens.weight.dtype == torch.float32
    assert "bfloat16, rounded after the evaluation" in (to / "README.md").read_text("utf-8")


def test_any_checkpoint_can_be_exported_and_an_export_again(tiny_run, exported, tmp_path, capsys):
    command = ["export", str(tiny_run), "--checkpoint", "last", "--json"]
    assert main([*command, "--out", str(tmp_path / "last")]) == 0
    made = json.loads(capsys.readouterr().out)
    weights = tmp_path / "last" / "model.safetensors"
    assert made == {
        "folder": str(tmp_path / "last"),
        "step": 12,
        "bytes": weights.stat().st_size,
    }
    assert main(["export", str(exported), "--out", str(tmp_path / "again")]) == 0
    card = (tmp_path / "again" / "README.md").read_text(encoding="utf-8")
    assert card.replace("again", "tiny-kan") == (exported / "README.md").read_text("utf-8")
    saved, again = (
        safetensors.torch.load_file(folder / "model.safetensors")
        for folder in (exported, tmp_path / "again")
    )
    assert saved.keys() == again.keys()
    assert all(torch.equal(saved[name], again[name]) for name in saved)
    assert main(["export", str(exported), "--out", str(tmp_path / "half"), "--bfloat16"]) == 0
    half = (tmp_path / "half" / "model.safetensors").stat().st_size
    assert half < 0.6 * (exported / "model.safetensors").stat().st_size
    assert main(["eval", str(tmp_path / "last"), "--checkpoint", "step-000012"]) == 0
    capsys.readouterr()
    line = error_of(capsys, "eval", str(tmp_path / "last"), "--checkpoint", "step-000004")
    assert "it is step-000012 alone" in line


def test_grids_that_changed_in_training_are_exported(tiny_experiment, tmp_path, capsys):
    run, to = tmp_path / "run", tmp_path / "to"
    flags = ["--grid.refine_at", "{2: 4}", "--train.max_iters", "4", "--out", str(run)]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    assert main(["export", str(run), "--out", str(to)]) == 0
    with safe_open(to / "model.safetensors", "pt") as file:
        assert "kan_features" in file.metadata()
    capsys.readouterr()
    assert main(["eval", str(to), "--json"]) == 0
    val = [row for row in read_metrics(run / "metrics.jsonl") if row["split"] == "val"]
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(val[-1]["loss"], rel=1e-5)


def test_the_target_must_be_new_or_empty(tiny_run, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name in ("full", "file"):
        line = error_of(capsys, "export", str(tiny_run), "--out", str(tmp_path / name), status=2)
        assert "not an empty folder" in line
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["letter.txt"]
    assert main(["export", str(tiny_run), "--out", str(tmp_path / "empty")]) == 0
    assert main(["sample", str(tmp_path / "empty"), "--tokens", "3"]) == 0


def test_a_run_without_checkpoint_and_no_run_at_all(tiny_run, tmp_path, capsys):
    shutil.copytree(tiny_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    to = str(tmp_path / "to")
    assert "no checkpoint yet" in error_of(capsys, "export", str(tmp_path / "run"), "--out", to)
    assert "is not a run" in error_of(capsys, "export", str(tmp_path / "none"), "--out", to)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_cannot_be_written_leaves_nothing(tiny_run, tmp_path, capsys):
    (tmp_path / "file").touch()
    line = error_of(capsys, "export", str(tiny_run), "--out", str(tmp_path / "file" / "to"))
    assert "cannot write" in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", [*EXPORTED, *EXPORTED_IF_THERE])
def test_a_file_that_is_altered_cut_short_or_gone_is_named(copy: Path, capsys, name: str):
    content = (copy / name).read_bytes()
    for other in (content[:-1] + b"x", content[: len(content) // 2]):
        (copy / name).write_bytes(other)
        assert f"{name} does not match manifest.json" in error_of(capsys, "sample", str(copy))
    (copy / name).unlink()
    assert name in error_of(capsys, "sample", str(copy))


def test_the_card_may_be_edited(copy: Path):
    (copy / "README.md").write_text("# Mine\n", encoding="utf-8")
    assert main(["sample", str(copy), "--tokens", "3"]) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ("[]", "not a checkpoint's manifest"),
        ('{"step": 3}', "not a checkpoint's manifest"),
        ('{"step": 3, "sha256": {}}', "does not name config.yaml"),
        ('{"step": 3, "sha256": {"../../secret": "0"}}', "names ../../secret"),
        ('{"step": 3, "sha256": {"/etc/passwd": "0"}}', "names /etc/passwd"),
    ],
)
def test_a_corrupted_manifest_is_named(copy: Path, capsys, text: str, words: str):
    (copy / "manifest.json").write_text(text, encoding="utf-8")
    line = error_of(capsys, "sample", str(copy))
    assert "manifest.json" in line
    assert words in line


def test_paths_of_this_machine_are_pointed_out(tiny_run, tmp_path, capsys):
    assert main(["export", str(tiny_run), "--out", str(tmp_path / "to")]) == 0
    errors = capsys.readouterr().err
    assert "look before you share" in errors
    assert "corpus.txt" in errors


def test_a_card_of_an_odd_name_and_sample(tiny_run, tmp_path, capsys):
    run = tmp_path / "my model"
    shutil.copytree(tiny_run, run)
    (run / "samples.txt").write_text("one</page>\0two\n", encoding="utf-8")
    assert main(["export", str(run), "--out", str(tmp_path / "to/my model")]) == 0
    card = (tmp_path / "to/my model/README.md").read_text(encoding="utf-8")
    assert "nanogpkant eval 'PATH/TO/my model'" in card
    assert "    one</page>\n    two\n" in card
    assert "/page>" not in capsys.readouterr().err


def test_the_verbs_are_there():
    assert {"export", "push", "pull", "track"} <= VERBS.keys()
