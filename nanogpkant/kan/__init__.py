"""KAN layers as a library of their own: nothing here imports the rest of the project.

A KAN layer from n inputs to m outputs is m * n learned one-dimensional functions,

    y_j = sum_i phi_ij(x_i),    phi_ij(x) = w_ij0 * base(x) + sum_k w_ijk * B_k(x),

so with the M features [base(x), B_1(x), ..., B_K(x)] of every input it is one matrix product over
n * M packed features. ``bases`` and ``shared`` are the functions, ``features`` the expansion of an
input, ``functional`` is the one operation, ``backends`` run it, and ``layer`` is the module.

Names are imported when first used, so that the registry of bases can be read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nanogpkant.kan.bases import BASES, load_basis

if TYPE_CHECKING:
    from nanogpkant.kan.bases.base import Basis, Family
    from nanogpkant.kan.bases.bspline import BSpline
    from nanogpkant.kan.bases.chebyshev import Chebyshev
    from nanogpkant.kan.bases.fourier import Fourier
    from nanogpkant.kan.bases.hat import hat
    from nanogpkant.kan.bases.line import Line
    from nanogpkant.kan.bases.rational import Rational
    from nanogpkant.kan.bases.rbf import RBF
    from nanogpkant.kan.features import BASE_FUNCTIONS, Features
    from nanogpkant.kan.functional import BACKENDS, kan_linear
    from nanogpkant.kan.layer import KANLinear, kan_layers
    from nanogpkant.kan.shared import Shared

__all__ = [
    "BACKENDS",
    "BASES",
    "BASE_FUNCTIONS",
    "RBF",
    "BSpline",
    "Basis",
    "Chebyshev",
    "Family",
    "Features",
    "Fourier",
    "KANLinear",
    "Line",
    "Rational",
    "Shared",
    "hat",
    "kan_layers",
    "kan_linear",
]

_FILES = {
    "bases.base": ("Basis", "Family"),
    "features": ("BASE_FUNCTIONS", "Features"),
    "functional": ("BACKENDS", "kan_linear"),
    "layer": ("KANLinear", "kan_layers"),
    "shared": ("Shared",),
}


def __getattr__(name: str) -> Any:
    for file, names in _FILES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{file}"), name)
    for basis, entry in BASES.items():
        if entry.source.endswith(f":{name}"):
            return load_basis(basis)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
