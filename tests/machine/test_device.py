"""Devices and dtypes by name, and the measured choice between dtypes."""

import os
import subprocess
import sys

import pytest
import torch

from nanogpkant.base.errors import UsageError
from nanogpkant.machine import device as device_module
from nanogpkant.machine.device import (
    FAST,
    bfloat16_gain,
    describe,
    peak_memory,
    resolve_device,
    resolve_dtype,
)

CPU = torch.device("cpu")


def test_auto_takes_what_is_there():
    best = "cuda" if torch.cuda.is_available() else "cpu"
    best = "mps" if torch.backends.mps.is_available() else best
    assert resolve_device("auto").type == best
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("name", ["toaster", "", "meta", "cpu:x"])
def test_what_is_no_device_is_refused(name):
    with pytest.raises(UsageError, match="must be auto, cpu, cuda"):
        resolve_device(name)


@pytest.fixture
def bfloat16_takes(monkeypatch):
    """Pretend that a product takes 2 s in float32, and as long as said in bfloat16."""

    def pretend(seconds: float) -> None:
        times = {torch.bfloat16: seconds, torch.float32: 2.0}
        monkeypatch.setattr(device_module, "_matmul_seconds", times.__getitem__)
        bfloat16_gain.cache_clear()

    yield pretend
    bfloat16_gain.cache_clear()


@pytest.mark.parametrize(("seconds", "expected"), [(1.0, "bfloat16"), (3.0, "float32")])
def test_bfloat16_is_chosen_where_it_is_measured_to_be_faster(bfloat16_takes, seconds, expected):
    bfloat16_takes(seconds)
    assert resolve_dtype("auto", CPU) == expected
    assert resolve_dtype("float32", CPU) == "float32"


def test_emulated_bfloat16_is_warned_of(bfloat16_takes, capsys):
    bfloat16_takes(3.0)
    assert resolve_dtype("bfloat16", CPU) == "bfloat16"
    assert not capsys.readouterr().err
    bfloat16_takes(60.0)
    assert resolve_dtype("bfloat16", CPU, "--dtype") == "bfloat16"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "--dtype bfloat16: this CPU emulates it, its products are 30 times slower than float32"
    )


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_measurement_agrees_with_a_longer_one(one_thread):
    def seconds(dtype):
        return device_module._matmul_seconds(dtype, size=1024)

    ratio = seconds(torch.float32) / seconds(torch.bfloat16)
    if not 1.2 < ratio < 1.9:  # near the line either answer is right
        assert (bfloat16_gain() > FAST) == (ratio > FAST)


def test_the_measurement_is_the_same_on_a_busy_machine():
    """Two threads that wait for each other took up to 90 times as long, in either dtype."""
    gain = bfloat16_gain.__wrapped__
    quiet, threads = gain(), torch.get_num_threads()
    endless = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(endless) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        busy = [gain() for _ in range(5)]
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert max(busy) < 2 * quiet
    assert min(busy) > quiet / 2
    assert torch.get_num_threads() == threads


def test_float16_needs_cuda():
    with pytest.raises(UsageError, match="float16"):
        resolve_dtype("float16", CPU)


def test_peak_memory_counts_what_was_held():
    before = peak_memory(CPU)
    held = torch.ones(before // 4 + 25_000_000)  # float32: more than was ever held, by 100 MB
    del held
    assert peak_memory(CPU) - before > 80_000_000


def test_the_record_of_the_machine_is_plain_data():
    record = describe(CPU)
    assert record["versions"]["torch"] == torch.__version__
    assert record["threads"] == torch.get_num_threads()


def test_the_revision_is_of_this_code_and_not_of_what_it_is_installed_in(tmp_path, monkeypatch):
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True)

    for name in ("own.py", "venv/installed.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".gitignore").write_text("venv")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    monkeypatch.setattr(device_module, "__file__", str(tmp_path / "own.py"))
    assert device_module._git_revision()
    monkeypatch.setattr(device_module, "__file__", str(tmp_path / "venv" / "installed.py"))
    assert device_module._git_revision() is None
