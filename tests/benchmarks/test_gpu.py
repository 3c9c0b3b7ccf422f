"""The GPU's benchmark, run on a CPU with everything tiny: does the script work?"""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks.speed import gpu, step
from benchmarks.speed.__main__ import main
from nanogpkant.measure.peak import ChildError


@pytest.fixture
def plan(tiny_experiment, tmp_path):
    tiny = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 8}
    return gpu.GPUPlan(
        device="cpu",
        minutes=5,
        repeats=3,
        rivals=False,
        rows=40,
        shapes=((6, 4), (4, 6)),
        checks=((30, 5, 4),),
        jobs=tuple(step.jobs_for(2, "cpu", "float32", **tiny)[4:]),
        presets=(str(tiny_experiment),),
        runs=str(tmp_path / "runs"),
        train_flags=(),
    )


def test_everything_runs_and_is_written(plan, tmp_path):
    report = gpu.measure_all(plan, str(tmp_path / "out"))
    titles = [table.title for table in report.tables]
    assert titles == [
        "Correctness",
        "40 rows",
        "40 rows: all together",
        "A training step of 2 x 8",
        "Full training runs",
    ]
    assert report.wrong == []
    tables = {table.title: table.rows for table in report.tables}
    assert all(row["equal"] for row in tables["Correctness"])
    assert {row["layer"].split(", ")[-1] for row in tables["Correctness"]} == {
        "fp32",
        "bf16",
        "fp16",
    }
    (run,) = tables["Full training runs"]
    assert run["finished"] is True
    assert run["steps"] == run["of"] == 12
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [table["title"] for table in found["tables"]] == titles
    assert (tmp_path / "out" / "gpu.png").exists()
    assert (tmp_path / "out" / "gpu.md").exists()


def test_a_part_that_fails_costs_no_other(plan, tmp_path, monkeypatch):
    def die(*_, **__):
        raise ChildError("its process died")

    monkeypatch.setattr(gpu, "in_a_child", die)
    report = gpu.measure_all(replace(plan, presets=()), str(tmp_path / "out"))
    assert report.wrong == ["correctness: its process died"]
    assert any("layer 6 -> 4 is left out: its process died" in note for note in report.notes)
    assert any("training steps are left out" in note for note in report.notes)
    assert json.loads((tmp_path / "out" / "gpu.json").read_text())["wrong"]


def test_a_training_run_is_asked_to_stop_and_then_made_to(monkeypatch):
    monkeypatch.setattr(gpu, "SECONDS_TO_STOP", 0.5)
    polite = "signal.signal(signal.SIGINT, lambda *_: (print('saved'), exit(0)))"
    for on_interrupt, printed in ((polite, "saved\n"), ("signal.signal(2, signal.SIG_IGN)", "")):
        code = f"import signal, time; {on_interrupt}; time.sleep(60)"
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, encoding="utf-8"
        ) as child:
            assert gpu._wait(child, 2.0) == printed
        assert bool(child.returncode) == (printed == "")


def test_a_run_that_was_stopped_says_so(tiny_run):
    summary = {"step": 3, "best_val_loss": None, "seconds": 2.0, "peak_memory_bytes": 5e6}
    row = gpu._run_row("tiny", summary | {"finished": False}, tiny_run, wall=9.0)
    assert (row["steps"], row["of"], row["finished"]) == (3, 12, False)
    assert "stopped" in row["remark"]
    assert row["tokens/s"] == 3 * 4 * 16 / 2.0


def test_nothing_starts_when_time_is_over(plan, tiny_experiment):
    assert "no time" in gpu.train(str(tiny_experiment), plan, seconds=-1)["remark"]
    with pytest.raises(ChildError, match="no time was left"):
        gpu._limit(gpu.Clock(0.0), "layers")


def test_a_run_that_fails_says_so(plan, tmp_path):
    row = gpu.train(str(tmp_path / "nowhere.yaml"), plan, seconds=60)
    assert "exit status 2" in row["remark"]


@pytest.mark.parametrize("flags", [[], ["--device", "cpu"]], ids=["auto", "cpu"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_without_cuda_it_says_what_make_test_covers(flags, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["gpu", *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert "needs a CUDA device" in line
    assert "make test" in line
    assert list(tmp_path.iterdir()) == []
