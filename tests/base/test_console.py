"""The bar of training steps, as a terminal shows it."""

import io

import pytest
from rich.console import Console

from nanogpkant.base import console
from nanogpkant.base.console import StepProgress, sparkline


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
