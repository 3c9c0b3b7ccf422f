"""The layer's benchmark on shapes that take no time. What it measures is never asserted on."""

import json
import sys
from typing import Any

import pytest
import torch

from benchmarks.speed import gate, layer, measure
from benchmarks.speed.charts import SWEEPS
from benchmarks.speed.names import BARE_PRODUCTS, OURS
from benchmarks.speed.problem import Problem

TINY: dict[str, Any] = {"inputs": 6, "outputs": 4, "rows": 40, "repeats": 3, "device": "cpu"}


def rows_of(report):
    return [row for table in report.tables for row in table.rows]


def test_everyone_gets_a_row_and_files_are_written(tmp_path):
    report = layer.run(**TINY, dtypes="both", out=str(tmp_path))
    rows = rows_of(report)
    assert report.wrong == []
    for dtype in ("fp32", "bf16"):
        names = [row["layer"] for row in rows if row["dtype"] == dtype]
        assert names[0] == OURS
        assert len(set(names)) == len(names)
        assert {BARE_PRODUCTS, "inkan", "flashkan", "Cox-de Boor, eager"} <= set(names)
    for row in rows:
        assert set(layer.COLUMNS) <= set(row)
        if row["ms"] is not None:
            assert 0 < row["min"] <= row["ms"] <= row["max"]
            assert row["rounds"] == 3
            assert row["extra MB"] >= 0
    (products,) = {r["over products"] for r in rows if r["layer"] == BARE_PRODUCTS}
    assert products == 1
    assert len(report.goals) == 4
    found = json.loads((tmp_path / "layer.json").read_text())
    assert found["tables"][0]["rows"] == rows
    assert "| 6 -> 4 | bf16 | nanogpkant |" in (tmp_path / "layer.md").read_text()
    assert (tmp_path / "layer.png").read_bytes().startswith(b"\x89PNG")


def test_several_shapes_are_summed(monkeypatch):
    monkeypatch.setitem(layer.SHAPES, "seed", ((4, 4), (4, 8)))
    report = layer.run(rows=40, repeats=3, rivals="none", dtypes="fp32")
    rows, totals = (table.rows for table in report.tables)
    for total in totals:
        own = [row["ms"] for row in rows if row["layer"] == total["layer"]]
        assert total["ms"] == pytest.approx(sum(own))
    assert {total["layer"] for total in totals} == {row["layer"] for row in rows}


def test_a_rival_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "inkan", None)
    report = layer.run(**TINY, dtypes="fp32")
    (row,) = [row for row in rows_of(report) if row["layer"] == "inkan"]
    assert row["gate"] == "not installed: pip install inkan"
    assert row["ms"] is None
    assert "| inkan |" in report.markdown()
    assert report.wrong == []


def test_the_fastest_setting_is_looked_for_once(monkeypatch):
    monkeypatch.setitem(layer.SHAPES, "seed", ((4, 4), (4, 8)))
    rows = rows_of(layer.run(rows=40, repeats=3, dtypes="bf16"))
    first, second = [row for row in rows if row["layer"] == "FastKAN's formula, compiled"][:2]
    assert len(first["tried"]) == 2
    assert list(second["tried"]) == [first["how"]]


def test_no_number_for_ours_where_it_is_wrong(monkeypatch):
    monkeypatch.setitem(gate.TOLERANCE, "fp32", 0.0)
    report = layer.run(**TINY, dtypes="fp32", rivals="none")
    ours = [row for row in rows_of(report) if row["layer"].startswith(OURS)]
    assert [row["ms"] for row in ours] == [None] * len(ours)
    assert len(report.wrong) == len(ours)
    assert "refused: output is off by" in report.wrong[0]
    assert report.goals[0].measured is None


@pytest.mark.parametrize("sweep", SWEEPS)
def test_sweeps_walk_along(sweep, tmp_path, monkeypatch, request):
    monkeypatch.setattr(layer, "GRID_SIZES", (3, 4))
    monkeypatch.setattr(layer, "WIDTHS", (4, 6))
    monkeypatch.setattr(layer, "BATCHES", (20, 40))
    threads = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    torch.set_num_threads(2)
    report = layer.run(**TINY, sweep=sweep, dtypes="fp32", out=str(tmp_path))
    assert [table.title for table in report.tables] == [f"Along the {sweep}"]
    key, _ = SWEEPS[sweep]
    ours = [row for row in rows_of(report) if row["layer"] == OURS]
    assert ours[0][key] < ours[1][key]
    assert torch.get_num_threads() == 2
    assert (tmp_path / f"layer_{sweep}.png").read_bytes().startswith(b"\x89PNG")


def test_rivals_are_what_is_left_out_when_time_is_over():
    never = measure.Plan(repeats=3, seconds=0.0)
    rows = {row["layer"]: row for row in measure.measure(Problem(4, 4, 20), never)}
    assert {row["gate"] for row in rows.values()} == {"left out: time was over"}
    assert list(rows)[:2] == [OURS, f"{OURS}, reference"]
    assert "Cox-de Boor, eager" in list(rows)[-7:]


def test_the_bandwidth_of_this_machine():
    assert measure.bandwidth(torch.device("cpu"), megabytes=4) > 1e6
