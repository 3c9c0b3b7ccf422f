"""The fastest backend of a layer on a GPU, by a short measurement that is kept on the disk.

Kernels that make features on the chip, or the vendor's products of features in memory: which is
faster depends on the device, the versions and the shape, and cannot be told beforehand.
"""

import contextlib
import json
import logging
import os
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from nanogpkant.kan.backends import native, recompute, triton
from nanogpkant.kan.backends.reference import Call

log = logging.getLogger(__name__)

FUSED = {"triton": triton, "recompute": recompute}
ROUNDS = 3  # of which the fastest counts
_found: dict[str, str] = {}


def fastest(call: Call) -> str:
    """The backend that takes least time forward and backward, measured at the first call of a kind.

    Calls of one kind have about as many rows, and all else alike.
    """
    x, weight, features, _, keep, dtype = call
    if not len(x):  # there is nothing to measure
        return "recompute"
    shape = triton.bucket_of(len(x)), x.shape[1], len(weight)
    dtypes = x.dtype, weight.dtype, dtype
    key = _kind(x.device, shape, dtypes, keep is not None, features.spec)
    if key not in _found:
        _found.update(_kept())
    if key not in _found:
        seconds = {name: _seconds(name, call) for name in FUSED}
        _found[key] = min(seconds, key=seconds.__getitem__)
        told = ", ".join(f"{name} {1000 * taken:.3g} ms" for name, taken in seconds.items())
        log.info("%s: backend %s (%s)", key, _found[key], told)
        _keep()
    return _found[key]


@cache
def _kind(
    device: torch.device, shape: tuple, dtypes: tuple[torch.dtype, ...], drops: bool, features: str
) -> str:
    """All that decides how long a call takes, versions too; cached, as they are read from files."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    versions = torch.__version__, getattr(triton.triton, "__version__", ""), version("nanogpkant")
    return json.dumps([name, *versions, *shape, *map(str, dtypes), drops, features])


@torch.no_grad()
def _seconds(name: str, call: Call) -> float:
    """Time of a call on one backend, after a first one that compiles and tunes it."""
    taken = []
    for _ in range(1 + ROUNDS):
        _wait(call.x)
        started = time.perf_counter()
        grad_y = FUSED[name].forward(call)
        FUSED[name].backward(grad_y, call, True, True)
        _wait(call.x)
        taken.append(time.perf_counter() - started)
    return min(taken[1:])


def _wait(x: torch.Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def _kept() -> dict[str, str]:
    """What was measured before, by any process of this user."""
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
        return {key: name for key, name in found.items() if name in FUSED}
    except (OSError, RuntimeError, ValueError, AttributeError, TypeError):
        return {}  # nothing yet, or no file of ours


def _keep() -> None:
    with contextlib.suppress(OSError, RuntimeError):  # it is measured again
        file = _file()
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.write_text(json.dumps(_found, indent=0), encoding="utf-8")
        draft.replace(file)


def _file() -> Path:
    return native.cache_folder() / "backends.json"
