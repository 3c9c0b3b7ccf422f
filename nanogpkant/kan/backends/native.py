"""bspline.c, compiled for this very CPU when first needed: the fastest way to uniform B-splines.

Compiling takes a quarter of a second and happens once a process and kind of spline; nothing is kept
on disk, so no other machine ever runs code made for this one.
"""

import ctypes
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from ctypes import c_float, c_int, c_long, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from nanogpkant.kan.bspline import TERMS, BSpline
from nanogpkant.kan.features import Features

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("bspline.c")
NUMBERS = {torch.float32: "float", torch.bfloat16: "bf16"}


def unsupported(features: Features, dtype: torch.dtype) -> str | None:
    """Why there is no compiled code for features in a dtype, or None if there is."""
    if not isinstance(features.basis, BSpline) or features.basis.grid is not None:
        return "only B-splines on uniform grids are compiled"
    if dtype not in NUMBERS:
        return f"only features in float32 and bfloat16 are compiled, not {dtype}"
    if _library(features.basis.order, features.basis.outside, features.base, dtype) is None:
        return "there is no C compiler that works"
    return None


def expand(features: Features, x: Tensor, out: Tensor) -> None:
    """(rows, n) in float32 -> (rows, M, n) in ``out``; both contiguous."""
    library, grid = _library_and_grid(features, out.dtype)
    library.expand(x.data_ptr(), out.data_ptr(), *x.shape, *grid)


def pull_back(features: Features, x: Tensor, grad: Tensor, grad_x: Tensor) -> None:
    """Gradient of the features (rows, M, n) -> that of x (rows, n) in float32; all contiguous."""
    library, grid = _library_and_grid(features, grad.dtype)
    library.pull_back(x.data_ptr(), grad.data_ptr(), grad_x.data_ptr(), *x.shape, *grid)


def _library_and_grid(
    features: Features, dtype: torch.dtype
) -> tuple[ctypes.CDLL, tuple[int, float, float]]:
    """The code, and its last arguments: intervals, first knot and intervals per unit of x."""
    basis = features.basis
    low, high = basis.grid_range
    grid = basis.grid_size, basis.knots[0], basis.grid_size / (high - low)
    return _library(basis.order, basis.outside, features.base, dtype), grid


@cache
def _library(order: int, outside: str, base: str, dtype: torch.dtype) -> ctypes.CDLL | None:
    """The two functions for one kind of features, or None where they cannot be compiled."""
    terms = TERMS[order]
    macros = {
        "BASE": base.upper(),
        "ORDER": order,
        "TERMS": len(terms),
        "REACH": _array(reach for reach, _ in terms),
        "FACTOR": _array(factor for _, factor in terms),
        "LINEAR": int(outside == "linear"),
        "NUMBER": NUMBERS[dtype],
    }
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        return None
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            return _compile(compiler, macros, Path(folder))
    except (OSError, subprocess.SubprocessError) as error:
        log.info("%s does not compile %s: %s", compiler, SOURCE.name, error)
        return None


def _array(numbers: Iterable[float]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"


def _compile(compiler: str, macros: dict[str, object], folder: Path) -> ctypes.CDLL:
    flags = ["-O3", "-march=native", "-fPIC", "-fno-math-errno", "-fno-trapping-math"]
    defines = [f"-D{name}={value}" for name, value in macros.items()]

    def run(*arguments: str) -> None:
        subprocess.run([compiler, *arguments], check=True, capture_output=True, timeout=60)

    run(*flags, *defines, "-fopenmp", "-c", str(SOURCE), "-o", str(folder / "bspline.o"))
    # Linked without OpenMP's library: its functions are found in the one that torch has loaded, so
    # that both share one set of threads. (Two sets would wait for work on each other's cores.)
    run("-shared", str(folder / "bspline.o"), "-o", str(folder / "bspline.so"))
    library = ctypes.CDLL(str(folder / "bspline.so"))
    sizes = (c_long, c_long, c_int, c_float, c_float)
    library.expand.argtypes = (c_void_p, c_void_p, *sizes)
    library.pull_back.argtypes = (c_void_p, c_void_p, c_void_p, *sizes)
    return library
