"""The bar of training steps, as a terminal shows it; signals, and errors of torch."""

import io
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from nanogpkant.base import console
from nanogpkant.base.console import Interrupt, StepProgress, sparkline
from nanogpkant.base.errors import is_out_of_memory


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_says_how_far_an_evaluation_is_and_fits(monkeypatch, width):
    screen = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(console, "console", screen)
    progress = StepProgress(1250, 5000)
    progress.show_training(1.2345, 1e-3, 123456)
    progress.show_validation(1250, 1.456, 4.289, 12)
    for done, words in ((0, "evaluating 0%"), (40, "evaluating 40%"), (100, "evaluating 100%")):
        progress.show_part("evaluating", done, 100)
        screen.print(progress._progress.get_renderable())
        line = screen.file.getvalue().splitlines()[-1]
        assert line.startswith(f"{words} ")
        assert len(line) <= width
        assert "…" not in line
        assert "1250/5000" in line and "loss 1.234 val 1.456" in line and "123,456 tok/s" in line
        assert ("lr 1.0e-03" in line) == (width > 100)
    progress.update(1251)
    screen.print(progress._progress.get_renderable())
    assert screen.file.getvalue().splitlines()[-1].startswith("training ")


def test_a_sparkline_has_a_bar_for_each_value():
    assert sparkline([4.0, 2.0, 1.0, 0.5]) == "█▄▂▁"
    assert sparkline([2.0]) == sparkline([2.0, 2.0])[:1] == "▁"
    assert sparkline([1.0, float("inf")]) == sparkline([float("nan"), 1.0]) == ""


def test_a_thread_that_gets_no_signals_can_train():
    with ThreadPoolExecutor() as pool:
        assert pool.submit(lambda: Interrupt().__enter__().asked).result() is False
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)
    assert interrupt.asked
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("[enforce fail] DefaultCPUAllocator: can't allocate memory", True),
        ("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", True),
        ("Invalid buffer size: 64.00 GiB", True),
        ("std::bad_alloc", True),
        ("unable to allocate shared memory(shm) for file </torch_1>: No space left", True),
        ("CUDA error: an illegal memory access was encountered", False),
        (
            "more than one element of the written-to tensor refers to a single memory location",
            False,
        ),
    ],
)
def test_what_is_out_of_memory(message, expected):
    assert is_out_of_memory(RuntimeError(message)) == expected
