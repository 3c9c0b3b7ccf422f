"""Branches: a run that continues another one in a folder of its own, bit for bit."""

import shutil
from pathlib import Path

import pytest

from nanogpkant.cli import main
from nanogpkant.config import load_config
from nanogpkant.run.folder import open_run
from nanogpkant.run.metrics import read_metrics


def weights(run: Path, step: int) -> bytes:
    return (run / "checkpoints" / f"step-{step:06d}" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def trunk(tiny_experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 steps at a constant rate. Not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "trunk"
    flags = ["--optim.decay_lr", "false", "--train.max_iters", "8"]
    assert main(["train", str(tiny_experiment), "--out", str(out), *flags]) == 0
    return out


def branch(tiny_experiment: Path, trunk: Path, out: Path, *flags: str) -> int:
    return main(
        ["train", str(tiny_experiment), "--out", str(out), "--branch_of", str(trunk), *flags]
    )


def test_a_branch_is_the_continued_run(trunk, tiny_experiment, tmp_path):
    on, off = tmp_path / "on", tmp_path / "off"
    assert branch(tiny_experiment, trunk, on, "--train.max_iters", "12") == 0
    shutil.copytree(trunk, off)
    command = ["train", str(tiny_experiment), "--out", str(off), "--resume"]
    assert main([*command, "--train.max_iters", "12"]) == 0
    assert weights(on, 12) == weights(off, 12)
    losses = [[(r["step"], r["loss"]) for r in read_metrics(f / "metrics.jsonl") if "loss" in r]
              for f in (on, off)]  # fmt: skip
    assert losses[0] == losses[1]
    ours, theirs = open_run(on).environment(), open_run(trunk).environment()
    assert ours["branch_of"] == str(trunk)
    assert ours["id"] != theirs["id"]  # two runs in W&B
    assert open_run(trunk).index()["last"] == "step-000008"


def test_a_branch_may_decay_the_rate(trunk, tiny_experiment, tmp_path):
    flags = ["--optim.decay_lr", "true", "--optim.decay", "linear", "--optim.decay_iters", "4"]
    flags += ["--optim.min_lr", "0", "--train.max_iters", "12"]
    assert branch(tiny_experiment, trunk, tmp_path / "cool", *flags) == 0
    rows = read_metrics(tmp_path / "cool" / "metrics.jsonl")
    rates = [row["lr"] for row in rows if row["split"] == "train"]
    assert rates[7:] == pytest.approx([1e-2, 1e-2, 0.75e-2, 0.5e-2, 0.25e-2])
    assert load_config(tmp_path / "cool" / "config.yaml").optim.decay_iters == 4
    # The same command finds it finished.
    before = weights(tmp_path / "cool", 12)
    assert branch(tiny_experiment, trunk, tmp_path / "cool", *flags, "--auto_resume") == 0
    assert weights(tmp_path / "cool", 12) == before


def test_what_a_branch_refuses(trunk, tiny_experiment, tmp_path, capsys):
    def said(*arguments: str) -> str:
        assert branch(tiny_experiment, *arguments) == 2
        return capsys.readouterr().err

    assert "exists; --auto_resume" in said(trunk, trunk)
    assert "leave --resume" in said(trunk, tmp_path / "new", "--resume")
    evaluation = ("--train.eval_only", "true")
    assert f"nanogpkant eval {trunk}" in said(trunk, tmp_path / "new", *evaluation)
    assert "another model" in said(trunk, tmp_path / "new", "--model.n_layer", "3")
    assert branch(tiny_experiment, tmp_path / "none", tmp_path / "new") == 1
    bare = tmp_path / "bare"
    shutil.copytree(trunk, bare, ignore=shutil.ignore_patterns("checkpoints"))
    assert branch(tiny_experiment, bare, tmp_path / "new") == 1
    assert "has no checkpoint to continue from" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_branch_brings_the_best_checkpoint(trunk, tiny_experiment, tmp_path):
    """A branch that gets worse must not call its last checkpoint the best."""
    best = open_run(trunk).index()["best"]
    flags = ["--train.max_iters", "10", "--train.eval_interval", "1", "--optim.learning_rate", "5"]
    assert branch(tiny_experiment, trunk, tmp_path / "worse", *flags) == 0
    run = open_run(tmp_path / "worse")
    assert run.index() == {"best": best, "last": "step-000010"}
    assert (run.checkpoints / best / "model.safetensors").is_file()


def test_a_branch_into_an_empty_folder(trunk, tiny_experiment, tmp_path):
    flags = ["--auto_resume", "--train.max_iters", "9"]
    (tmp_path / "new").mkdir()
    assert branch(tiny_experiment, trunk, tmp_path / "new", *flags) == 0
    assert open_run(tmp_path / "new").environment()["branch_of"] == str(trunk)


def test_a_branch_evaluated_on_other_tokens_has_a_best_of_its_own(trunk, tiny_experiment, tmp_path):
    flags = ["--train.max_iters", "10", "--optim.learning_rate", "5", "--train.eval_tokens", "100"]
    assert branch(tiny_experiment, trunk, tmp_path / "other", *flags) == 0
    assert open_run(tmp_path / "other").index()["best"] == "step-000010"
