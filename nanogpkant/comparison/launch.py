"""Where runs are trained: in processes of this machine, or as tasks of a Ray cluster.

Either way a run is a command of its own, which resumes a run that was begun: a task whose worker is
lost, with its machine or alone, restarts elsewhere and resumes from the last checkpoint.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from nanogpkant.base.console import warn
from nanogpkant.base.errors import UsageError, UserError, from_extra, one_line, require_positive
from nanogpkant.base.files import read_text, writing

LauncherName = Literal["local", "ray"]
RETRIES = 5  # of a task whose worker was lost
POLL_SECONDS = 0.5
STARTED = "started on "  # begins a line of a task's log, once each time that it starts


class Started(Protocol):
    """A command at work; ``subprocess.Popen`` is one."""

    def poll(self) -> int | None: ...  # exit status; None while it works
    def terminate(self) -> None: ...  # ask it to save and stop
    def kill(self) -> None: ...  # stop it at once
    def wait(self) -> int: ...  # exit status, once it has ended


Start = Callable[[list[str], Path], Started]
"""start a command, the arguments of nanogpkant, with its output in a log file"""


@dataclass(frozen=True)
class Launcher:
    """Where runs are trained, and how many at the same time."""

    jobs: int = 1
    name: LauncherName = "local"
    ray_address: str | None = None
    """of a Ray cluster; auto finds one that runs here; None starts one here"""

    def __post_init__(self) -> None:
        require_positive(jobs=self.jobs)
        if self.ray_address is not None and self.name != "ray":
            raise UsageError(f"--ray_address {self.ray_address}: add --launcher ray")

    @contextmanager
    def open(self, inherited: tuple[int, ...]) -> Iterator[Start]:
        """Gives the function that starts a command.

        Args:
            inherited: file descriptors that processes of this machine hold, too.

        Raises:
            UserError: Ray is not installed, or its cluster cannot be reached.
        """
        if self.name == "ray":
            with _cluster(self.ray_address) as ray:
                yield _on_ray(ray, self.jobs)
            return
        threads = max(1, torch.get_num_threads() // self.jobs) if self.jobs > 1 else None

        def start(command: list[str], log: Path) -> Started:
            with writing(log):
                log.parent.mkdir(parents=True, exist_ok=True)
                with open(log, "wb") as file:
                    return _process(command, file, threads, pass_fds=inherited)

        yield start


def _process(command: list[str], log: Any, threads: int | None, **options: Any) -> subprocess.Popen:
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    return subprocess.Popen(
        [sys.executable, "-m", "nanogpkant.cli", *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        **options,
    )


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Ray, connected."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # reports nothing to anybody
    os.environ.setdefault("RAY_worker_niceness", "0")  # as fast as without Ray
    with from_extra("ray", "--launcher ray"):
        import ray  # pyright: ignore[reportMissingImports]
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except Exception as error:  # of many types
        where = f"--ray_address {address}" if address else "--launcher ray"
        remedy = "start a cluster with ray start --head, or leave --ray_address out"
        raise UserError(
            f"{where}: no cluster answers ({one_line(error)[:200]}); {remedy}"
        ) from error
    try:
        with redirect_stdout(sys.stderr):  # Ray prints; standard output is the answer's
            yield ray
    finally:
        ray.shutdown()


def _on_ray(ray: Any, jobs: int) -> Start:
    """Tasks that share the cluster: all its CPUs among so many, and a GPU each if it has any."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    each = max(1, min(sum(cpus) // jobs, max(cpus)))
    gpus = int(any(node.get("GPU") for node in nodes))
    task = ray.remote(num_cpus=each, num_gpus=gpus, max_retries=RETRIES)(_train)

    def start(command: list[str], log: Path) -> Started:
        with writing(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_bytes(b"")
        # A process that outlives its worker trains on: the next one waits for it.
        reference = task.remote([*command, "--wait"], str(log.absolute()), str(Path.cwd()), each)
        return _RayTask(ray, reference, log)

    return start


def _train(command: list[str], log: str, folder: str, threads: int) -> int:
    """A task: runs the command in a folder that all machines see, and gives its exit status."""
    with open(log, "ab") as file:
        file.write(f"{STARTED}{socket.gethostname()}\n".encode())
        file.flush()
        process = _process(command, file, threads, cwd=folder)
        try:
            while process.poll() is None:  # a signal would not end a longer wait
                try:
                    process.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
        except KeyboardInterrupt:  # the task is cancelled
            process.terminate()
        return process.wait()


@dataclass(eq=False)
class _RayTask:
    """A task at work on a cluster."""

    ray: Any
    reference: Any
    log: Path

    def poll(self) -> int | None:
        ready, _ = self.ray.wait([self.reference], timeout=0)
        return self.wait() if ready else None

    def terminate(self) -> None:
        self.ray.cancel(self.reference)

    def kill(self) -> None:
        self.ray.cancel(self.reference, force=True)

    def wait(self) -> int:
        try:
            status = self.ray.get(self.reference)
        except self.ray.exceptions.RayError as error:
            with writing(self.log), open(self.log, "a", encoding="utf-8") as file:
                file.write(f"error: {one_line(error)}\n")
            status = 1
        if (lost := read_text(self.log, errors="replace").count(STARTED) - 1) > 0:
            times = "once" if lost == 1 else f"{lost} times"
            warn(f"a worker was lost and its run resumed, {times}: {self.log}")
        return status
