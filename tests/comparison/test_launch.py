"""Ray: runs as tasks, here; the run of a lost worker resumes; addresses where nobody answers."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.cli import main
from nanogpkant.comparison.launch import Launcher
from nanogpkant.comparison.runs import load_run
from nanogpkant.run.metrics import read_metrics

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed")


@pytest.fixture
def study(tiny_experiment: Path, tmp_path: Path) -> Path:
    """An experiment of one run, long enough to be disturbed."""
    content = {
        "variants": [{"name": "gpt", "preset": str(tiny_experiment)}],
        "seeds": [1],
        "budget": {"iterations": 160},
        "overrides": {"train.eval_interval": 40, "model.kan.sites": [], "train.log_interval": 10},
    }
    file = tmp_path / "trial.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def test_refused_launchers() -> None:
    with pytest.raises(UsageError, match="--jobs 0"):
        Launcher(0)
    with pytest.raises(UsageError, match="--ray_address auto: add --launcher ray"):
        Launcher(1, "local", "auto")


@pytest.mark.parametrize(("jobs", "threads"), [(1, None), (2, 2), (3, 1)])
def test_jobs_share_the_threads(jobs, threads, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with Launcher(jobs).open(()) as start:
        process = start(["--version"], tmp_path / "logs" / "a.log")
        while not (environment := psutil.Process(process.pid).environ()):
            pass  # exec has yet to put it in place
        assert process.wait() == 0
    assert environment.get("OMP_NUM_THREADS") == (threads and str(threads))
    assert (tmp_path / "logs" / "a.log").read_text(encoding="utf-8").count(".") == 2


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_its_extra_is_named(study: Path, capsys) -> None:
    assert main(["experiment", str(study), "--launcher", "ray", "--out", str(study.parent)]) == 1
    assert "--launcher ray needs the ray package" in capsys.readouterr().err


@needs_ray
def test_an_address_where_no_cluster_answers_is_said() -> None:
    with pytest.raises(UserError, match="--ray_address auto: no cluster answers"):  # noqa: SIM117
        with Launcher(1, "ray", "auto").open(()):
            pass


@needs_ray
@pytest.mark.timeout(900)
def test_a_lost_worker_s_run_goes_on(study: Path) -> None:
    """The worker and its training are killed, as with their machine: no checkpoint is lost."""
    out = study.parent / "runs"
    command = ["experiment", str(study), "--out", str(out), "--launcher", "ray", "--json"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "nanogpkant.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    run = out / "trial" / "gpt" / "seed-1"
    deadline = time.monotonic() + 400
    while not (run / "checkpoints" / "index.json").exists():
        assert time.monotonic() < deadline
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.05)
    training = [
        child
        for child in psutil.Process(driver.pid).children(recursive=True)
        if str(run) in child.cmdline()
    ]
    assert training
    worker = training[0].parent()
    assert worker is not None
    os.kill(worker.pid, signal.SIGKILL)
    for process in training:
        if process.is_running():
            process.kill()
    output, errors = driver.communicate(timeout=400)
    assert driver.returncode == 0, errors
    assert json.loads(output)["title"] == "trial"
    log = run.with_name("seed-1.log").read_text(encoding="utf-8")
    assert log.count("started on ") == 2
    assert "resuming" in log
    assert "a worker was lost and its run resumed, once" in errors
    trained = load_run(run)
    assert trained.finished
    steps = [row["step"] for row in read_metrics(run / "metrics.jsonl") if row["split"] == "train"]
    assert steps == sorted(set(steps))
