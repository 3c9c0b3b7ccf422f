import pytest

from benchmarks.speed import sample
from nanogpkant.base.errors import UserError


def test_both_ways_are_timed(flags, tiny_experiment, tmp_path):
    arguments = ("--preset", str(tiny_experiment), "--tokens", "20", "--repeats", "3")
    report = sample.run(flags("sample", *arguments, "--device", "cpu", "--out", str(tmp_path)))
    uncached, cached = report.tables[0].rows
    assert uncached["speed-up"] == 1
    assert cached["tokens/s"] > 0
    assert (tmp_path / "sample.png").read_bytes().startswith(b"\x89PNG")


def test_different_texts_get_no_time(flags, tiny_experiment, monkeypatch):
    monkeypatch.setattr(sample, "write", lambda model, tokens, use_cache, device: [use_cache])
    with pytest.raises(UserError, match="different texts"):
        sample.run(flags("sample", "--preset", str(tiny_experiment), "--device", "cpu"))
