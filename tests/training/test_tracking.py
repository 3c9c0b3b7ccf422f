"""Trackers: what the real libraries wrote to their files, live and of a finished run."""

import importlib.util
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from nanogpkant.cli import main
from nanogpkant.run.metrics import read_metrics
from nanogpkant.training.tracking import numbers_in

ABSENT = {
    name: pytest.mark.skipif(
        importlib.util.find_spec(name) is None, reason=f"the track extra is not installed: {name}"
    )
    for name in ("wandb", "tensorboard", "trackio")
}


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 1) -> str:
    assert main(list(arguments)) == status
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


def logged_rows(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What metrics.jsonl says: {"val/loss": [(step, value), ...]}."""
    rows = read_metrics(run / "metrics.jsonl")
    flat = [numbers_in(row, row["split"]) | {"at": row["step"]} for row in rows]
    curves = curves_of(flat, "at")
    return {name: points for name, points in curves.items() if "/" in name and "/step" not in name}


def assert_same_curves(
    got: dict[str, list[tuple[int, float]]], run: Path, rel: float = 1e-12
) -> None:
    expected = logged_rows(run)
    assert {"val/loss", "train/loss", "train/lr"} <= expected.keys() <= got.keys()
    for name, points in expected.items():
        assert [step for step, _ in got[name]] == [step for step, _ in points], name
        assert [v for _, v in got[name]] == pytest.approx([v for _, v in points], rel=rel), name


def curves_of(rows: Iterable[dict[str, Any]], step: str) -> dict[str, list[tuple[int, float]]]:
    """Rows of named values, one of which is the step, as curves."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, value in row.items():
            curves.setdefault(name, []).append((row[step], value))
    return curves


def tensorboard_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    names = accumulator.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in accumulator.Scalars(name)] for name in names}


def wandb_records(folder: Path) -> list:
    """What W&B wrote: the records of every offline run in a folder, in W&B's own format.

    The file is a LevelDB log with a header of 7 bytes: blocks of 32 KiB, in them pieces of a CRC
    (4 bytes), a length (2), a type (1: a whole record, 2: its first piece, 3: a middle one, 4: its
    last) and content.
    """
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # as at the end of a program: its service has written all
    records, content = [], b""
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, at = path.read_bytes(), 7
        while at + 7 <= len(data):
            length, kind = struct.unpack_from("<HB", data, at + 4)
            content += data[at + 7 : at + 7 + length]
            if kind in (1, 4):
                records.append(Record.FromString(content))
                content = b""
            at += 7 + length
            if 32768 - at % 32768 < 7:  # no room for another piece
                at += 32768 - at % 32768
    return records


def wandb_curves(records: list) -> dict[str, list[tuple[int, float]]]:
    rows = [
        {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in history.item
        }
        | {"_step": history.step.num}
        for history in (record.history for record in records if record.HasField("history"))
    ]
    return curves_of(rows, "_step")


@ABSENT["tensorboard"]
def test_tensorboard_gets_the_metrics_live(tiny_experiment: Path, tmp_path: Path):
    out = tmp_path / "r"
    flags = ["--tracking.trackers", "[tensorboard]", "--train.max_iters", "4", "--out", str(out)]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    curves = tensorboard_curves(out / "nanogpkant")
    assert_same_curves(curves, out, rel=1e-6)  # it keeps float32

    resume = ["--resume", "--train.max_iters", "8", "--out", str(out)]
    assert main(["train", str(tiny_experiment), *resume]) == 0
    assert_same_curves(tensorboard_curves(out / "nanogpkant"), out, rel=1e-6)


@ABSENT["tensorboard"]
def test_a_finished_run_goes_to_tensorboard_and_again_without_doubling(run_copy, capsys):
    for _ in range(2):
        command = [
            "track",
            str(run_copy),
            "--tracker",
            "tensorboard",
            "--project",
            "later",
            "--json",
        ]
        assert main(command) == 0
        sent = json.loads(capsys.readouterr().out)
        assert sent["rows"] == len(read_metrics(run_copy / "metrics.jsonl"))
    assert_same_curves(tensorboard_curves(run_copy / "later"), run_copy, rel=1e-6)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run_copy / "later")).Reload()
    text = accumulator.Tensors("samples/text_summary")[-1]
    written = (run_copy / "samples.txt").read_text(encoding="utf-8")
    assert text.tensor_proto.string_val[0].decode() == written


@ABSENT["wandb"]
def test_wandb_gets_the_metrics_live_and_offline(tiny_experiment: Path, tmp_path: Path):
    out = tmp_path / "r"
    flags = ["--tracking.trackers", "[wandb]", "--train.max_iters", "4", "--out", str(out)]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    records = wandb_records(out)
    assert_same_curves(wandb_curves(records), out)
    (started,) = [record.run for record in records if record.HasField("run")]
    environment = json.loads((out / "environment.json").read_text(encoding="utf-8"))
    assert (started.project, started.display_name) == ("nanogpkant", "r")
    assert started.run_id == environment["id"]


@ABSENT["wandb"]
def test_a_finished_run_goes_to_wandb(run_copy, capsys):
    command = ["track", str(run_copy), "--tracker", "wandb", "--project", "later", "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["tracker"] == "wandb"
    records = wandb_records(run_copy)
    curves = wandb_curves(records)
    assert_same_curves(curves, run_copy)
    written = (run_copy / "samples.txt").read_text(encoding="utf-8")
    assert curves["samples"] == [(12, written)]
    keys = {
        item.key: item.value_json
        for record in records
        if record.HasField("config")
        for item in record.config.update
    }
    assert keys["model.n_embd"] == "16"
    assert keys["model.kan.grid_size"] == "2"


@ABSENT["wandb"]
def test_wandb_online_gets_all_rows_and_goes_on_when_training_does(
    tiny_experiment, wandb_server, tmp_path, capsys
):
    import wandb

    out = tmp_path / "r"
    train = ["train", str(tiny_experiment), "--out", str(out), "--train.max_iters"]
    online = ["--tracking.trackers", "[wandb]", "--tracking.wandb_mode", "online"]
    for more in (["4", *online], ["8", "--resume"]):
        assert main([*train, *more]) == 0, capsys.readouterr().err
        wandb.teardown()
    environment = json.loads((out / "environment.json").read_text(encoding="utf-8"))
    assert wandb_server.run["name"] == environment["id"]
    assert wandb_server.run["project"] == "nanogpkant"
    assert_same_curves(curves_of(map(json.loads, wandb_server.history), "_step"), out)


@pytest.mark.parametrize("tracker", [pytest.param(n, marks=ABSENT[n]) for n in ABSENT])
def test_nobody_is_called_unasked(tracker, run_copy, tmp_path):
    """In a process of its own, where all servers are a socket that notices who connects."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        servers = {"WANDB_BASE_URL": url, "HF_ENDPOINT": url, "HF_TOKEN": "hf_of_somebody"}
        env = os.environ | servers | {"TRACKIO_DIR": str(tmp_path / "trackio")}
        command = [
            sys.executable,
            "-m",
            "nanogpkant.cli",
            "track",
            str(run_copy),
            "--tracker",
            tracker,
        ]
        subprocess.run(command, env=env, check=True, timeout=60)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


@ABSENT["trackio"]
def test_trackio_gets_the_metrics_live_and_later(tiny_experiment: Path, tmp_path: Path):
    """In a process of its own: Trackio looks for its folder once, when it is imported."""
    code = """
import json, sys
from nanogpkant.cli import main
experiment, out = sys.argv[1:]
flags = ["--tracking.trackers", "[trackio]", "--train.max_iters", "4", "--out", out]
assert main(["train", experiment, *flags]) == 0
assert main(["track", out, "--tracker", "trackio", "--project", "later", "--json"]) == 0
from trackio.sqlite_storage import SQLiteStorage
for project in ("nanogpkant", "later"):
    (run,) = SQLiteStorage.get_run_records(project)
    logs = SQLiteStorage.get_logs(project, run["name"], run_id=run["id"])
    config = SQLiteStorage.get_run_config(project, run["name"], run_id=run["id"])
    print(json.dumps({"name": run["name"], "logs": logs, "n_embd": config["model.n_embd"]}))
"""
    out = tmp_path / "r"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_experiment), str(out)],
        env=os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    sent, *found = map(json.loads, done.stdout.splitlines())  # nothing else on standard output
    assert sent["rows"] == len(read_metrics(out / "metrics.jsonl"))
    for project in found:
        curves = curves_of(project["logs"], "step")
        assert_same_curves(curves, out)
        assert project["name"] == "r"
        assert project["n_embd"] == 16
        assert curves["samples"] == [(4, (out / "samples.txt").read_text(encoding="utf-8"))]


@ABSENT["trackio"]
def test_live_serves_the_run_on_this_machine_while_it_trains(tiny_experiment: Path, tmp_path: Path):
    code = """
import contextlib, io, re, sys, urllib.request
from nanogpkant.cli import main
experiment, out = sys.argv[1:]
said = io.StringIO()
with contextlib.redirect_stderr(said):
    assert main(["train", experiment, "--live", "--train.max_iters", "4", "--out", out]) == 0
url = re.search(r"http://127[.]0[.]0[.]1:\\S+", said.getvalue()).group()
print(urllib.request.urlopen(url).status)
"""
    env = {key: value for key, value in os.environ.items() if key != "TRACKIO_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_experiment), str(tmp_path / "r")],
        env=env | {"BROWSER": "true"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.stdout == "200\n", done.stderr
    assert (tmp_path / "r" / "trackio" / "nanogpkant.db").exists()


@pytest.mark.parametrize("verb", ["train", "live", "track"])
def test_a_tracker_that_is_not_installed_is_named(
    verb, tiny_experiment, run_copy, tmp_path, monkeypatch, capsys
):
    find = importlib.util.find_spec
    missing = lambda name, *a: None if name == "trackio" else find(name, *a)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    out = tmp_path / "r"
    command = {
        "train": [str(tiny_experiment), "--tracking.trackers", "[trackio]", "--out", str(out)],
        "live": [str(tiny_experiment), "--live", "--out", str(out)],
        "track": [str(run_copy), "--tracker", "trackio"],
    }[verb]
    name = "track" if verb == "track" else "train"
    assert "pip install 'nanogpkant[track]'" in error_of(capsys, name, *command)
    assert not out.exists()


def test_an_unknown_tracker_and_a_bad_project_are_refused(
    tiny_experiment, run_copy, tmp_path, capsys
):
    out = ["--out", str(tmp_path / "r")]
    train = ["train", str(tiny_experiment), *out]
    line = error_of(capsys, *train, "--tracking.trackers", "[mlflow]", status=2)
    assert "--tracking.trackers" in line
    line = error_of(capsys, "track", str(run_copy), "--tracker", "mlflow", status=2)
    assert "wandb, tensorboard, trackio" in line.replace("'", "")
    track = ["track", str(run_copy), "--tracker", "tensorboard", "--project", "../elsewhere"]
    assert "--tracking.project ../elsewhere" in error_of(capsys, *track, status=2)
    assert not (tmp_path / "r").exists()
    assert not (tmp_path / "elsewhere").exists()


@ABSENT["wandb"]
def test_online_without_a_login_is_refused_before_training(
    tiny_experiment, run_copy, monkeypatch, capsys
):
    train = ["train", str(tiny_experiment), "--out", str(run_copy), "--overwrite"]
    train += ["--tracking.trackers", "[wandb]", "--tracking.wandb_mode", "online"]
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    assert "wandb login" in error_of(capsys, *train)
    track = ["track", str(run_copy), "--tracker", "wandb", "--wandb_mode", "online"]
    assert "wandb login" in error_of(capsys, *track)
    monkeypatch.setenv("WANDB_API_KEY", "short")
    assert "API key" in error_of(capsys, *train)
    assert before == {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}


def test_runs_with_nothing_to_send(run_copy, tmp_path, capsys):
    (run_copy / "metrics.jsonl").write_text("", encoding="utf-8")
    assert "no metrics yet" in error_of(capsys, "track", str(run_copy), "--tracker", "tensorboard")
    line = error_of(capsys, "track", str(tmp_path / "none"), "--tracker", "tensorboard")
    assert "is not a run" in line


@ABSENT["tensorboard"]
def test_a_run_without_validation_rows_is_sent(run_copy, capsys):
    rows = [r for r in read_metrics(run_copy / "metrics.jsonl") if r["split"] == "train"]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run_copy / "metrics.jsonl").write_text(text, encoding="utf-8")
    assert main(["track", str(run_copy), "--tracker", "tensorboard"]) == 0
    curves = tensorboard_curves(run_copy / "nanogpkant")
    assert len(curves["train/loss"]) == len(rows)
    assert "val/loss" not in curves
