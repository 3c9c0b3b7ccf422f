import time

import pytest
import torch

from nanogpkant.measure import timing

CPU = torch.device("cpu")


def test_every_task_is_timed_in_turn():
    calls = []
    tasks = {name: lambda name=name: (calls.append(name), time.sleep(0.03)) for name in "ab"}
    done = []
    times = timing.interleaved(tasks, 4, CPU, lambda *progress: done.append(progress))
    assert list(times) == ["a", "b"]
    assert "".join(calls[-8:]) == "abababab"
    assert done[-1] == (8, 8)
    for measured in times.values():
        assert measured.rounds == 4
        assert 30 <= measured.fastest <= measured.median <= measured.slowest


def test_a_short_task_is_called_many_times_a_sample(monkeypatch):
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.01)
    calls = []
    (measured,) = timing.interleaved({"short": lambda: calls.append(0)}, 3, CPU).values()
    assert len(calls) > 100
    assert measured.median < 1


def test_a_slow_task_stops_after_three_rounds(monkeypatch):
    monkeypatch.setattr(timing, "TASK_SECONDS", 0.05)
    (measured,) = timing.interleaved({"slow": lambda: time.sleep(0.03)}, 9, CPU).values()
    assert measured.rounds == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rate_of_this_machine(dtype):
    assert timing.matmul_rate(dtype, CPU, size=64) > 1e6
