import pytest

from benchmarks.speed import sample
from nanogpkant.base.errors import UserError
from nanogpkant.measure import sampling


def test_both_ways_are_timed(tiny_experiment, tmp_path):
    tiny = {"preset": str(tiny_experiment), "device": "cpu"}
    report = sample.run(**tiny, tokens=20, repeats=3, out=str(tmp_path))
    uncached, cached = report.tables[0].rows
    assert uncached["speed-up"] == 1
    assert cached["tokens/s"] > 0
    assert (tmp_path / "sample.png").read_bytes().startswith(b"\x89PNG")


def test_different_texts_get_no_time(tiny_experiment, monkeypatch):
    monkeypatch.setattr(sampling, "write", lambda model, tokens, use_cache, device: [use_cache])
    with pytest.raises(UserError, match="different texts"):
        sample.run(preset=str(tiny_experiment), device="cpu")
