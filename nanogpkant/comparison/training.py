"""Training of the missing runs of an experiment, each in a child process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from nanogpkant.base.console import Interrupt, bar, note, warn
from nanogpkant.base.errors import UserError
from nanogpkant.base.files import read_text, writing
from nanogpkant.comparison.planning import Planned
from nanogpkant.comparison.runs import Run, is_finished, load_run
from nanogpkant.run.folder import RunFolder
from nanogpkant.run.metrics import read_metrics

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

POLL_SECONDS = 0.5


@dataclass
class Child:
    """A run that is being trained."""

    run: Planned
    process: subprocess.Popen
    asked: bool = False

    def ask_to_stop(self) -> None:
        """Signal it once to save and exit."""
        if not self.asked:
            self.process.send_signal(signal.SIGTERM)
        self.asked = True


def log_of(run: Planned) -> Path:
    """File with the output of a run's training."""
    return run.path.with_name(f"{run.path.name}.log")


def train_missing(planned: list[Planned], folder: Path, jobs: int) -> dict[str, str]:
    """Train every run that is not finished; a failure does not stop the others.

    Ctrl-C lets the running ones save and starts no more; a second one kills them.

    Args:
        folder: of the experiment.
        jobs: runs trained at the same time; they share the CPU's threads.

    Returns:
        reason of each failure, by the run's name.

    Raises:
        UserError: stopped by Ctrl-C, another process is at work on this experiment, or a file
            cannot be written.
    """
    waiting = [run for run in planned if run.state != "finished"]
    left, working, failed = len(waiting), [], {}
    with _alone(folder) as lock, Interrupt() as interrupt, bar("training", "done") as progress:
        try:
            while working or (waiting and not interrupt.asked):
                while waiting and len(working) < jobs and not interrupt.asked:
                    working.append(_start(waiting.pop(0), jobs, lock))
                time.sleep(POLL_SECONDS)
                if interrupt.asked:  # SIGTERM, or Ctrl-C from no terminal, has reached us alone
                    for child in working:
                        child.ask_to_stop()
                for child in [child for child in working if child.process.poll() is not None]:
                    working.remove(child)
                    if not interrupt.asked:
                        _tell(child, failed, left - len(waiting) - len(working), left)
                progress(*_progress(planned, working, waiting))
        finally:
            for child in working:
                child.process.kill()
                child.process.wait()
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


def _start(run: Planned, jobs: int, lock: tuple[int, ...]) -> Child:
    command = [sys.executable, "-m", "nanogpkant.cli", *run.command()]
    environment = dict(os.environ)
    if jobs > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // jobs))
    log = log_of(run)
    with writing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment,
                pass_fds=lock,
            )
    return Child(run, process)


def _tell(child: Child, failed: dict[str, str], number: int, of: int) -> None:
    """Report the end of a run; add the reason to ``failed`` if it failed."""
    if _is_done(child.run):
        loss = load_run(child.run.path).curve.best_loss()
        note(f"{number} of {of}: {child.run.name}, best validation loss {loss:.4f}")
        return
    lines = [line for line in read_text(log_of(child.run)).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    said = (errors or lines or [f"exit status {child.process.returncode}"])[-1]
    failed[child.run.name] = said.removeprefix("error: ")
    warn(f"{number} of {of}: {child.run.name} failed: {said}; its log is {log_of(child.run)}")


def load_trained(planned: list[Planned]) -> dict[str, list[Run]]:
    """Every run that has been evaluated, by variant."""
    variants: dict[str, list[Run]] = {}
    for run in planned:
        folder = RunFolder(run.path)
        if folder.path.exists() and any(
            row["split"] == "val" for row in read_metrics(folder.metrics_file)
        ):
            loaded = replace(load_run(run.path), name=f"{run.variant}/{run.path.name}")
            variants.setdefault(run.variant, []).append(loaded)
    return variants


def _is_done(run: Planned) -> bool:
    folder = RunFolder(run.path)
    return folder.path.exists() and is_finished(folder, run.config.train)


def _progress(
    planned: list[Planned], working: list[Child], waiting: list[Planned]
) -> tuple[int, int]:
    """Iterations done and planned; seconds if those are the budget."""
    budgets = [run.iterations or int(run.config.train.max_seconds or 0) for run in planned]
    done = dict(zip((run.path for run in planned), budgets, strict=True))
    for run in waiting:
        done[run.path] = run.step if run.iterations else 0
    for child in working:
        done[child.run.path] = _spent(child.run)
    return sum(done.values()), sum(budgets)


def _spent(run: Planned) -> int:
    """Iterations, or seconds, that a running run has logged."""
    with suppress(UserError):  # no log yet
        rows = read_metrics(RunFolder(run.path).metrics_file)
        return int(rows[-1]["step" if run.iterations else "seconds"]) if rows else 0
    return 0
