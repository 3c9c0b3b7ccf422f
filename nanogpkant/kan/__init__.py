"""KAN layers as a library of their own: nothing here imports the rest of the project.

A KAN layer from n inputs to m outputs is m * n learned one-dimensional functions,

    y_j = sum_i phi_ij(x_i),    phi_ij(x) = w_ij0 * base(x) + sum_k w_ijk * B_k(x),

so with the M features [base(x), B_1(x), ..., B_K(x)] of every input it is one matrix product over
n * M packed features. ``basis`` says what the features are, ``functional`` is the one operation,
``backends`` are ways to run it, and ``layer`` is the module that owns the parameters.
"""

from nanogpkant.kan.basis import BASE_FUNCTIONS, BASES, BSpline
from nanogpkant.kan.functional import BACKENDS, kan_linear
from nanogpkant.kan.layer import KANLinear

__all__ = ["BACKENDS", "BASES", "BASE_FUNCTIONS", "BSpline", "KANLinear", "kan_linear"]
