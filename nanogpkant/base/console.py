"""Terminal: notes, progress bars and Ctrl-C. All output is on standard error."""

import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class _Stderr:
    """Standard error that may be closed or full: what cannot be said does not end a run."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def write(self, text: str) -> int:
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        self._try("flush")

    def _try(self, name: str, *arguments: str) -> None:
        try:
            if sys.stderr is not None:
                getattr(sys.stderr, name)(*arguments)
        except (OSError, ValueError):
            sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _is_first() -> bool:
    """Whether this process prints; of several that train together, only the first does."""
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    return size == "1" or not rank.isdecimal() or int(rank) == 0


console = Console(file=cast(IO[str], _Stderr()), highlight=False, quiet=not _is_first())


def note(message: str) -> None:
    console.print(message, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    console.print(f"note: {message}", style="yellow", markup=False, soft_wrap=True)


def painted(text: str, colour: str) -> str:
    """Text in a colour, such as "#c8553d", where standard output is a terminal that has it."""
    out = Console(highlight=False)
    with out.capture() as captured:
        out.print(text, style=colour, end="", markup=False, soft_wrap=True)
    return captured.get()


def _progress(*columns: Any) -> Progress:
    """A bar with the time left, gone at its end; none where standard error is not a terminal."""
    off = not console.is_terminal
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=off, transient=True)


class StepProgress:
    """A bar of training steps with loss, learning rate, tokens per second and time left.

    If standard error is not a terminal there is no bar, only a line per evaluation.
    """

    def __init__(self, step: int, max_iters: int) -> None:
        self._is_wide = console.width >= 100
        self._progress = _progress(
            TextColumn("{task.fields[doing]:<8}"),
            BarColumn(bar_width=None if self._is_wide else 8),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}{task.fields[val_loss]}{task.fields[lr]}"),
            TextColumn("{task.fields[rate]}"),
        )
        self._val_losses: list[float] = []
        self._task = self._progress.add_task("", completed=step, total=max_iters)
        self._progress.update(self._task, doing="training", loss="", val_loss="", lr="", rate="")

    def __enter__(self) -> "StepProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, step: int, doing: str = "training") -> None:
        self._progress.update(self._task, completed=step, doing=doing)

    def show_part(self, doing: str, done: int, total: int) -> None:
        """Show the progress of other work between steps, such as "evaluating 40%"."""
        self._progress.update(self._task, doing=f"{doing} {done / total:.0%}")

    def show_training(self, loss: float, lr: float, tokens_per_second: float) -> None:
        rate = f"{tokens_per_second:,.0f} tok/s"
        lr_words = f" lr {lr:.1e}" if self._is_wide else ""
        self._progress.update(self._task, loss=f"loss {loss:.3f}", lr=lr_words, rate=rate)

    def show_validation(self, step: int, loss: float, perplexity: float, seconds: float) -> None:
        self._progress.update(self._task, val_loss=f" val {loss:.3f}")
        self._val_losses.append(loss)
        words = f"validation loss {loss:.4f}, perplexity {perplexity:.2f}, {seconds:.0f} s trained"
        if console.is_terminal and not console.options.ascii_only:
            words += f"  {sparkline(self._val_losses[-12:])}"
        self._progress.console.print(f"step {step:>6}  {words}", markup=False)


def sparkline(values: list[float]) -> str:
    """Numbers as bars of a character each, between the lowest and the highest of them."""
    least, most = min(values), max(values)
    if not math.isfinite(most - least):
        return ""
    heights = [round((value - least) / ((most - least) or 1) * 7) for value in values]
    return "".join("▁▂▃▄▅▆▇█"[height] for height in heights)


@contextmanager
def bar(doing: str, unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar, as a function of (done, total or None)."""
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with _progress(*columns) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class Interrupt:
    """Turns the first Ctrl-C (or SIGTERM) into a request to stop; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Interrupt":
        is_main = threading.current_thread() is threading.main_thread()  # others get no signals
        signals = (signal.SIGINT, signal.SIGTERM) if is_main else ()
        self._previous = {s: signal.signal(s, self._ask) for s in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
        note("stopping after this step; press Ctrl-C again to stop without saving")
