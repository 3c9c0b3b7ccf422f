"""The step's benchmark on models that take no time."""

from functools import partial

import pytest

from benchmarks.speed import original, step
from benchmarks.speed.names import KAN, ORIGINAL_MODEL
from nanogpkant.base.errors import UserError
from nanogpkant.measure.step import build

TINY = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 8}


@pytest.fixture
def jobs():
    return step.jobs_for(2, "cpu", "bfloat16", **TINY)


def test_a_row_for_every_model(jobs, monkeypatch, tmp_path):
    monkeypatch.setattr(step, "jobs_for", lambda *_: jobs)
    report = step.run(repeats=3, device="cpu", out=str(tmp_path))
    (table,) = report.tables
    assert len(table.rows) == 9
    for row in table.rows:
        assert set(step.COLUMNS) <= set(row)
        assert 0 < row["min"] <= row["ms"] <= row["max"]
        assert row["over KAN"] > 0
    assert table.rows[-1]["model"] == ORIGINAL_MODEL
    assert table.rows[-1]["dtype"] == "float32"
    assert all(goal.measured is not None for goal in report.goals[:2])
    assert "times the KAN's step" in (tmp_path / "step.md").read_text()
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("sweep", ["layers", "context"])
def test_sweeps_walk_along(sweep, monkeypatch, tmp_path):
    monkeypatch.setattr(step, "LAYERS", (1, 2))
    monkeypatch.setattr(step, "CONTEXTS", (8, 16))
    small = {key: value for key, value in TINY.items() if key not in ("n_layer", "block_size")}
    small |= {"n_layer": 1} if sweep == "context" else {"block_size": 8}
    monkeypatch.setattr(step, "sweep_jobs", partial(step.sweep_jobs, **small))
    report = step.run(repeats=3, device="cpu", batch_size=1, sweep=sweep, out=str(tmp_path))
    (table,) = report.tables
    first, second = (row for row in table.rows if row["model"] == KAN)
    assert 2 * first[sweep] == second[sweep]
    assert {row["sequences"] * row["context"] for row in table.rows} == {step.TOKENS}
    assert all(row["ms"] > 0 and row["peak MB"] > 0 for row in table.rows)
    assert (tmp_path / f"step_{sweep}.png").read_bytes().startswith(b"\x89PNG")


def test_the_original_has_nothing_of_ours_left(jobs):
    names = {type(module).__name__ for module in build(jobs[-1]).modules()}
    assert "CoxDeBoorLinear" in names
    assert not names & {"KANLinear"}
    assert "KANLinear" in {type(module).__name__ for module in build(jobs[0]).modules()}
    assert jobs[0].name == KAN


def test_another_model_is_not_the_original(jobs, monkeypatch):
    step.check_original(jobs[-1])
    monkeypatch.setattr(
        original.CoxDeBoorLinear,
        "b_splines",
        lambda self, x: 0 * x.new_ones((*x.shape, self.spline_weight.shape[-1])),
    )
    with pytest.raises(UserError, match="differs from ours"):
        step.check_original(jobs[-1])
