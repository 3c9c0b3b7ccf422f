"""Training: exact resumption, being killed, Ctrl-C, values that stop being finite."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent import futures
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from nanogpkant.base.errors import UserError
from nanogpkant.cli import main
from nanogpkant.config import load_config, with_changes
from nanogpkant.evaluation import evaluate
from nanogpkant.model.gpt import GPT
from nanogpkant.run import checkpoint as checkpoint_module
from nanogpkant.run.checkpoint import load_checkpoint
from nanogpkant.run.folder import open_run
from nanogpkant.run.load import load_model, open_run_data
from nanogpkant.run.metrics import read_metrics
from nanogpkant.training import loop as train_module
from nanogpkant.training import opening
from nanogpkant.training import state as training_state

TIMES = ("seconds", "tokens_per_second", "memory_bytes")


def rows_without_times(run: Path) -> list[dict]:
    rows = read_metrics(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def assert_same_run(run: Path, other: Path) -> None:
    """The same losses and the same final weights and optimiser state, bit for bit."""
    assert rows_without_times(run) == rows_without_times(other)
    ours, theirs = (load_checkpoint(open_run(path), "last") for path in (run, other))
    assert ours.step == theirs.step
    torch.testing.assert_close(ours.weights(), theirs.weights(), rtol=0, atol=0)
    a, b = ours.training(), theirs.training()
    torch.testing.assert_close(a["optimizer"]["state"], b["optimizer"]["state"], rtol=0, atol=0)


def test_a_run_folder_holds_what_the_design_says(tiny_run: Path):
    assert {p.name for p in tiny_run.iterdir()} == {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "tokenizer.json",
        "checkpoints",
        "samples.txt",
    }
    environment = json.loads((tiny_run / "environment.json").read_text(encoding="utf-8"))
    assert environment["versions"]["torch"] == torch.__version__
    assert len(environment["data_fingerprint"]) == 64
    assert len((tiny_run / "samples.txt").read_text(encoding="utf-8")) == 21
    rows = read_metrics(tiny_run / "metrics.jsonl")
    assert [r["step"] for r in rows if r["split"] == "val"] == [0, 4, 8, 12]
    assert [r["step"] for r in rows if r["split"] == "train"] == list(range(1, 13))
    losses = [r["loss"] for r in rows if "loss" in r]
    assert losses[-1] < losses[0] - 0.2  # it learned
    assert (tiny_run / "checkpoints/step-000012/manifest.json").is_file()


def test_the_same_configuration_repeats_the_run(tiny_run: Path, tmp_path: Path):
    again = tmp_path / "again"
    assert main(["train", str(tiny_run / "config.yaml"), "--out", str(again)]) == 0
    assert_same_run(tiny_run, again)


def test_evaluating_more_often_changes_nothing(tiny_run, tiny_experiment, tmp_path):
    out = tmp_path / "often"
    flags = ["--train.eval_interval", "1", "--out", str(out)]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    losses = [r["loss"] for r in rows_without_times(out) if r["split"] == "train"]
    expected = [r["loss"] for r in rows_without_times(tiny_run) if r["split"] == "train"]
    assert losses == expected


def test_gradient_accumulation_is_a_larger_batch(tiny_experiment: Path, tmp_path: Path):
    """Two half batches make the gradient of their union: compared against autograd directly."""
    flags = ["--train.grad_accum_steps", "2", "--train.max_iters", "1", "--model.dropout", "0"]
    flags += ["--optim.warmup_iters", "0", "--optim.grad_clip", "0", "--out", str(tmp_path / "r")]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    row = next(r for r in rows_without_times(tmp_path / "r") if r["split"] == "train")

    config, _, data = opening.open_all(load_config(tmp_path / "r" / "config.yaml"), tmp_path)
    model = opening.make_model(config, data)
    batches = opening.Batches(data.train, 16, 4, config.train.seed)
    x, y = (torch.cat(pair) for pair in zip(batches.batch(0), batches.batch(1), strict=True))
    loss = model(x, y)
    loss.backward()
    norm = torch.nn.utils.get_total_norm(p.grad for p in model.parameters())
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert row["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_training_lowers_the_rate_as_the_schedule_says(tiny_run: Path):
    rates = [r["lr"] for r in rows_without_times(tiny_run) if r["split"] == "train"]
    assert 0 < rates[0] < rates[1] < rates[2] == max(rates) == pytest.approx(1e-2)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def start(experiment: Path, out: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "nanogpkant.cli", "train", str(experiment), "--out", str(out)]
    return subprocess.Popen(
        [*command, *flags], stderr=subprocess.PIPE, encoding="utf-8", env=os.environ
    )


def wait_for_rows(out: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "metrics.jsonl").exists() and len(read_metrics(out / "metrics.jsonl")) >= count:
            return
        time.sleep(0.005)
    raise AssertionError(f"no {count} rows: {process.stderr.read()}")


LONG = ["--train.max_iters", "60", "--train.eval_interval", "4", "--optim.lr_decay_iters", "60"]


@pytest.fixture(scope="module")
def whole(tiny_experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 steps that nobody disturbed. Not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert main(["train", str(tiny_experiment), "--out", str(out), *LONG]) == 0
    return out


@pytest.mark.parametrize("rows_before_the_kill", [2, 9, 14])
def test_killed_at_any_instant_a_run_resumes_exactly(
    whole: Path, tiny_experiment: Path, tmp_path: Path, rows_before_the_kill: int
):
    killed = tmp_path / "killed"
    process = start(tiny_experiment, killed, *LONG)
    wait_for_rows(killed, rows_before_the_kill, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert main(["train", str(tiny_experiment), "--out", str(killed), "--resume"]) == 0
    assert_same_run(whole, killed)


def test_a_slow_disk_changes_nothing(tiny_experiment: Path, tmp_path: Path, monkeypatch):
    flags = ["--train.max_iters", "20", "--train.eval_interval", "4"]
    whole, slow = tmp_path / "whole", tmp_path / "slow"
    assert main(["train", str(tiny_experiment), "--out", str(whole), *flags]) == 0
    write, threads = checkpoint_module.write_manifest, set()

    def late(*arguments):
        threads.add(threading.current_thread().name)
        time.sleep(0.05)  # steps take 2 ms
        write(*arguments)

    monkeypatch.setattr(checkpoint_module, "write_manifest", late)
    assert main(["train", str(tiny_experiment), "--out", str(slow), *flags]) == 0
    assert threads == {"checkpoint_0"}
    assert_same_run(whole, slow)


def test_a_failed_write_stops_the_run_at_the_next_step(
    tiny_experiment: Path, tmp_path: Path, monkeypatch, capsys
):
    flags = ["--train.max_iters", "20", "--train.eval_interval", "4", "--train.log_interval", "1"]
    whole, full = tmp_path / "whole", tmp_path / "full"
    assert main(["train", str(tiny_experiment), "--out", str(whole), *flags]) == 0
    write, step = checkpoint_module.write_manifest, train_module.train_step

    def fail(folder, number, names):
        if number == 8:
            raise OSError(28, "No space left on device")
        write(folder, number, names)

    def after_writing(session, is_logged):
        if session.writer._last is not None:
            futures.wait([session.writer._last])
        return step(session, is_logged)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "write_manifest", fail)
        patch.setattr(train_module, "train_step", after_writing)
        capsys.readouterr()
        assert main(["train", str(tiny_experiment), "--out", str(full), *flags]) == 1
    (problem,) = [line for line in capsys.readouterr().err.splitlines() if "cannot" in line]
    assert "No space left on device" in problem
    assert max(row["step"] for row in read_metrics(full / "metrics.jsonl")) == 8
    assert load_checkpoint(open_run(full), "last").step == 4
    assert main(["train", str(tiny_experiment), "--out", str(full), "--resume"]) == 0
    assert_same_run(whole, full)


def test_ctrl_c_saves_and_the_run_resumes_exactly(whole, tiny_experiment, tmp_path: Path):
    stopped = tmp_path / "stopped"
    process = start(tiny_experiment, stopped, *LONG)
    wait_for_rows(stopped, 4, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "--resume" in errors
    last_row = errors.splitlines()[-1]
    step = load_checkpoint(open_run(stopped), "last").step
    assert 3 <= step < 60
    assert f"after {step} steps" in last_row
    was_evaluated = any(
        r["split"] == "val" and r["step"] for r in read_metrics(stopped / "metrics.jsonl")
    )
    assert last_row.startswith("best validation loss" if was_evaluated else "validation loss")
    assert main(["train", str(tiny_experiment), "--out", str(stopped), "--resume"]) == 0
    assert_same_run(whole, stopped)


def test_a_finished_run_can_be_extended(tiny_run: Path, tiny_experiment: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_run, copy)
    flags = ["--resume", "--train.max_iters", "14", "--out", str(copy)]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    assert load_checkpoint(open_run(copy), "last").step == 14
    steps = [r["step"] for r in read_metrics(copy / "metrics.jsonl") if r["split"] == "train"]
    assert steps == list(range(1, 15))


@pytest.mark.parametrize("flags", [[], ["--resume", "--overwrite"]])
def test_a_run_that_exists_is_left_alone(tiny_run, tiny_experiment, flags, capsys):
    before = {p: p.stat().st_mtime_ns for p in tiny_run.rglob("*")}
    assert main(["train", str(tiny_experiment), "--out", str(tiny_run), *flags]) == 2
    assert "--resume" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in tiny_run.rglob("*")} == before


def test_overwrite_replaces_runs_and_nothing_else(tiny_run, tiny_experiment, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_run, copy)
    (copy / "samples.txt").write_text("old", encoding="utf-8")
    flags = ["--overwrite", "--train.max_iters", "3", "--out"]
    assert main(["train", str(tiny_experiment), *flags, str(copy)]) == 0
    assert load_checkpoint(open_run(copy), "last").step == 3
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("years of work", encoding="utf-8")
    assert main(["train", str(tiny_experiment), *flags, str(precious)]) == 2
    assert "not a run folder" in capsys.readouterr().err
    assert main(["train", str(tiny_experiment), "--out", str(precious)]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
    assert (precious / "chapter.txt").exists()


def test_a_changed_model_or_data_cannot_be_resumed(tiny_run, tiny_experiment, capsys):
    command = ["train", str(tiny_experiment), "--out", str(tiny_run), "--resume"]
    for flag, value in (("--model.n_layer", "3"), ("--optim.name", "muon")):
        assert main([*command, flag, value]) == 2
        assert "cannot change" in capsys.readouterr().err


def test_moments_of_another_optimiser_are_refused(tiny_run):
    run = open_run(tiny_run)
    config = load_config(run.config_file)
    config = with_changes(config, **{"optim.name": "muon", "train.max_iters": 20})
    with pytest.raises(UserError, match="another optimiser: leave --optim.name"):
        train_module.train(config, tiny_run, resume=True)


def test_muon_resumes_exactly_and_learns(tiny_experiment, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    flags = ["--optim.name", "muon", "--optim.lr_decay_iters", "20"]
    flags += ["--train.max_iters", "20", "--train.eval_interval", "10"]
    assert main(["train", str(tiny_experiment), "--out", str(whole), *flags]) == 0
    flags[5] = "10"
    assert main(["train", str(tiny_experiment), "--out", str(halves), *flags]) == 0
    resume = ["--resume", "--train.max_iters", "20"]
    assert main(["train", str(tiny_experiment), "--out", str(halves), *resume]) == 0
    assert_same_run(whole, halves)
    losses = [r["loss"] for r in read_metrics(whole / "metrics.jsonl") if r["split"] == "val"]
    assert losses[-1] < losses[1] < losses[0]


def test_other_data_under_the_same_name_is_noticed(tiny_run, tiny_experiment, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_run, copy)
    environment = json.loads((copy / "environment.json").read_text(encoding="utf-8"))
    environment["data_fingerprint"] = "0" * 64
    (copy / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    assert main(["train", str(tiny_experiment), "--out", str(copy), "--resume"]) == 1
    assert "other data" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run(tiny_experiment, tmp_path, monkeypatch, capsys):
    """From step 6 on a layer gives NaN: the message has the step, the layer and what is left."""
    forward, calls = GPT.forward, []

    def sabotaged(self, *args, **kwargs):
        if self.training:
            calls.append(1)
        if len(calls) == 6:
            with torch.no_grad():
                self.blocks[1].mlp.into.weight[0, 0, 0] = torch.nan
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(GPT, "forward", sabotaged)
    assert main(["train", str(tiny_experiment), "--out", str(tmp_path / "r")]) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "step 6: the loss is nan" in message
    assert "blocks.1.mlp.into.weight" in message
    assert "step-000004" in message
    assert "--optim.learning_rate" in message
    load_checkpoint(open_run(tmp_path / "r"), "last")  # and it is whole


def test_retention_keeps_best_last_and_every_n(tiny_experiment: Path, tmp_path: Path):
    flags = ["--train.keep_every", "8", "--train.max_iters", "20", "--out", str(tmp_path / "r")]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    run = open_run(tmp_path / "r")
    kept = {p.name for p in run.checkpoints.glob("step-*")}
    assert kept == {"step-000008", "step-000016", *run.index().values()}
    assert run.index()["last"] == "step-000020"


def test_without_always_save_only_better_models_are_kept(tiny_experiment, tmp_path, monkeypatch):
    losses = iter([3.0, 2.0, 2.5, 2.6, 2.7])

    class Result:
        perplexity, tokens = 1.0, 100

        def __init__(self, loss):
            self.loss = loss

        def as_dict(self):
            return {"loss": self.loss}

        def parts(self):
            return {}

    monkeypatch.setattr(train_module, "evaluate", lambda *_: Result(next(losses)))
    saved = []
    monkeypatch.setattr(
        training_state,
        "save_checkpoint",
        lambda run, step, w, t, best, *_: saved.append((step, best)),
    )
    flags = [
        "--train.always_save",
        "false",
        "--train.max_iters",
        "16",
        "--train.sample_tokens",
        "0",
    ]
    assert main(["train", str(tiny_experiment), *flags, "--out", str(tmp_path / "r")]) == 0
    assert saved == [(4, True), (16, False)]  # the best one, and where to resume from


def test_init_from_starts_with_another_runs_weights(tiny_run, tiny_experiment, tmp_path, capsys):
    flags = ["--train.init_from", str(tiny_run), "--train.eval_only", "true", "--json"]
    assert main(["train", str(tiny_experiment), *flags, "--out", str(tmp_path / "x")]) == 0
    loss = json.loads(capsys.readouterr().out)["loss"]
    best = min(r["loss"] for r in read_metrics(tiny_run / "metrics.jsonl") if r["split"] == "val")
    assert loss == pytest.approx(best, rel=1e-6)
    assert not (tmp_path / "x").exists()


def test_compile_or_a_word_why_not(tiny_experiment, tmp_path, monkeypatch, capsys):
    """Where the compiler fails, training continues without it and says so in one line."""

    def broken(self, *args, **kwargs):
        self._compiled_call_impl = lambda *a, **k: (_ for _ in ()).throw(
            RuntimeError("no compiler")
        )

    monkeypatch.setattr(GPT, "compile", broken)
    flags = ["--train.compile", "true", "--train.max_iters", "3", "--out", str(tmp_path / "r")]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    errors = capsys.readouterr().err
    assert "going on without it" in errors
    assert "no compiler" in errors


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_learns_the_same(tiny_run, tiny_experiment, tmp_path, capsys):
    command = ["train", str(tiny_experiment), "--model.dropout", "0", "--model.n_layer", "1"]
    torch.compiler.reset()
    counters.clear()
    assert main([*command, "--train.compile", "true", "--out", str(tmp_path / "compiled")]) == 0
    assert "going on without it" not in capsys.readouterr().err
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert main([*command, "--out", str(tmp_path / "eager")]) == 0
    compiled, eager = (
        [r["loss"] for r in rows_without_times(tmp_path / name) if "loss" in r]
        for name in ("compiled", "eager")
    )
    assert compiled == pytest.approx(eager, rel=1e-3)


def test_a_run_that_never_improves_is_still_whole(tiny_experiment, tmp_path, capsys):
    """With no learning the start is never beaten, and no checkpoint of it exists: last is best."""
    flags = ["--optim.learning_rate", "0", "--optim.min_lr", "0", "--out", str(tmp_path / "r")]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    assert main(["sample", str(tmp_path / "r"), "--tokens", "3"]) == 0


def test_a_bare_name_resumes_with_the_runs_own_settings(tiny_experiment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rate = ["--optim.learning_rate", "0.02"]
    assert main(["train", str(tiny_experiment), "--out", "runs/wide", *rate]) == 0
    more = ["--resume", "--train.max_iters", "14"]
    assert main(["train", str(tiny_experiment), "--out", "wide", *more]) == 0
    assert load_config(tmp_path / "runs/wide/config.yaml").optim.learning_rate == 0.02
    assert open_run("wide").index()["last"] == "step-000014"


def test_resume_takes_new_optimiser_settings(tiny_run, tiny_experiment, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_run, copy)
    flags = ["--optim.weight_decay", "0.7", "--optim.beta2", "0.5", "--train.max_iters", "13"]
    assert main(["train", str(tiny_experiment), "--resume", "--out", str(copy), *flags]) == 0
    groups = load_checkpoint(open_run(copy), "last").training()["optimizer"]["param_groups"]
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.7, 0.7]
    assert all(group["betas"] == (0.9, 0.5) for group in groups)


def test_a_run_outlives_what_it_was_made_from(tiny_run, tiny_experiment, corpus, tmp_path, capsys):
    """The run that it started from, and the text file, may go: it has weights and tokens."""
    parent, text = tmp_path / "parent", tmp_path / "text.txt"
    shutil.copytree(tiny_run, parent)
    shutil.copy(corpus, text)
    data = ["--data.dataset", "text", "--data.file", str(text), "--data.dir", str(tmp_path / "d")]
    out = ["--out", str(tmp_path / "r")]
    flags = ["--train.init_from", str(parent), *data, *out]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    shutil.rmtree(parent)
    text.unlink()
    resume = ["--resume", "--train.max_iters", "14"]
    assert main(["train", str(tiny_experiment), *resume, *out]) == 0
    assert main(["eval", str(tmp_path / "r")]) == 0


def test_keep_every_holds_without_always_save(tiny_experiment, tmp_path):
    flags = [
        "--train.always_save",
        "false",
        "--train.keep_every",
        "4",
        "--out",
        str(tmp_path / "r"),
    ]
    flags += ["--optim.learning_rate", "0", "--optim.min_lr", "0"]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    kept = {p.name for p in (tmp_path / "r" / "checkpoints").glob("step-*")}
    assert kept == {"step-000004", "step-000008", "step-000012"}


def test_a_run_stops_when_its_time_is_over(tiny_experiment, tmp_path, capsys):
    """With the learning rate at its end, an evaluation and a checkpoint; then there is no more."""
    out = tmp_path / "r"
    flags = ["--train.max_seconds", "1.5", "--train.max_iters", "1000000", "--out", str(out)]
    command = ["train", str(tiny_experiment), "--train.eval_interval", "1000000", *flags]
    assert main([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["finished"]
    assert 1.5 <= summary["seconds"] < 5
    rows = read_metrics(out / "metrics.jsonl")
    last = [row for row in rows if row["split"] == "val"][-1]
    assert last["step"] == summary["step"] == load_checkpoint(open_run(out), "last").step
    rates = [row["lr"] for row in rows if row["split"] == "train"]
    assert rates[-1] < 2e-3 < max(rates) <= 1e-2  # min_lr is 1e-3
    assert (out / "samples.txt").exists()
    before = (out / "metrics.jsonl").read_bytes()
    assert main([*command, "--resume"]) == 0
    assert (out / "metrics.jsonl").read_bytes() == before


def test_evaluations_know_their_loss_on_each_half(tiny_run):
    rows = [r for r in read_metrics(tiny_run / "metrics.jsonl") if r["split"] == "val"]
    for row in rows:
        halves = row["loss_first_half"], row["loss_second_half"]
        assert sum(halves) / 2 == pytest.approx(row["loss"], rel=1e-3)
        assert halves[0] != halves[1]


def test_evaluations_read_as_much_as_they_are_told(tiny_experiment, tmp_path):
    flags = ["--train.eval_tokens", "100", "--train.max_iters", "4", "--out", str(tmp_path / "run")]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    rows = [r for r in read_metrics(tmp_path / "run/metrics.jsonl") if r["split"] == "val"]
    assert [row["tokens"] for row in rows] == [100, 100]
    trained = load_model(tmp_path / "run", "last")
    text = open_run_data(open_run(tmp_path / "run"), trained.config.data).val[:101]
    assert evaluate(trained.model, text, 3).loss == pytest.approx(rows[-1]["loss"], rel=1e-3)


def test_a_clock_that_jumps_back_is_not_looked_at(tiny_experiment, tmp_path, monkeypatch):
    now = iter(range(10**9, 0, -3600))  # every look an hour earlier
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    monkeypatch.setattr(time, "time_ns", lambda: next(now) * 10**9)
    flags = ["--train.max_iters", "4", "--out", str(tmp_path / "run")]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    seconds = [row["seconds"] for row in read_metrics(tmp_path / "run/metrics.jsonl")]
    assert seconds[0] >= 0 and seconds == sorted(seconds) and 0 < seconds[-1] < 60


@pytest.mark.parametrize("flag", [[], ["--auto_resume"], ["--overwrite"]])
def test_an_empty_folder_is_a_new_run(flag, tiny_experiment, tmp_path):
    (out := tmp_path / "empty").mkdir()
    command = ["train", str(tiny_experiment), "--out", str(out), "--train.max_iters", "2"]
    assert main([*command, *flag]) == 0
    assert open_run(out).index()["last"] == "step-000002"


def test_losses_over_other_tokens_have_a_best_of_their_own(tiny_experiment, tmp_path):
    """At a rate that spoils the model, a later loss is the best only of another text."""
    command = ["train", str(tiny_experiment), "--out", str(tmp_path / "run"), "--auto_resume"]
    for flags, best in (
        (["--train.max_iters", "4"], 4),
        (["--train.max_iters", "8", "--optim.learning_rate", "2"], 4),
        (["--train.max_iters", "12", "--train.eval_tokens", "100"], 12),
    ):
        assert main([*command, *flags]) == 0
        assert open_run(tmp_path / "run").index()["best"] == f"step-{best:06d}"


def test_the_gradient_scale_of_float16_is_resumed(tiny_experiment, tmp_path, monkeypatch):
    """On a CPU, which takes the scaler but not float16."""
    original = torch.amp.GradScaler

    def scaler(device: str, enabled: bool = True) -> torch.amp.GradScaler:
        return original(device, init_scale=256.0, growth_interval=3)

    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    command = ["train", str(tiny_experiment), "--out", str(tmp_path / "run"), "--auto_resume"]
    for steps, expected in ((2, (256.0, 2)), (4, (512.0, 1))):
        assert main([*command, "--train.max_iters", str(steps)]) == 0
        saved = load_checkpoint(open_run(tmp_path / "run"), "last").training()["scaler"]
        assert (saved["scale"], saved["_growth_tracker"]) == expected
