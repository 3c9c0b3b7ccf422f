"""The measured choice of a backend: the faster one, once, kept on the disk, by kind of call."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import FIXED, GROUPED

from nanogpkant.kan import functional
from nanogpkant.kan.backends import fastest as module
from nanogpkant.kan.backends import recompute

SLEEPS = {"triton": 0.1, "recompute": 0.0}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the backends that run; both compute the same, and take different times."""
    ran: list[str] = []

    def slow(name: str) -> SimpleNamespace:
        def forward(call):
            ran.append(name)
            time.sleep(SLEEPS[name])
            return recompute.forward(call)

        return SimpleNamespace(forward=forward, backward=recompute.backward)

    backends = {name: slow(name) for name in SLEEPS}
    monkeypatch.setattr(module, "FUSED", backends)
    monkeypatch.setattr(functional, "FUSED", backends)
    monkeypatch.setattr(module, "_found", {})
    module._kind.cache_clear()
    monkeypatch.setattr("nanogpkant.kan.backends.triton.unsupported", lambda *_: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return ran


def rounds(ran: list[str]) -> int:
    """Measurements among the calls, each with ``ROUNDS`` + 1 calls of the slower backend."""
    return ran.count("triton") // (module.ROUNDS + 1)


@pytest.mark.parametrize("features", [FIXED, GROUPED], ids=repr)
def test_the_faster_one_runs_with_its_gradients(features, problem, measured) -> None:
    case = problem(features, dtype=torch.float32)
    results, wanted = case.run("auto"), case.run("reference")
    for result, value in zip(results, wanted, strict=True):
        torch.testing.assert_close(result, value, rtol=1e-4, atol=1e-4)
    assert (measured[-1], rounds(measured)) == ("recompute", 1)


def test_it_is_measured_once_and_kept(problem, measured, tmp_path, monkeypatch) -> None:
    case = problem(FIXED, (10,), dtype=torch.float32)
    case.forward("auto")
    problem(FIXED, (9,), dtype=torch.float32).forward("auto")  # say, a last batch
    monkeypatch.setattr(module, "_found", {})  # another process
    case.forward("auto")
    assert rounds(measured) == 1
    assert '"recompute"' in (tmp_path / "nanogpkant" / "backends.json").read_text()


def test_other_kinds_of_calls_are_measured(problem, measured, monkeypatch) -> None:
    case = problem(FIXED, (10,), dtype=torch.float32)
    case.forward("auto")
    problem(FIXED, (100,), dtype=torch.float32).forward("auto")
    problem(FIXED, (10,), n=5, dtype=torch.float32).forward("auto")
    case.map(torch.Tensor.bfloat16).forward("auto")
    monkeypatch.setattr(module, "version", lambda _: "another")  # in another process
    module._kind.cache_clear()
    case.forward("auto")
    assert rounds(measured) == 5


@pytest.mark.parametrize("damage", ["", "[1]", '{"a": 3}', "{"])
def test_a_damaged_file_is_written_anew(damage: str, problem, measured, tmp_path) -> None:
    file = tmp_path / "nanogpkant" / "backends.json"
    file.parent.mkdir()
    file.write_text(damage)
    problem(FIXED, dtype=torch.float32).forward("auto")
    assert '"recompute"' in file.read_text()


def test_without_a_folder_it_still_runs(problem, measured, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    problem(FIXED, dtype=torch.float32).forward("auto")
    assert measured[-1] == "recompute"


def test_no_rows_decide_nothing(problem, measured) -> None:
    case = problem(FIXED, (0,), dtype=torch.float32)
    assert case.forward("auto").shape[0] == 0
    assert rounds(measured) == 0
    problem(FIXED, (10,), dtype=torch.float32).forward("auto")
    assert rounds(measured) == 1
