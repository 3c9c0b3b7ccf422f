"""Runs of earlier versions still resume and load: tests/old_runs, made by revision 1182e80.

kan, gpt and shared_muon stopped at step 6 of a learning rate schedule of 12.
"""

import shutil
from pathlib import Path

import pytest

import nanogpkant as ng
from nanogpkant.run.metrics import read_metrics

OLD = Path(__file__).resolve().parents[1] / "old_runs"

# Validation losses at steps 8, 10 and 12, as the same revision resumed the run.
LOSSES = {
    "kan": [2.9101642195383706, 2.9010611947377525, 2.8968885644276936],
    "gpt": [2.6282991727193195, 2.575876693725586, 2.547973384857178],
    "shared_muon": [2.6902679856618246, 2.6537739276885985, 2.6366273498535158],
}


@pytest.fixture
def folder(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the text that the old runs were trained on."""
    shutil.copy(corpus, tmp_path / "corpus.txt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", LOSSES)
def test_an_old_run_resumes(name: str, folder: Path) -> None:
    run = folder / name
    shutil.copytree(OLD / name, run)
    before = read_metrics(run / "metrics.jsonl")
    ng.train(str(run / "config.yaml"), out=str(run), resume=True, **{"train.max_iters": 12})
    rows = read_metrics(run / "metrics.jsonl")
    assert rows[: len(before)] == before
    losses = [row["loss"] for row in rows if row["split"] == "val" and row["step"] > 6]
    assert losses == pytest.approx(LOSSES[name], rel=1e-6)


def test_an_old_exported_run_loads(folder: Path) -> None:
    loaded = ng.load(str(OLD / "exported"))
    written = (OLD / "exported" / "samples.txt").read_text(encoding="utf-8")
    assert loaded.generate(tokens=20) + "\n" == written
    logged = [
        row["loss"]
        for row in read_metrics(OLD / "exported" / "metrics.jsonl")
        if row["split"] == "val"
    ]
    assert loaded.evaluate("val").loss == pytest.approx(logged[-1], rel=1e-6)
