"""Benchmarks without the waiting: no processes of their own, no compiler, made-up rates and peaks.

``tests/measure`` has the real ones.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser, Namespace

from benchmarks.speed import gpu, measure
from benchmarks.speed.flags import add_flags
from nanogpkant.measure import step, timing


@pytest.fixture
def flags() -> Callable[..., Namespace]:
    """Make the options of ``bench KIND`` from a few flags."""

    def make(kind: str, *arguments: str) -> Namespace:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--json", action="store_true")
        add_flags(parser, kind)
        return parser.parse_args([kind, *arguments])

    return make


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def here(function: Callable[..., Any], *values: Any, limit: float = 0.0) -> Any:
        return function(*values)

    for module in (gpu, measure, step):
        monkeypatch.setattr(module, "in_a_child", here)
    monkeypatch.setattr(measure, "rates", lambda dtype, device: (1e9, 1e9))
    monkeypatch.setattr(step, "rate_of_products", lambda dtype, device: 1e9)
    for module in (measure, step):
        monkeypatch.setattr(module, "extra_peak", lambda task, device: task() or 1)
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")
