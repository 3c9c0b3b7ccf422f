"""KANLinear: the module that owns a KAN layer's parameters, in place of ``nn.Linear``."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.kan.basis import (
    BASE_FUNCTIONS,
    Basis,
    BSpline,
    expand_features,
    feature_count,
    gaussian_moments,
)
from nanogpkant.kan.functional import kan_linear


class KANLinear(nn.Module):
    """A Kolmogorov-Arnold layer: every input reaches every output through a learned function.

    ``weight`` is (out_features, M, in_features): for every edge, the coefficient of the base
    function (first, where there is one) and of each function of the basis. The packed matrix of the
    layer's one product is ``weight.flatten(1)``, without a copy.

    Args:
        in_features: n, the size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        basis: the features of an input, cubic B-splines with 5 intervals on [-1, 1] by default.
        base: base function of every edge: "silu", "gelu", "identity" or "none".
        bias: learn a constant for every output.
        prenorm: "rms" divides every input vector by its root mean square first, without parameters,
            so that the inputs meet the grid at unit scale; "none" takes them as they come.
        spline_scale: learn one more factor for every edge's spline, as efficient-kan does.
        init: "variance_preserving" (unit-variance inputs give unit-variance outputs) or "original"
            (that of efficient-kan, which the original nanoGPKANT trained with; B-splines only).
        backend: see ``kan_linear``.

    Raises:
        ValueError: sizes below 1, or an unknown base, prenorm or init.

    Source: Liu et al. (arXiv 2404.19756); the packed form and ``spline_scale`` follow the
    efficient-kan project (github.com/Blealtan/efficient-kan).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        basis: Basis | None = None,
        base: str = "silu",
        bias: bool = False,
        prenorm: str = "none",
        spline_scale: bool = False,
        init: str = "variance_preserving",
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if in_features < 1 or out_features < 1:
            raise ValueError(f"a layer from {in_features} to {out_features} has no edges")
        if base not in BASE_FUNCTIONS:
            raise ValueError(f"base is {base!r}; known are {', '.join(BASE_FUNCTIONS)}")
        if prenorm not in ("none", "rms"):
            raise ValueError(f"prenorm is {prenorm!r}; known are none, rms")
        if init not in ("variance_preserving", "original"):
            raise ValueError(f"init is {init!r}; known are variance_preserving, original")
        self.in_features, self.out_features = in_features, out_features
        self.basis = BSpline() if basis is None else basis
        self.base, self.prenorm, self.init, self.backend = base, prenorm, init, backend

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.weight = parameter(out_features, feature_count(self.basis, base), in_features)
        self.spline_scale = parameter(out_features, in_features) if spline_scale else None
        self.bias = parameter(out_features) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the parameters anew, from torch's global random stream."""
        if self.bias is not None:
            self.bias.zero_()
        if self.init == "original":
            return self._reset_original()
        # The curve of every edge is drawn with mean zero over x ~ N(0, 1). Features such as
        # B-splines are never negative: without this, a fifth of an output's mean square would be a
        # constant that does not depend on x (measured for the default basis).
        mean, second = gaussian_moments(self.basis, self.base)
        centred = torch.diag(torch.ones_like(mean)) - torch.outer(mean, mean) / (mean @ mean)
        # Weights s * centred @ N(0, I) give an output of variance n * s^2 * trace(...).
        variance = torch.trace(centred @ second @ centred).item()
        if variance < 1e-9:
            grid = f"the grid {self.basis.grid_range} is out of reach of inputs of unit variance"
            raise ValueError(f'{grid}; move it, or use init="original"')
        self.weight.normal_(std=1 / math.sqrt(self.in_features * variance))
        weight = torch.einsum("lm,omi->oli", centred.to(self.weight), self.weight)
        self.weight.copy_(weight)
        if self.spline_scale is not None:
            self.spline_scale.fill_(1.0)
        return None

    def _reset_original(self) -> None:
        """efficient-kan's start: curves near zero, scaled by a factor of about 1/sqrt(n)."""
        basis, bound = self.basis, 1 / math.sqrt(self.in_features)
        grid = torch.tensor(basis.knots[basis.order : -basis.order], dtype=torch.float64)
        values = basis.expand(grid)  # (K, grid_size + 1): every function at every grid point
        # Each curve takes small random values at the grid points; the coefficients are the
        # smallest ones that give them.
        noise = torch.rand(self.out_features, basis.grid_size + 1, self.in_features) - 0.5
        noise *= 0.1 / basis.grid_size
        to_coefficients = torch.linalg.pinv(values.T).to(noise)  # (K, grid_size + 1)
        self.weight[:, -basis.size :] = torch.matmul(to_coefficients, noise)
        if self.spline_scale is not None:
            self.spline_scale.uniform_(-bound, bound)
        if self.base != "none":
            self.weight[:, 0].uniform_(-bound, bound)

    def effective_weight(self) -> Tensor:
        """(out, M, n): the coefficients with ``spline_scale`` multiplied in."""
        if self.spline_scale is None:
            return self.weight
        spline = self.weight[:, -self.basis.size :] * self.spline_scale.unsqueeze(1)
        return torch.cat([self.weight[:, : -self.basis.size], spline], dim=1)

    @torch.no_grad()
    def fold_scale(self) -> None:
        """Multiply ``spline_scale`` into the weight for good: same function, one product fewer.

        For inference, where working out the effective weight again for every token would cost more
        than the token.
        """
        if self.spline_scale is not None:
            self.weight.copy_(self.effective_weight())
            self.spline_scale = None

    @torch.no_grad()
    def scale_output(self, factor: float) -> None:
        """Multiply the function of every edge by ``factor``."""
        self.weight.mul_(factor)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if self.prenorm == "rms":
            x = F.rms_norm(x, (self.in_features,))
        weight = self.effective_weight()
        return kan_linear(x, weight, self.basis, self.base, self.bias, self.backend)

    def edges(self, x: Tensor) -> Tensor:
        """The curve of every edge: phi_ij at the given points, bias left out.

        Args:
            x: (points,) for the same points at every input, or (points, in_features); what the
                functions themselves see, so behind ``prenorm`` where there is one.

        Returns:
            (points, out_features, in_features).
        """
        columns = x.unsqueeze(-1) if x.dim() == 1 else x
        features = expand_features(columns, self.basis, self.base)  # (points, M, 1 or n)
        features = features.expand(-1, -1, self.in_features)
        return torch.einsum("pmi,omi->poi", features, self.effective_weight().to(features.dtype))

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, basis={self.basis}, base={self.base!r}, "
            f"prenorm={self.prenorm!r}, "
            f"bias={self.bias is not None}, spline_scale={self.spline_scale is not None}"
        )
