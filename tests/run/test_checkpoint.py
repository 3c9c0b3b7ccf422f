"""Checkpoints: saved whole or not at all, verified when read, and clear about what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from nanogpkant.base.errors import UserError
from nanogpkant.base.files import sha256_of
from nanogpkant.cli import main
from nanogpkant.run import checkpoint as ckpt
from nanogpkant.run.checkpoint import load_checkpoint, save_checkpoint
from nanogpkant.run.folder import TRAINING, WEIGHTS, open_run
from nanogpkant.run.load import load_model
from nanogpkant.run.manifest import MANIFEST
from nanogpkant.run.metrics import read_metrics


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run, to be damaged."""
    copy = tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    return copy


def last(run: Path) -> Path:
    return load_checkpoint(open_run(run), "last").folder


def rewrite_weights(run: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the best weights and make the manifest agree: only the content can tell."""
    folder = load_checkpoint(open_run(run), "best").folder
    weights = safetensors.torch.load_file(folder / WEIGHTS)
    change(weights)
    safetensors.torch.save_file(weights, folder / WEIGHTS)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["sha256"][WEIGHTS] = sha256_of(folder / WEIGHTS)
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def error_of(run: Path, capsys: pytest.CaptureFixture[str], status: int = 1) -> str:
    """The one line that eval says of a run that it cannot read."""
    assert main(["eval", str(run), "--device", "cpu"]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_nothing_in_a_run_is_a_pickle_of_objects(tiny_run: Path):
    checkpoint = load_checkpoint(open_run(tiny_run), "last")
    assert set(checkpoint.training()) == {
        "step",
        "scaler",
        "val_tokens",
        "seconds",
        "best_val_loss",
        "val_loss",
        "optimizer",
    }  # read with weights_only=True, which refuses objects


@pytest.mark.parametrize("name", [WEIGHTS, TRAINING])
@pytest.mark.parametrize("damage", ["cut", "alter", "remove", "empty"])
def test_a_damaged_file_is_named(run: Path, capsys, name: str, damage: str):
    file = load_checkpoint(open_run(run), "best").folder / name
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "alter":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()
    assert name in error_of(run, capsys)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"step": 12}', '{"step": "x", "sha256": {}}', "null"]
)
def test_an_altered_manifest_is_named(run: Path, capsys, text: str):
    folder = load_checkpoint(open_run(run), "best").folder
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    assert "manifest.json" in error_of(run, capsys)


@pytest.mark.parametrize("text", ["", "[]", '{"best": 3}', '{"best": "../../elsewhere"}'])
def test_an_altered_index_is_named(run: Path, capsys, text: str):
    (run / "checkpoints" / "index.json").write_text(text, encoding="utf-8")
    assert "index.json" in error_of(run, capsys)


def test_an_index_that_names_no_checkpoint(run: Path, capsys):
    (run / "checkpoints" / "index.json").write_text('{"best": "step-000999"}', encoding="utf-8")
    assert "no checkpoint" in error_of(run, capsys)


def test_a_missing_run_and_a_run_without_checkpoint(run: Path, tmp_path: Path, capsys):
    assert "is not a run" in error_of(tmp_path / "nowhere", capsys)
    shutil.rmtree(run / "checkpoints")
    assert "no checkpoint yet" in error_of(run, capsys)


def test_weights_that_are_not_finite_are_refused(run: Path, capsys):
    def poison(weights):
        weights["blocks.0.mlp.into.weight"][0, 0, 0] = torch.nan

    rewrite_weights(run, poison)
    line = error_of(run, capsys)
    assert "blocks.0.mlp.into.weight" in line
    assert "not finite" in line


def test_a_missing_and_an_unexpected_tensor(run: Path, capsys):
    rewrite_weights(run, lambda weights: weights.pop("norm.weight"))
    assert "norm.weight is missing" in error_of(run, capsys)
    rewrite_weights(run, lambda weights: weights.update({"norm.weight": torch.ones(16)}))
    rewrite_weights(run, lambda weights: weights.update(extra=torch.ones(1)))
    assert "extra is not expected" in error_of(run, capsys)


def test_a_configuration_of_another_shape(run: Path, capsys):
    text = (run / "config.yaml").read_text(encoding="utf-8")
    (run / "config.yaml").write_text(text.replace("n_embd: 16", "n_embd: 32"), encoding="utf-8")
    assert "config.yaml has model.n_embd 32, but the run was made with another" in error_of(
        run, capsys
    )
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    del environment["made_of"]  # as earlier versions wrote it
    (run / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    line = error_of(run, capsys)
    assert "(2, " in line or "(16" in line  # both shapes are given
    assert "config.yaml" in line


def test_a_tokenizer_of_another_vocabulary(run: Path, capsys):
    tokenizer = json.loads((run / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["characters"].append("Ω")
    (run / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    assert "tokenizer.json" in error_of(run, capsys)
    tokenizer["characters"][-2:] = ["Ω"]  # as many characters as before, but not the same
    (run / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    assert "vocabulary" in error_of(run, capsys)


def test_resume_refuses_a_damaged_checkpoint_and_leaves_it(run: Path, tiny_experiment, capsys):
    file = last(run) / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1])
    metrics = (run / "metrics.jsonl").read_bytes()
    flags = ["--resume", "--train.max_iters", "16", "--out", str(run)]
    assert main(["train", str(tiny_experiment), *flags]) == 1
    assert WEIGHTS in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == metrics
    assert file.exists()


@pytest.mark.parametrize("failing", ["write_atomic", "write_manifest"])
def test_a_save_that_fails_leaves_the_earlier_checkpoint(run: Path, monkeypatch, failing: str):
    before = last(run)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(UserError, match="No space left"):
        patched.setattr(ckpt, failing, fail)
        save_checkpoint(open_run(run), 99, {"w": torch.ones(2)}, {"step": 99}, False, 0)
    assert last(run) == before
    load_model(run, "last")
    assert not list(run.rglob("*.tmp*"))


@pytest.mark.parametrize("keep_every", [0, 4])
def test_killed_between_the_rename_and_the_index(run, tiny_experiment, monkeypatch, keep_every):
    """A whole checkpoint that the index does not name yet is set aside, and made again."""
    before = last(run)
    real_write_json = ckpt.write_json

    def killed(path, value):
        if path.name == "index.json":
            raise KeyboardInterrupt
        real_write_json(path, value)

    monkeypatch.setattr(ckpt, "write_json", killed)
    flags = ["--resume", "--train.max_iters", "16", "--out", str(run)]
    flags += ["--train.keep_every", str(keep_every)]
    assert main(["train", str(tiny_experiment), *flags]) == 1
    assert (run / "checkpoints" / "step-000016").is_dir()
    monkeypatch.undo()
    assert last(run) == before
    assert main(["train", str(tiny_experiment), *flags]) == 0
    assert last(run).name == "step-000016"


def test_metrics_survive_a_torn_last_line(run: Path):
    rows = read_metrics(run / "metrics.jsonl")
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 13, "spl')
    assert read_metrics(run / "metrics.jsonl") == rows
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write("\n{}\n")
    with pytest.raises(UserError, match="line"):
        read_metrics(run / "metrics.jsonl")


def test_loading_folds_the_spline_scale(tiny_run: Path):
    """The folded model is the trained one: same loss, no scale left to multiply by."""
    trained = load_model(tiny_run, "best")
    assert not any("spline_scale" in name for name, _ in trained.model.named_parameters())
    rows = [r for r in read_metrics(tiny_run / "metrics.jsonl") if r["split"] == "val"]
    assert trained.step == min(rows, key=lambda r: r["loss"])["step"]


def test_an_index_that_is_gone_costs_no_checkpoint(run: Path, tiny_experiment, capsys):
    """One checkpoint without an index is a kill at the first save; several are left alone."""
    flags = ["--resume", "--train.max_iters", "16", "--out", str(run)]
    (run / "checkpoints" / "index.json").unlink()
    shutil.copytree(run / "checkpoints" / "step-000012", run / "checkpoints" / "step-000008")
    assert main(["train", str(tiny_experiment), *flags]) == 1
    assert "index.json is missing" in capsys.readouterr().err
    assert (run / "checkpoints" / "step-000012").is_dir()
    shutil.rmtree(run / "checkpoints" / "step-000008")
    assert main(["train", str(tiny_experiment), *flags]) == 0
    assert last(run).name == "step-000016"


def test_a_run_without_a_best_gives_its_last(run: Path):
    (run / "checkpoints" / "index.json").write_text('{"last": "step-000012"}', encoding="utf-8")
    assert load_checkpoint(open_run(run), "best").step == 12


def test_metrics_that_are_gone_or_edited(run: Path, tiny_experiment, capsys):
    flags = ["--resume", "--train.max_iters", "14", "--out", str(run)]
    (run / "metrics.jsonl").write_text("5\n", encoding="utf-8")
    assert main(["train", str(tiny_experiment), *flags]) == 1
    assert "line 1 is not a row" in capsys.readouterr().err
    (run / "metrics.jsonl").unlink()
    assert main(["train", str(tiny_experiment), *flags]) == 0
    assert read_metrics(run / "metrics.jsonl")[0]["step"] == 13


def test_eval_notices_other_data(run: Path, capsys):
    (run / "environment.json").write_text('{"data_fingerprint": "x"}', encoding="utf-8")
    assert "other data" in error_of(run, capsys)
    (run / "environment.json").write_text("[]", encoding="utf-8")
    assert "data_fingerprint" in error_of(run, capsys)
