"""Features: the base function and the basis of a layer, as one expansion of its input."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpkant.kan.bases import BASES, load_basis
from nanogpkant.kan.bases.base import Basis, Family, wide
from nanogpkant.kan.shared import Shared


def _silu_derivative(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate * (1 + x * (1 - gate))


def _gelu_derivative(x: Tensor) -> Tensor:
    density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * density


_TANH_GELU = 2 * math.sqrt(2 / math.pi), 0.044715


def _gelu_tanh(x: Tensor) -> Tensor:
    """torch's own has no gradient at inputs whose cube is infinite."""
    scale, cubic = _TANH_GELU
    near = x.clamp(-30, 30)  # beyond, the gate is 0 or 1
    return x * torch.sigmoid(scale * near * (1 + cubic * near * near))


def _gelu_tanh_derivative(x: Tensor) -> Tensor:
    scale, cubic = _TANH_GELU
    x = x.clamp(-30, 30)
    gate = torch.sigmoid(scale * x * (1 + cubic * x * x))
    return gate * (1 + x * (1 - gate) * scale * (1 + 3 * cubic * x * x))


def even(x: Tensor) -> Tensor:
    """x (Phi(x) - 1/2): GELU without its linear part."""
    return torch.add(F.gelu(x), x, alpha=-0.5)


def relu2(x: Tensor) -> Tensor:
    """The square of ReLU (So et al., arXiv 2109.08668)."""
    return F.relu(x).square()


def leaky_relu2(x: Tensor) -> Tensor:
    """The square of a leaky ReLU of slope 0.5."""
    return F.leaky_relu(x, 0.5).square()


# The base function of an edge: name -> (function, derivative). "none" leaves the basis alone.
BASE_FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] | None] = {
    "silu": (F.silu, _silu_derivative),
    "gelu": (F.gelu, _gelu_derivative),
    "gelu_tanh": (_gelu_tanh, _gelu_tanh_derivative),
    "even": (even, lambda x: _gelu_derivative(x) - 0.5),
    "relu": (F.relu, lambda x: (x > 0) + 0 * x.clamp(-1, 1)),  # a NaN stays a NaN
    "relu2": (relu2, lambda x: 2 * F.relu(x)),
    "leaky_relu2": (leaky_relu2, lambda x: torch.where(x > 0, 2 * x, 0.5 * x)),
    "identity": (lambda x: x, torch.ones_like),
    "none": None,
}


@dataclass(frozen=True)
class Features:
    """The M features of every input of a layer.

    The base function, unless it is "none", comes before the functions of a fixed basis, and is
    added to the first of ``Shared`` functions. Those are learned: methods take ``coefficients``.

    Args:
        basis: a fixed basis or ``Shared`` functions.
        base: name of the base function, a key of ``BASE_FUNCTIONS``.

    Raises:
        ValueError: an unknown base, or an object that is no such basis.
    """

    basis: Basis | Shared
    base: str = "silu"
    spec: str = field(init=False, repr=False, compare=False)
    """JSON text that ``from_spec`` reads back to an equal value"""

    def __post_init__(self) -> None:
        if self.base not in BASE_FUNCTIONS:
            raise ValueError(f"base is {self.base!r}; known are {', '.join(BASE_FUNCTIONS)}")
        if not isinstance(self.basis, Basis | Shared):
            raise ValueError(f"{self.basis!r} is not a basis for the functions of an edge")
        values = {"base": self.base, "basis": _plain(self.basis)}
        spec = json.dumps(values, default=lambda number: number.item())  # NumPy's
        object.__setattr__(self, "spec", spec)

    @property
    def is_learned(self) -> bool:
        return isinstance(self.basis, Shared)

    @property
    def groups(self) -> int:
        """Groups of inputs with their own functions; 1 for a fixed basis."""
        return self.basis.groups if isinstance(self.basis, Shared) else 1

    @property
    def has_base(self) -> bool:
        """Whether the first feature is the base function alone."""
        return self.base != "none" and not self.is_learned

    @property
    def size(self) -> int:
        """M."""
        return self.basis.size + self.has_base

    @property
    def family(self) -> Basis | Family:
        """The basis of an edge's own functions, or the form of shared ones."""
        return self.basis.family if isinstance(self.basis, Shared) else self.basis

    @property
    def coefficient_shape(self) -> tuple[int, int, int] | None:
        """(functions, groups, numbers) of learned coefficients, or None."""
        return self.basis.coefficient_shape if isinstance(self.basis, Shared) else None

    def start(self) -> Tensor | None:
        """Initial values of learned coefficients, or None."""
        return self.basis.start(self.base != "none") if isinstance(self.basis, Shared) else None

    def expand(self, x: Tensor, coefficients: Tensor | None = None) -> Tensor:
        """(..., n) -> (..., M, n), in float32 or wider."""
        function = BASE_FUNCTIONS[self.base]
        if not isinstance(self.basis, Shared):
            return _prepend(x, self.basis.expand(x), function and function[0])
        functions = self.basis.expand(x, cast(Tensor, coefficients))
        if function is None:
            return functions
        first = functions[..., :1, :] + function[0](wide(x)).unsqueeze(-2)
        return torch.cat([first, functions[..., 1:, :]], dim=-2)

    def derivative(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., M, n): the derivative of the features of a fixed basis."""
        function = BASE_FUNCTIONS[self.base]
        return _prepend(x, cast(Basis, self.basis).derivative(x), function and function[1])

    def pull_back(
        self, grad: Tensor, x: Tensor, coefficients: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Gradient of the features -> gradients of the input and of the coefficients.

        (rows, M, n) and (rows, n) -> (rows, n), and (functions, groups, numbers) or None.
        """
        if not isinstance(self.basis, Shared):
            return (self.derivative(x) * grad).sum(-2), None
        grad_x, grad_coefficients = self.basis.pull_back(grad, x, cast(Tensor, coefficients))
        if function := BASE_FUNCTIONS[self.base]:
            grad_x = grad_x + function[1](wide(x)) * grad[..., 0, :]
        return grad_x, grad_coefficients

    @staticmethod
    @cache
    def from_spec(spec: str) -> "Features":
        """The features that ``spec`` describes.

        Raises:
            ValueError: it describes none.
        """
        try:
            values = json.loads(spec)
            return Features(_basis(values["basis"]), values["base"])
        except (TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"no basis has the description {spec!r}") from error

    @cache  # noqa: B019 - few values, and small
    def gaussian_moments(self) -> tuple[Tensor, Tensor]:
        """Mean (M,) and second moments (M, M) of the features of x ~ N(0, 1), in float64.

        Shared functions are taken at their initial coefficients.
        """
        x, density = normal_points()
        start = self.start()
        if start is None:
            features = self.expand(x)  # (M, points)
        else:  # all groups start alike: take one
            one = replace(self, basis=replace(cast(Shared, self.basis), groups=1))
            features = one.expand(x[:, None], start[:, :1].to(x))[..., 0].T
        return features @ density, (features * density) @ features.T


def normal_points() -> tuple[Tensor, Tensor]:
    """Points and weights, (points,) each in float64, of integrals over x ~ N(0, 1).

    A fine trapezoid rule, which kinks do not disturb; on the CPU, since caches of its results
    outlive torch's default device.
    """
    x = torch.linspace(-8, 8, 16001, dtype=torch.float64, device="cpu")
    density = torch.exp(-0.5 * x * x)
    return x, density / density.sum()


def _prepend(x: Tensor, expanded: Tensor, function: Callable[[Tensor], Tensor] | None) -> Tensor:
    if function is None:
        return expanded
    return torch.cat([function(x.to(expanded.dtype)).unsqueeze(-2), expanded], dim=-2)


def _plain(basis: Basis | Family | Shared) -> dict[str, Any]:
    """A basis as values for JSON, under its name in the registry or "shared"."""
    if isinstance(basis, Shared):
        values = {"functions": basis.functions, "groups": basis.groups}
        return {"name": "shared", "family": _plain(basis.family), **values}
    source = f":{type(basis).__name__}"
    names = [name for name, entry in BASES.items() if entry.source.endswith(source)]
    if not names:
        raise ValueError(f"{basis} is not in the registry of bases, nanogpkant.kan.bases.BASES")
    return {"name": names[0], **vars(basis)}


def _basis(values: dict[str, Any]) -> Any:
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    name = values.pop("name")
    if name == "shared":
        return Shared(_basis(values.pop("family")), **values)
    return load_basis(name)(**values)
