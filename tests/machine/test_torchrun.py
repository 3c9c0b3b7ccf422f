"""The real launcher: a rank killed with -9, and torchrun starts all again by itself."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch
from ranks import rows_of, run_all

from nanogpkant.run.checkpoint import load_checkpoint
from nanogpkant.run.folder import open_run
from nanogpkant.run.metrics import read_metrics

FLAGS = ["--train.max_iters", 90, "--train.eval_interval", 30, "--train.sample_tokens", 0]


def workers(launcher: subprocess.Popen) -> dict[str, psutil.Process]:
    """The processes that a torchrun has started, by rank."""
    children = psutil.Process(launcher.pid).children()
    return {child.environ()["RANK"]: child for child in children if "RANK" in child.environ()}


def wait_for_step(run: Path, step: int, launcher: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and launcher.poll() is None:
        file = run / "metrics.jsonl"
        if file.exists() and any(row["step"] >= step for row in read_metrics(file)):
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached")


def test_a_killed_rank_costs_nothing(tiny_experiment, tmp_path):
    """No lost or doubled batch: rows, weights and moments are those of the run left alone."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    flags = [str(a) for a in ["train", tiny_experiment, *FLAGS, "--out"]]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc_per_node", "2", "--max-restarts", "2", "-m", "nanogpkant"]
    with subprocess.Popen(
        [*torchrun, *flags, str(killed), "--auto_resume"], stderr=subprocess.PIPE, encoding="utf-8"
    ) as launcher:
        try:
            wait_for_step(killed, 40, launcher)
            workers(launcher)["1"].kill()
            _, errors = launcher.communicate(timeout=250)
        finally:
            launcher.terminate()
    assert launcher.returncode == 0, errors
    assert "resuming" in errors
    assert "Traceback" not in errors
    run_all(2, [*flags, whole])
    assert rows_of(killed) == rows_of(whole)
    ours, theirs = (load_checkpoint(open_run(path), "last") for path in (killed, whole))
    torch.testing.assert_close(ours.weights(), theirs.weights(), rtol=0, atol=0)
    a, b = (each.training()["optimizer"]["state"] for each in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
