"""Peak memory, and fresh processes to measure it in."""

import ctypes
import gc
import multiprocessing
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch

from nanogpkant.base.errors import one_line
from nanogpkant.machine.device import peak_memory, synchronize

# Imports that take seconds, done once for all fresh processes.
PRELOADED = ["nanogpkant.measure.step", "torch._inductor.compile_fx"]
# Time for a process to exit after its answer.
SECONDS_TO_END = 5.0


class ChildError(Exception):
    """The error of a child process, as one line."""


def extra_peak(task: Callable[[], Any], device: torch.device) -> int:
    """Peak bytes of a task, over the bytes held before it.

    On CUDA, bytes of tensors, exactly; elsewhere of the whole process, so call it in a fresh one.
    """
    gc.collect()
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        # glibc alone gives freed memory back when asked; Windows cannot even be asked.
        with suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):  # Linux: 5 sets the recorded peak to what is held now
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        before = psutil.Process().memory_info().rss
    task()
    synchronize(device)
    return max(0, peak_memory(device) - before)


def in_a_child(function: Callable[..., Any], *values: Any, limit: float = 600.0) -> Any:
    """Call a function in a fresh process and return its result.

    Raises:
        ChildError: it raised, died (out of memory, say) or took longer than ``limit`` seconds.
    """
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(sender, function, values))
    child.start()
    sender.close()
    try:
        if not receiver.poll(limit):
            raise ChildError(f"not done after {limit:.0f} s")
        answer = receiver.recv()
        child.join(SECONDS_TO_END)
    except EOFError:
        raise ChildError("its process died: too little memory?") from None
    finally:
        child.kill()
        child.join()
        receiver.close()
    if isinstance(answer, ChildError):
        raise answer
    return answer


def _context() -> Any:
    """How to start a fresh process: forked in milliseconds from a server that has torch loaded.

    Spawned where there can be no such server, and with CUDA: a library that initialises CUDA when
    it is imported breaks CUDA in the forks.
    """
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    if not has_server or torch.cuda.is_available():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _answer(sender: Connection, function: Callable[..., Any], values: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent ends this process
    with suppress(OSError):  # if memory runs out, the kernel ends this process, not its parent
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
    try:
        sender.send(function(*values))
    except Exception as error:
        sender.send(ChildError(one_line(error)))
