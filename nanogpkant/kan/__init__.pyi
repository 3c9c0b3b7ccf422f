from .bases import BASES
from .bases.base import Basis, Family
from .bases.bspline import BSpline
from .bases.chebyshev import Chebyshev
from .bases.fourier import Fourier
from .bases.hat import hat
from .bases.line import Line
from .bases.rational import Rational
from .bases.rbf import RBF
from .features import BASE_FUNCTIONS, Features
from .functional import BACKENDS, kan_linear
from .layer import KANLinear, kan_layers
from .shared import Shared
from .stack import KAN

__all__ = [
    "BACKENDS",
    "BASES",
    "BASE_FUNCTIONS",
    "KAN",
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
