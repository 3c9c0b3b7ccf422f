"""One writer a run, many readers beside it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanogpkant.base.errors import UserError
from nanogpkant.base.lock import BusyError, only_writer
from nanogpkant.cli import main
from nanogpkant.data.corpus import scan
from nanogpkant.model.gpt import GPT
from nanogpkant.run.checkpoint import load_checkpoint
from nanogpkant.run.folder import open_run
from nanogpkant.run.load import load_model

HOLD = """
import sys, time
from pathlib import Path
from nanogpkant.base.lock import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(folder: Path, seconds: float = 60) -> subprocess.Popen:
    """Another process that holds the lock of a folder."""
    command = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_lock_is_held_once_and_leaves_nothing(tmp_path: Path):
    folder = tmp_path / "new" / "deep" / "r"
    with only_writer(folder), only_writer(folder):
        assert folder.parent.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_dead_holder_does_not_block_and_a_live_one_is_named(tmp_path: Path):
    process = holder(tmp_path / "r")
    with pytest.raises(BusyError, match=f"process {process.pid} on"), only_writer(tmp_path / "r"):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (tmp_path / ".r.lock").exists()
    with only_writer(tmp_path / "r"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="a place where even root makes no file")
def test_where_no_file_can_be_made_nobody_is_blamed():
    """Nor waited for."""
    with pytest.raises(UserError, match="cannot write /proc/x"), only_writer(Path("/proc/x"), True):
        pass


# Commands in a folder with two runs, a and b, and the folder that each writes.
WRITERS = {
    "train": ("train tiny.yaml --out b --resume", "b"),
    "overwrite": ("train tiny.yaml --out b --overwrite", "b"),
    "prune": ("prune a --share 0.5 --out c", "c"),
    "interpret": ("interpret a", "a/interpret"),
    "interpret elsewhere": ("interpret a --out i", "i"),
    "convert": ("convert a --out c", "c"),
    "export": ("export a --out c", "c"),
    "pull": ("pull me/a --out c", "c"),
    "search": ("search search.yaml", "runs/search"),
    "track": ("track a --tracker tensorboard --project p", "a/p"),
}
SEARCH = """
families: [{name: kan, preset: tiny.yaml, space: {optim.learning_rate: [0.01, 0.02]}}]
rungs: [{iterations: 2, trials: 1}]
"""


@pytest.mark.parametrize("verb", WRITERS)
def test_every_writer_is_refused_beside_another(
    verb: str, tiny_run: Path, tiny_experiment: Path, tmp_path: Path, capsys, monkeypatch
):
    """Before it makes a model or writes a file."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        shutil.copytree(tiny_run, name)
    shutil.copy(tiny_experiment, "tiny.yaml")
    Path("search.yaml").write_text(SEARCH, encoding="utf-8")
    monkeypatch.setattr(GPT, "__init__", lambda *_: pytest.fail("made a model"))
    command, busy = WRITERS[verb]
    process = holder(Path(busy))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert main(command.split()) == 1
    assert "is being written by process" in capsys.readouterr().err.splitlines()[-1]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    process.kill()
    process.wait()


@pytest.mark.parametrize("verb", ["prepare", "compare"])
def test_who_would_be_done_soon_waits(verb, tiny_run, corpus, tmp_path, capsys, monkeypatch):
    """And reads nothing before: an hour of reading would be for nothing."""
    folder = tmp_path / "x"
    process, told = holder(folder, seconds=2), []

    def scan_and_tell(*arguments):
        told.append(capsys.readouterr().err)
        return scan(*arguments)

    monkeypatch.setattr("nanogpkant.data.corpus.scan", scan_and_tell)
    commands = {
        "prepare": ["prepare", "x", "--file", str(corpus), "--dir", str(tmp_path)],
        "compare": ["compare", str(tiny_run), "--out", str(folder)],
    }
    assert main(commands[verb]) == 0
    assert process.wait() == 0
    assert "waiting: " in [*told, capsys.readouterr().err][0]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_stages_of_an_interpretation_are_locked_from_python_too(tiny_run, tmp_path):
    from nanogpkant.interpretation import Interpretation

    interpretation = Interpretation(tiny_run, device="cpu", folder=tmp_path / "i")
    process = holder(tmp_path / "i")
    with pytest.raises(BusyError):
        _ = interpretation.observed
    process.kill()
    process.wait()
    assert not (tmp_path / "i").exists()


def test_a_second_trainer_waits_if_asked_to(tiny_experiment: Path, tmp_path: Path, capsys):
    process = holder(tmp_path / "r", seconds=3)
    assert main(["train", str(tiny_experiment), "--out", str(tmp_path / "r"), "--wait"]) == 0
    assert "is being written by process" in capsys.readouterr().err
    assert process.wait() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_auto_resume_takes_the_flags_of_the_start_again(tiny_experiment, tmp_path, capsys):
    command = ["train", str(tiny_experiment), "--out", str(tmp_path / "r"), "--auto_resume"]
    assert main([*command, "--model.n_embd", "8"]) == 0
    assert main([*command, "--model.n_embd", "8", "--train.max_iters", "14"]) == 0
    assert main([*command, "--model.n_embd", "16"]) == 2
    assert "cannot change" in capsys.readouterr().err
    assert load_checkpoint(open_run(tmp_path / "r"), "last").step == 14


def test_a_resumed_run_takes_weights_and_moments_of_one_checkpoint(tiny_run, tmp_path, monkeypatch):
    """Also if the index moves on between the two."""
    from nanogpkant.config import load_config
    from nanogpkant.training import loop, opening

    run = open_run(shutil.copytree(tiny_run, tmp_path / "r"))
    asked = []
    real = opening.load_checkpoint
    monkeypatch.setattr(opening, "load_checkpoint", lambda *a: asked.append(a) or real(*a))
    monkeypatch.setattr(loop, "fit", lambda session: None)
    loop.train(load_config(run.config_file), run.path, resume=True)
    assert len(asked) == 1


def test_a_checkpoint_that_vanishes_while_it_is_read_is_looked_up_again(tiny_run, tmp_path):
    """A reader beside a trainer that saves all the time sees a whole checkpoint, every time."""
    run = open_run(shutil.copytree(tiny_run, tmp_path / "r"))
    script = """
import shutil, sys
from pathlib import Path
from nanogpkant.base.files import write_json
folder = Path(sys.argv[1])
for number in range(13, 10**6):
    new, old = folder / f"step-{number:06d}", folder / f"step-{number - 1:06d}"
    shutil.copytree(old, folder / ".draft")
    (folder / ".draft").rename(new)
    write_json(folder / "index.json", {"last": new.name, "best": new.name})
    shutil.rmtree(old)
"""
    command = [sys.executable, "-c", script, str(run.checkpoints)]
    process = subprocess.Popen(command)
    while run.index()["last"] == "step-000012":
        time.sleep(0.01)
    for _ in range(50):
        load_model(run.path, "last")
    assert process.poll() is None
    process.kill()
    process.wait()


def test_what_is_removed_after_it_was_found_can_still_be_read(tiny_run, tmp_path):
    run = open_run(shutil.copytree(tiny_run, tmp_path / "r"))
    checkpoint = load_checkpoint(run, "last")
    shutil.rmtree(checkpoint.folder)
    assert checkpoint.weights().keys()
    assert checkpoint.features()
    with pytest.raises(UserError):
        load_checkpoint(run, "last")
