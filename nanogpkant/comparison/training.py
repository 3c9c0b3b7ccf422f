"""Training of the missing runs of an experiment, each a command of its own."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from nanogpkant.base.console import Interrupt, bar, note, warn
from nanogpkant.base.errors import UserError
from nanogpkant.base.files import read_text, writing
from nanogpkant.comparison.launch import POLL_SECONDS, Launcher, Started
from nanogpkant.comparison.planning import Planned
from nanogpkant.comparison.runs import Run, is_finished, load_run
from nanogpkant.run.folder import RunFolder
from nanogpkant.run.metrics import read_metrics

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOOK_SECONDS = 5  # between looks at the metrics, which take time from the runs


def train_missing(planned: list[Planned], folder: Path, launcher: Launcher) -> dict[str, str]:
    """Train every run that is not finished; a failure stops only the runs that continue it.

    Ctrl-C lets the running ones save and starts no more; a second one kills them.

    Args:
        planned: runs that others continue come before those.
        folder: of the experiment.

    Returns:
        reason of each failure, by the run's name.

    Raises:
        UserError: stopped by Ctrl-C, another process is at work on this experiment, a file
            cannot be written, or a cluster not reached.
    """
    waiting = [run for run in planned if run.state != "finished"]
    left, failed, told, look_at = len(waiting), {}, False, 0.0
    working: dict[Started, Planned] = {}
    with (
        _alone(folder) as lock,
        launcher.open(lock) as start,
        Interrupt() as interrupt,
        bar("training", "done") as progress,
    ):
        try:
            while working or (waiting and not interrupt.asked):
                while len(working) < launcher.jobs and not interrupt.asked:
                    if (run := _next(waiting, list(working.values()))) is None:
                        break
                    waiting.remove(run)
                    working[start(run.command(), _log_of(run))] = run
                time.sleep(POLL_SECONDS)
                if interrupt.asked and not told:  # Ctrl-C may have reached this process alone
                    told = True
                    for process in working:
                        process.terminate()
                for process in list(working):
                    if (status := process.poll()) is None:
                        continue
                    run = working.pop(process)
                    if not interrupt.asked:
                        number = f"{left - len(waiting) - len(working)} of {left}"
                        if why := _report_end(run, number, status):
                            failed[run.name] = why
                            failed |= _without(run, waiting)
                if time.monotonic() > look_at or not working:
                    look_at = time.monotonic() + LOOK_SECONDS
                    progress(*_progress(planned, list(working.values()), waiting))
        finally:
            for process in working:
                process.kill()
                process.wait()
    if interrupt.asked:
        done = sum(_is_done(run) for run in planned)
        remedy = "the same command continues"
        raise UserError(f"stopped with {done} of {len(planned)} runs finished; {remedy}")
    return failed


@contextmanager
def _alone(folder: Path) -> Iterator[tuple[int, ...]]:
    """Hold an experiment's lock; gives the descriptors that child processes must inherit.

    Children that hold the lock too cannot be doubled, even if this process is killed. filelock
    offers no descriptor to inherit, so it serves only Windows, where none can be.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    file, inherited = folder / ".lock", ()
    with ExitStack() as stack:
        try:
            if fcntl is None:
                stack.enter_context(FileLock(file, blocking=False))
            else:
                with writing(file):
                    inherited = (os.open(file, os.O_RDWR | os.O_CREAT),)
                stack.callback(os.close, *inherited)
                fcntl.flock(*inherited, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, Timeout) as error:
            remedy = "wait until it is done, or end it"
            raise UserError(f"{folder} is being trained by another process: {remedy}") from error
        yield inherited


def _log_of(run: Planned) -> Path:
    """File with the output of a run's training."""
    return run.path.with_name(f"{run.path.name}.log")


def _next(waiting: list[Planned], working: list[Planned]) -> Planned | None:
    """The first run that can start: the one that it continues, if any, is done."""
    undone = {run.path for run in (*waiting, *working)}
    return next((run for run in waiting if run.after not in undone), None)


def _without(lost: Planned, waiting: list[Planned]) -> dict[str, str]:
    """Give up the waiting runs that continue a failed one, or each other; the reasons by name."""
    failed, gone = {}, {lost.path}
    for run in [run for run in waiting if run.after is not None]:
        if run.after in gone:
            waiting.remove(run)
            gone.add(run.path)
            failed[run.name] = f"it continues {lost.name}, which failed"
    return failed


def _report_end(run: Planned, number: str, status: int) -> str | None:
    """Tell of the end of a run; the reason if it failed."""
    if _is_done(run):
        loss = load_run(run.path).curve.best_loss()
        note(f"{number}: {run.name}, best validation loss {loss:.4f}")
        return None
    log = read_text(_log_of(run), errors="replace")  # a kill may cut a character
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    said = (errors or lines or [f"exit status {status}"])[-1]
    warn(f"{number}: {run.name} failed: {said}; its log is {_log_of(run)}")
    return said.removeprefix("error: ")


def load_trained(planned: list[Planned]) -> dict[str, list[Run]]:
    """Every run that has been evaluated, by variant."""
    variants: dict[str, list[Run]] = {}
    for run in planned:
        file = RunFolder(run.path).metrics_file
        if run.path.exists() and any(row["split"] == "val" for row in read_metrics(file)):
            loaded = replace(load_run(run.path), name=f"{run.variant}/{run.path.name}")
            variants.setdefault(run.variant, []).append(loaded)
    return variants


def _is_done(run: Planned) -> bool:
    return run.path.exists() and is_finished(RunFolder(run.path), run.config.train)


def _progress(
    planned: list[Planned], working: list[Planned], waiting: list[Planned]
) -> tuple[int, int]:
    """Iterations done and planned; seconds if those are the budget."""
    budgets = {r.path: r.iterations or int(r.config.train.max_seconds or 0) for r in planned}
    done = budgets | {run.path: run.step if run.iterations else 0 for run in waiting}
    for run in working:
        done[run.path] = 0
        with suppress(UserError):  # no log yet
            if rows := read_metrics(RunFolder(run.path).metrics_file):
                done[run.path] = int(rows[-1]["step" if run.iterations else "seconds"])
    return sum(done.values()), sum(budgets.values())
