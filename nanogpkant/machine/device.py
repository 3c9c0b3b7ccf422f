"""The device of a run: its fast dtype, peak memory, and a description for environment.json."""

import ctypes
import os
import platform
import subprocess
import sys
import time
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from nanogpkant.base.answer import command_line
from nanogpkant.base.console import warn
from nanogpkant.base.errors import UsageError

# M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD, the last at the most that glibc takes.
MALLOC = {-1: 1 << 30, -2: 64 << 20, -3: 32 << 20}
FAST, EMULATED = 1.5, 0.5  # times float32's speed that bfloat16 has at least, or at most
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str, flag: str = "--train.device") -> torch.device:
    """The device that a name stands for; "auto" is CUDA, else MPS, else the CPU.

    Raises:
        UsageError: no such device, or this machine has none.
    """
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"{flag} {name}: must be auto, cpu, cuda, cuda:N or mps")
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(has_mps)}[device.type]
    if not present:
        raise UsageError(f"{flag} {name}: this machine has none; use {flag} cpu")
    if (device.index or 0) >= present:
        raise UsageError(f"{flag} {name}: this machine has {present}, counted from 0")
    return device


def resolve_dtype(name: str, device: torch.device, flag: str = "--train.dtype") -> str:
    """The dtype that "auto" stands for on a device: bfloat16 where it is fast, else float32.

    Warns where bfloat16 is asked of a CPU that emulates it.

    Raises:
        UsageError: float16 off CUDA, where nothing scales its gradients.
    """
    if name == "float16" and device.type != "cuda":
        raise UsageError(f"{flag} float16: not on {device.type}; use bfloat16 or float32")
    if name == "bfloat16" and device.type == "cpu" and (gain := bfloat16_gain()) < EMULATED:
        times = f"{1 / gain:.0f} times slower than float32"
        warn(f"{flag} bfloat16: this CPU emulates it, its products are {times}")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if device.type == "cpu" and bfloat16_gain() > FAST else "float32"


def keep_freed_memory() -> None:
    """Have glibc keep the memory that a step frees, for the next step to take.

    Otherwise it goes back to the system, and comes again as empty pages: 5 to 12% of a step on a
    CPU (dev/LOG.md). Nothing changes on other systems, or where ``MALLOC_`` variables are set.
    """
    if platform.libc_ver()[0] == "glibc" and not any(n.startswith("MALLOC_") for n in os.environ):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in MALLOC.items():
            mallopt(parameter, value)


@cache
def bfloat16_gain() -> float:
    """How many times faster this CPU multiplies bfloat16 matrices than float32, on one thread.

    More than ``FAST`` with AVX512-BF16 or AMX; elsewhere bfloat16 is emulated and slower. Measured,
    because the list of instructions that make it fast differs by maker and by torch version.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _matmul_seconds(torch.float32) / _matmul_seconds(torch.bfloat16)
    finally:
        torch.set_num_threads(threads)


def _matmul_seconds(dtype: torch.dtype, size: int = 256) -> float:
    """Seconds of a product, of this thread alone: other work on the machine does not count."""
    least = 0.5 if sys.platform == "win32" else 0.02  # whose clock ticks 64 times a second
    a = torch.ones(size, size, dtype=dtype)
    torch.mm(a, a)  # prepares what the next ones use
    products, start = 0, time.thread_time()
    while (seconds := time.thread_time() - start) < least:
        torch.mm(a, a)
        products += 1
    return seconds / products


def autocast(device: torch.device, dtype: str) -> torch.autocast:
    """torch.autocast for a dtype's name; float32 changes nothing. Also decorates a function."""
    return torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "float32")


def synchronize(device: torch.device) -> None:
    """Wait for the work queued on a device, before reading a clock."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def memory_of(device: torch.device) -> int:
    """Bytes of memory that a device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: by tensors on a GPU, by the whole process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    if sys.platform == "linux":  # getrusage would count what the parent process held, too
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    import resource  # POSIX only

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def describe(device: torch.device) -> dict[str, Any]:
    """The software, the machine and the command, for ``environment.json``."""
    packages = ("nanogpkant", "torch", "numpy", "safetensors")
    return {
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "device": str(device),
        "device_name": name_of(device),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "command": command_line(),
        "git_revision": _git_revision(),
    }


def name_of(device: torch.device) -> str:
    """The name of a GPU, else of the processor, which Python leaves empty on Linux."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _git_revision() -> str | None:
    """Revision of the source tree that this code runs from, with a + where it was changed.

    None where this code is no part of a tree, such as installed in an environment within another.
    """
    here = Path(__file__)
    git = partial(subprocess.run, cwd=here.parent, capture_output=True, timeout=5, check=True)
    try:
        git(["git", "ls-files", "--error-unmatch", here.name])
        done = git(["git", "describe", "--always", "--dirty=+"], text=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def measured_on(device: torch.device, words: str = "") -> str:
    """One line on the device, torch and the method of a measurement."""
    threads = "" if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    parts = (name_of(device), threads, f"torch {torch.__version__}", words)
    return ", ".join(filter(None, parts))
