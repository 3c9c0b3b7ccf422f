"""Benchmarks made fast: no child processes, no compiler, made-up rates and peaks.

``tests/measure`` has the real ones.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from benchmarks.speed import gpu, measure
from nanogpkant.measure import step, timing


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def here(function: Callable[..., Any], *values: Any, limit: float = 0.0) -> Any:
        return function(*values)

    for module in (gpu, measure, step):
        monkeypatch.setattr(module, "in_a_child", here)
    monkeypatch.setattr(measure, "rates", lambda dtype, device, threads: (1e9, 1e9))
    monkeypatch.setattr(step, "matmul_rate", lambda dtype, device: 1e9)
    for module in (measure, step):
        monkeypatch.setattr(module, "extra_peak", lambda task, device: task() or 1)
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")
