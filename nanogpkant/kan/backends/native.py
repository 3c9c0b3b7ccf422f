"""bspline.c, shared.c and activation.c, compiled for this CPU at first use: the fastest way there.

Compiling takes a quarter of a second for each kind of features. The result is kept in the user's
cache folder, by the name of the CPU too: no other kind of machine runs code compiled for this one.
"""

import contextlib
import ctypes
import hashlib
import json
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from ctypes import c_long, c_void_p
from functools import cache
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

from nanogpkant.kan.bases.base import Basis
from nanogpkant.kan.bases.bspline import TERMS, BSpline
from nanogpkant.kan.bases.chebyshev import Chebyshev
from nanogpkant.kan.bases.fourier import Fourier
from nanogpkant.kan.bases.line import Line
from nanogpkant.kan.bases.rational import Rational
from nanogpkant.kan.features import Features
from nanogpkant.kan.shared import Shared

log = logging.getLogger(__name__)

NUMBERS = {torch.float32: "float", torch.bfloat16: "bf16"}
SHARED = {Rational: "RATIONAL", Chebyshev: "CHEBYSHEV", Fourier: "FOURIER", Line: "LINE"}
PREFIX = "nanogpkant-compiler-"  # of temporary folders
LARGEST_ANGLE = 1e5  # for the sine in C; larger float32 angles have lost their phase
HERE = Path(__file__).parent
Functions = tuple[tuple[str, tuple[type, ...]], ...]
"""names of functions in C, and the types of their arguments"""
EXPAND = ("expand", (c_void_p,) * 3 + (c_long,) * 3)
PULL_BACK = (c_void_p,) * 4 + (c_long,) * 4
BSPLINE_C = HERE / "bspline.c", (EXPAND, ("pull_back", PULL_BACK))
SHARED_C = HERE / "shared.c", (EXPAND, ("pull_back", (*PULL_BACK, c_void_p, c_long)))
ACTIVATE = ("activate", (c_void_p,) * 2 + (c_long,))
ACTIVATION_C = HERE / "activation.c", (ACTIVATE, ("pull_back", (c_void_p,) * 3 + (c_long,)))
WORTH_COMPILING = 2**16  # features in a batch, since compiling takes a quarter of a second
FLAGS = ("-O3", "-march=native", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-fopenmp")
FLAGS += ("-fno-thread-jumps",)  # a clamp would make two cases of all that follows


def unsupported(features: Features, inputs: torch.dtype, dtype: torch.dtype) -> str | None:
    """The reason why there is no compiled code for these features and dtypes, or None."""
    if inputs not in NUMBERS or dtype not in NUMBERS:
        return f"float32 and bfloat16 are compiled, not {inputs} to {dtype}"
    if _macros(features.basis) is None:
        return "only B-splines on uniform grids or shared polynomials and waves are compiled"
    if _library(features, inputs, dtype) is None:
        return "there is no C compiler that works"
    return None


def expand(
    features: Features, out: Tensor, x: Tensor, coefficients: Tensor | None, keep: Tensor | None
) -> None:
    """Write the features of x (rows, n), times ``keep``, into ``out`` (rows, M, n), contiguous."""
    library, x = cast(ctypes.CDLL, _library(features, x.dtype, out.dtype)), x.contiguous()
    numbers, count = _numbers(features, coefficients, x.shape[1])
    library.expand(*_pointers(x, numbers, out), *x.shape, count)
    if keep is not None:
        out *= keep.unsqueeze(-2)


class Expansion(NamedTuple):
    """``expand`` in C of float32 numbers, for callers in C: see bspline.c and shared.c."""

    address: int | None
    numbers: Tensor
    functions: int


def expansion(features: Features, coefficients: Tensor | None, n: int) -> Expansion:
    """The expansion of n inputs by supported features."""
    library = cast(ctypes.CDLL, _library(features, torch.float32, torch.float32))
    address = ctypes.cast(library.expand, c_void_p).value
    return Expansion(address, *_numbers(features, coefficients, n))


def pull_back(
    features: Features,
    grad: Tensor,
    x: Tensor,
    coefficients: Tensor | None,
    keep: Tensor | None,
    grad_x: Tensor,
    expands: bool,
) -> Tensor | None:
    """Gradient of the features (rows, M, n) -> that of x in ``grad_x``; both contiguous.

    Returns the gradient of the coefficients. ``grad`` is overwritten, with the features where
    ``expands`` says so.
    """
    library, x = cast(ctypes.CDLL, _library(features, x.dtype, grad.dtype)), x.contiguous()
    numbers, count = _numbers(features, coefficients, x.shape[1])
    sums = None
    if coefficients is None:
        library.pull_back(*_pointers(x, numbers, grad, grad_x), *x.shape, count, expands)
        if keep is not None:  # as on ``grad``, with fewer products
            grad_x *= keep
    else:
        if keep is not None:
            grad *= keep.unsqueeze(-2)
        size = count, coefficients.shape[2], x.shape[1]
        sums = numbers.new_empty(torch.get_num_threads(), *size)
        tensors = _pointers(x, numbers, grad, grad_x)
        parts = sums.data_ptr(), len(sums)
        library.pull_back(*tensors, *x.shape, count, expands, *parts)
        sums = sums.sum(0).unflatten(-1, (features.groups, -1)).sum(-1).transpose(1, 2)
    if expands and keep is not None:
        grad *= keep.unsqueeze(-2)
    return sums


def activation(name: str, x: Tensor) -> ctypes.CDLL | None:
    """activation.c for ``name`` of numbers.h, or None: not for such numbers, or not worth it."""
    is_real = type(x) is Tensor and x.device.type == "cpu"  # no fake or distributed one
    if not is_real or x.dtype not in NUMBERS or x.numel() < WORTH_COMPILING:
        return None
    types = dict.fromkeys(("INPUT", "FEATURE"), NUMBERS[x.dtype])
    return compiled(*ACTIVATION_C, frozenset({"BASE": name.upper(), **types}.items()))


def activate(library: ctypes.CDLL, x: Tensor) -> Tensor:
    """The activation of x, contiguous."""
    x = x.contiguous()
    y = torch.empty_like(x)
    library.activate(*_pointers(x, y), x.numel())
    return y


def pull_back_activation(library: ctypes.CDLL, x: Tensor, grad: Tensor) -> Tensor:
    """The gradient of x, from ``grad``, the gradient of the activation."""
    x, grad = x.contiguous(), grad.contiguous()
    grad_x = torch.empty_like(x)
    library.pull_back(*_pointers(x, grad, grad_x), x.numel())
    return grad_x


def _numbers(features: Features, coefficients: Tensor | None, n: int) -> tuple[Tensor, int]:
    """The float32 numbers that decide the functions, and a count, as the C files take them.

    For splines the first knot and the intervals per unit of x, and the number of intervals; for
    learned functions (functions, numbers, n), repeated in groups, after the grid of shared splines,
    and the number of functions.
    """
    if coefficients is None:
        basis = cast(BSpline, features.basis)
        return _grid(basis), basis.grid_size
    of_groups = coefficients.float().transpose(1, 2)
    numbers = of_groups.repeat_interleave(n // of_groups.shape[2], dim=2)
    family = cast(Shared, features.basis).family
    if isinstance(family, BSpline):
        numbers = torch.cat([_grid(family), numbers.flatten()])
    return numbers, len(coefficients)


def _grid(basis: BSpline) -> Tensor:
    """The first knot, and the intervals per unit of x."""
    low, high = basis.grid_range
    numbers = [basis.knots[0], basis.grid_size / (high - low)]
    return torch.tensor(numbers, dtype=torch.float32, device="cpu")


def _pointers(*tensors: Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _macros(basis: Basis | Shared) -> dict[str, object] | None:
    """Macros for the C file of a basis, or None; the range of a grid is an argument there."""
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
    line = {"FAMILY": SHARED[Line], "DEGREE": 0, "LIMIT": 0, "SPLINES": 0}
    if isinstance(family, Line):
        return line
    if isinstance(family, BSpline) and (splines := _macros(family)):
        return {**line, **splines, "SPLINES": family.size}
    if isinstance(family, Rational | Chebyshev | Fourier):
        degree = family.frequencies if isinstance(family, Fourier) else family.degree
        limit = family.limit if isinstance(family, Rational) else LARGEST_ANGLE
        name = SHARED[type(family)]
        return {"FAMILY": name, "DEGREE": degree, "LIMIT": f"{limit}f", "SPLINES": 0}
    return None


def _array(numbers: Iterable[float]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"


@cache
def _library(features: Features, inputs: torch.dtype, dtype: torch.dtype) -> ctypes.CDLL | None:
    """The two functions for one kind of features, or None if they cannot be compiled."""
    types = {"INPUT": NUMBERS[inputs], "FEATURE": NUMBERS[dtype]}
    macros = {"BASE": features.base.upper(), **types, **(_macros(features.basis) or {})}
    source, functions = SHARED_C if features.is_learned else BSPLINE_C
    return compiled(source, functions, frozenset(macros.items()))


@cache
def compiled(
    source: Path, functions: Functions, macros: frozenset[tuple[str, object]]
) -> ctypes.CDLL | None:
    """A C file compiled with macros, loaded; None where that cannot be done.

    Args:
        source: the file.
        functions: those that are called, with the types of their arguments.
        macros: their names and values.
    """
    here = next(filter(shutil.which, ("cc", "gcc", "clang")), "")
    try:
        compiler = shlex.split(os.environ.get("CC") or here)  # CC may have arguments
    except ValueError:  # or a quote that is not closed
        compiler = []
    if not compiler:
        log.info("there is no C compiler (cc, gcc or clang) for %s", source.name)
        return None
    defines = sorted(f"-D{name}={value}" for name, value in macros)
    command = [*compiler, *FLAGS, f"-I{HERE}", *defines, "-c", str(source)]
    kept = _kept(source, command)
    if kept is not None and kept.exists():
        with contextlib.suppress(OSError):  # damaged, say by a full disk: compiled again
            return _loaded(str(kept), functions)
    problem: Exception | None = None
    for place in dict.fromkeys((kept, None)):  # the cache may be full
        try:
            with _room(place) as folder:
                made, linked = (str(folder / name) for name in ("object.o", "library.so"))
                # Linked without OpenMP's library: its functions are found in the one that torch has
                # loaded, so that both share one pool of threads. (Two would wait for each other.)
                for step in ([*command, "-o", made], [*compiler, "-shared", made, "-o", linked]):
                    subprocess.run(step, check=True, capture_output=True, timeout=60)
                library = _loaded(linked, functions)
                if place is not None:
                    Path(linked).replace(place)
                return library
        except (OSError, subprocess.SubprocessError) as error:
            problem = error
    log.info("%s does not compile %s: %s", compiler[0], source.name, problem)
    return None


@contextlib.contextmanager
def _room(place: Path | None) -> Iterator[Path]:
    """A temporary folder beside a file or in the system's; removes those that kills left."""
    room = tempfile.gettempdir() if place is None else place.parent
    for left in Path(room).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another process has removed its own
            if time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory("", PREFIX, room, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _loaded(path: str, functions: Functions) -> ctypes.CDLL:
    library = ctypes.CDLL(path)
    for name, arguments in functions:
        getattr(library, name).argtypes = arguments
    return library


def cache_folder() -> Path:
    """Where compiled code and measurements are kept.

    Raises:
        RuntimeError: the user has no home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nanogpkant"


def _kept(source: Path, command: list[str]) -> Path | None:
    """Where the compiled file is kept, under all that decides it: texts, command and CPU.

    None where there is no such folder, or no description of the CPU.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = sorted(
            {line for line in lines if line.startswith(("model name", "flags", "Features"))}
        )
        texts = [file.read_text() for file in (source, *sorted(HERE.glob("*.h")))]
        texts += [*command, *cpu]
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder / f"{hashlib.sha256(json.dumps(texts).encode()).hexdigest()}.so"
