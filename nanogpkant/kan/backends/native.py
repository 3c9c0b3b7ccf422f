"""bspline.c and shared.c, compiled for this CPU at first use, the fastest way to expand there.

Compiling takes a quarter of a second, once a process and kind of features. Nothing is kept on disk,
so no other machine runs code compiled for this one.
"""

import ctypes
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable
from ctypes import c_float, c_int, c_long, c_void_p
from functools import cache
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from nanogpkant.kan.bases.base import Basis
from nanogpkant.kan.bases.bspline import TERMS, BSpline
from nanogpkant.kan.bases.chebyshev import Chebyshev
from nanogpkant.kan.bases.fourier import Fourier
from nanogpkant.kan.bases.rational import Rational
from nanogpkant.kan.features import Features
from nanogpkant.kan.shared import Shared

log = logging.getLogger(__name__)

NUMBERS = {torch.float32: "float", torch.bfloat16: "bf16"}
SHARED = {Rational: "RATIONAL", Chebyshev: "CHEBYSHEV", Fourier: "FOURIER"}
PREFIX = "nanogpkant-compiler-"  # of temporary folders
LARGEST_ANGLE = 1e5  # for the sine in C; larger float32 angles have lost their phase


def unsupported(features: Features, inputs: torch.dtype, dtype: torch.dtype) -> str | None:
    """The reason why there is no compiled code for these features and dtypes, or None."""
    if inputs not in NUMBERS or dtype not in NUMBERS:
        return f"float32 and bfloat16 are compiled, not {inputs} to {dtype}"
    if _macros(features.basis) is None:
        return "only B-splines on uniform grids and shared polynomials and waves are compiled"
    if _library(features, inputs, dtype) is None:
        return "there is no C compiler that works"
    return None


def expand(features: Features, x: Tensor, coefficients: Tensor | None, out: Tensor) -> None:
    """(rows, n) -> (rows, M, n) in ``out``; both contiguous."""
    library = cast(ctypes.CDLL, _library(features, x.dtype, out.dtype))
    if coefficients is None:
        library.expand(x.data_ptr(), out.data_ptr(), *x.shape, *_grid(features))
        return
    own = _for_every_input(coefficients, x.shape[1])
    library.expand(x.data_ptr(), own.data_ptr(), out.data_ptr(), *x.shape, len(own))


def pull_back(
    features: Features, x: Tensor, coefficients: Tensor | None, grad: Tensor, grad_x: Tensor
) -> Tensor | None:
    """Gradient of the features (rows, M, n) -> that of x in ``grad_x``; all contiguous.

    x and its gradient are of one dtype. Returns the gradient of the coefficients.
    """
    library = cast(ctypes.CDLL, _library(features, x.dtype, grad.dtype))
    if coefficients is None:
        pointers = x.data_ptr(), grad.data_ptr(), grad_x.data_ptr()
        library.pull_back(*pointers, *x.shape, *_grid(features))
        return None
    own = _for_every_input(coefficients, x.shape[1])  # (functions, numbers, n)
    sums = own.new_empty(torch.get_num_threads(), *own.shape)
    tensors = (x, own, grad, grad_x, sums)
    library.pull_back(*(t.data_ptr() for t in tensors), len(sums), *x.shape, len(own))
    return sums.sum(0).unflatten(-1, (features.groups, -1)).sum(-1).transpose(1, 2)


def _for_every_input(coefficients: Tensor, n: int) -> Tensor:
    """(functions, groups, numbers) -> (functions, numbers, n), in float32: repeated in groups."""
    of_groups = coefficients.float().transpose(1, 2)
    return of_groups.repeat_interleave(n // of_groups.shape[2], dim=2)


def _grid(features: Features) -> tuple[int, float, float]:
    """Intervals, first knot and intervals per unit of x."""
    basis = cast(BSpline, features.basis)
    low, high = basis.grid_range
    return basis.grid_size, basis.knots[0], basis.grid_size / (high - low)


def _macros(basis: Basis | Shared) -> dict[str, object] | None:
    """Macros for the C file of a basis, or None; grid size and range are arguments there."""
    if isinstance(basis, BSpline) and basis.grid is None:
        terms = TERMS[basis.order]
        return {
            "ORDER": basis.order,
            "TERMS": len(terms),
            "REACH": _array(reach for reach, _ in terms),
            "FACTOR": _array(factor for _, factor in terms),
            "LINEAR": int(basis.outside == "linear"),
        }
    family = basis.family if isinstance(basis, Shared) else None
    if isinstance(family, Rational | Chebyshev | Fourier):
        degree = family.frequencies if isinstance(family, Fourier) else family.degree
        limit = family.limit if isinstance(family, Rational) else LARGEST_ANGLE
        return {"FAMILY": SHARED[type(family)], "DEGREE": degree, "LIMIT": f"{limit}f"}
    return None


def _array(numbers: Iterable[float]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"


def _library(features: Features, inputs: torch.dtype, dtype: torch.dtype) -> ctypes.CDLL | None:
    """The two functions for one kind of features, or None if they cannot be compiled."""
    types = {"INPUT": NUMBERS[inputs], "FEATURE": NUMBERS[dtype]}
    macros = {"BASE": features.base.upper(), **types, **(_macros(features.basis) or {})}
    return _compiled("shared.c" if features.is_learned else "bspline.c", frozenset(macros.items()))


@cache
def _compiled(source: str, macros: frozenset[tuple[str, object]]) -> ctypes.CDLL | None:
    here = next(filter(shutil.which, ("cc", "gcc", "clang")), "")
    compiler = shlex.split(os.environ.get("CC") or here)  # CC may have arguments
    if not compiler:
        log.info("there is no C compiler (cc, gcc or clang) for %s", source)
        return None
    try:
        for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):  # by a kill
            if time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder:
            return _load(compiler, source, macros, Path(folder))
    except (OSError, subprocess.SubprocessError) as error:
        log.info("%s does not compile %s: %s", compiler[0], source, error)
        return None


def _load(
    compiler: list[str], source: str, macros: frozenset[tuple[str, object]], folder: Path
) -> ctypes.CDLL:
    flags = ["-O3", "-march=native", "-fPIC", "-fno-math-errno", "-fno-trapping-math"]
    defines = [f"-D{name}={value}" for name, value in macros]

    def run(*arguments: str) -> None:
        subprocess.run([*compiler, *arguments], check=True, capture_output=True, timeout=60)

    path = str(Path(__file__).with_name(source))
    run(*flags, *defines, "-fopenmp", "-c", path, "-o", str(folder / "object.o"))
    # Linked without OpenMP's library: its functions are found in the one that torch has loaded, so
    # that both share one set of threads. (Two sets would wait for work on each other's cores.)
    run("-shared", str(folder / "object.o"), "-o", str(folder / "library.so"))
    library = ctypes.CDLL(str(folder / "library.so"))
    pointers, sizes = (c_void_p,) * 2, (c_long, c_long)
    if source == "bspline.c":
        grid = (c_int, c_float, c_float)
        library.expand.argtypes = (*pointers, *sizes, *grid)
        library.pull_back.argtypes = (*pointers, c_void_p, *sizes, *grid)
    else:
        library.expand.argtypes = (*pointers, c_void_p, *sizes, c_long)
        library.pull_back.argtypes = (*pointers, *pointers, c_void_p, c_long, *sizes, c_long)
    return library
