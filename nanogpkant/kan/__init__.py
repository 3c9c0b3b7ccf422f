"""KAN layers as a library of their own: nothing here imports the rest of the project.

A KAN layer from n inputs to m outputs is m * n learned one-dimensional functions,

    y_j = sum_i phi_ij(x_i),    phi_ij(x) = w_ij0 * base(x) + sum_k w_ijk * B_k(x),

so with the M features [base(x), B_1(x), ..., B_K(x)] of every input it is one matrix product over
n * M packed features. ``basis`` (and ``bspline``, ``shared``) say what functions there are,
``features`` what a layer makes of an input, ``functional`` is the one operation, ``backends`` are
ways to run it, and ``layer`` is the module that owns the parameters.
"""

from nanogpkant.kan.basis import RBF, Chebyshev, Fourier
from nanogpkant.kan.bspline import BSpline
from nanogpkant.kan.features import BASE_FUNCTIONS, BASES, Features
from nanogpkant.kan.functional import BACKENDS, kan_linear
from nanogpkant.kan.layer import KANLinear
from nanogpkant.kan.shared import Line, Rational, Shared

__all__ = [
    "BACKENDS",
    "BASES",
    "BASE_FUNCTIONS",
    "RBF",
    "BSpline",
    "Chebyshev",
    "Features",
    "Fourier",
    "KANLinear",
    "Line",
    "Rational",
    "Shared",
    "kan_linear",
]
