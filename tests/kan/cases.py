"""Shared case lists."""

import pytest
import torch

from nanogpkant.kan import RBF, BSpline, Chebyshev, Features, Fourier, Rational, Shared
from nanogpkant.kan.backends import native

# Every basis, order and base, and every form of sharing, in 3 groups: problems have 3 inputs.
FEATURES = [
    Features(BSpline()),
    Features(BSpline(3, 1, (-2.0, 2.0)), "gelu"),
    Features(BSpline(4, 2, (-0.1, 0.7), outside="linear"), "identity"),
    Features(BSpline(2, 1, (-0.5, 1.5), outside="linear"), "none"),
    Features(BSpline(2, 5, (0.0, 1.0)), "none"),
    Features(BSpline(1, 4, (-2.0, 1.0)), "silu"),
    Features(BSpline(order=2, grid=(-1.0, -0.3, 0.1, 2.0)), "silu"),
    Features(BSpline(order=3, grid=(-1.0, -0.3, 0.1, 2.0), outside="linear"), "gelu"),
    Features(RBF(), "silu"),
    Features(Chebyshev(4), "identity"),
    Features(Chebyshev(1), "none"),
    Features(Fourier(2), "gelu_tanh"),
    Features(Shared(Rational(), groups=3), "gelu"),
    Features(Shared(Rational(3), functions=4), "none"),
    Features(Shared(Rational(1), functions=2), "silu"),
    Features(Shared(BSpline(3, 2), groups=3), "silu"),
    Features(Shared(RBF(3), functions=2, groups=3), "none"),
]

FIXED = Features(BSpline())
UNEVEN = Features(BSpline(order=2, grid=(-1.0, -0.3, 0.1, 2.0)), "none")
GROUPED = Features(Shared(Rational(), groups=3), "gelu")
ATOMS = Features(Shared(RBF(3), functions=2), "none")
FEW = [FIXED, UNEVEN, GROUPED, ATOMS]

# Uniform B-splines of every order and outside, for tests of compiled backends.
SPLINES = [
    *(BSpline(5, order) for order in (1, 2, 3, 4, 5)),
    *(BSpline(2, order, (-0.5, 1.5), outside="linear") for order in (1, 2, 3, 4, 5)),
    BSpline(1, 3, (0.0, 4.0)),
    BSpline(8, 2, (0.0, 3.0)),
]

# (basis, share) for layers with 8 inputs: every family.
OWN = [(basis, "edge") for basis in (RBF(), RBF(8, (-1.0, 1.0)), Chebyshev(), Fourier())]
SHARED = [
    *((Rational(degree), share) for degree in (1, 5) for share in ("group:8", "atoms:4")),
    *((Chebyshev(4), share) for share in ("group:8", "atoms:4")),
    (RBF(), "atoms:3"),
    (Rational(), "group:2"),
]

c_compiles = pytest.mark.skipif(
    native.unsupported(FIXED, torch.float32, torch.float32) is not None,
    reason="needs a C compiler and OpenMP",
)
