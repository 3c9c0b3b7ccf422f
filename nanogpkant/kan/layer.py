"""KANLinear: a KAN layer as a module, in place of ``nn.Linear``."""

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.kan.bases.base import Basis, Family
from nanogpkant.kan.bases.bspline import BSpline
from nanogpkant.kan.features import Features
from nanogpkant.kan.functional import BACKENDS, kan_linear
from nanogpkant.kan.grid import GridChange, refine, update_grid
from nanogpkant.kan.shared import share as shared
from nanogpkant.kan.state import FeatureLayer, spline_of

PRENORMS = ("none", "rms")
INITS = ("variance_preserving", "whitened", "original")


class KANLinear(FeatureLayer):
    """A Kolmogorov-Arnold layer: every input reaches every output through a learned function.

    ``weight`` is (out_features, M, in_features): the coefficients of every edge, that of the base
    function first. The packed matrix of the layer's one product is ``weight.flatten(1)``, without a
    copy. ``coefficients`` (functions, groups, numbers) are the parameters of shared functions, or
    None. ``state_dict`` holds the features too: loading weights of another grid takes that grid.

    Args:
        in_features: n, size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias: learn a constant for every output.
        basis: the functions of an edge, cubic B-splines with 5 intervals on [-1, 1] by default.
        base: base function of every edge: a key of ``features.BASE_FUNCTIONS``, such as "silu",
            "gelu", "identity" or "none".
        share: "edge" gives every edge its own functions; "input", "group:G" and "atoms:K" share
            learned functions between edges: see ``bases.parse_share``.
        prenorm: "rms" divides every input vector by its root mean square first, without parameters,
            so that inputs have unit scale on the grid; or "none".
        spline_scale: learn one more factor for every edge's spline, as efficient-kan does.
        init: "variance_preserving" (unit-variance inputs give unit-variance outputs), "whitened"
            (the same, with all shapes of curve of the basis equally likely) or "original" (as
            efficient-kan, which the original nanoGPKANT trained with; B-splines only).
        gain: factor of the initial weights.
        dropout: probability, 0 to below 1, to drop an input in training: all its features are then
            zero, unlike those of an input of zero.
        backend: see ``kan_linear``.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: sizes below 1, an unknown base, share, prenorm, init or backend, or settings
            that exclude each other.
        TypeError: ``bias`` is not a bool, say a basis without its name.

    Source: Liu et al. (arXiv 2404.19756); the packed form and ``spline_scale`` follow the
    efficient-kan project (github.com/Blealtan/efficient-kan), and dropping features rather than
    inputs follows DropKAN (arXiv 2407.13044).

    Examples:
        >>> import torch
        >>> from nanogpkant import BSpline, KANLinear
        >>> layer = KANLinear(4, 3, basis=BSpline(grid_size=5, order=3, grid_range=(-1, 1)))
        >>> layer(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
        >>> layer.edges(torch.linspace(-1, 1, 9)).shape  # points, outputs, inputs
        torch.Size([9, 3, 4])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        basis: Basis | Family | None = None,
        base: str = "silu",
        share: str = "edge",
        prenorm: str = "none",
        spline_scale: bool = False,
        init: str = "variance_preserving",
        gain: float = 1.0,
        dropout: float = 0.0,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(bias, bool):
            raise TypeError(f"bias is {bias!r}; name the basis: KANLinear(n, m, basis=...)")
        if in_features < 1 or out_features < 1:
            raise ValueError(f"a layer from {in_features} to {out_features} has no edges")
        for name, value, known in (
            ("prenorm", prenorm, PRENORMS),
            ("init", init, INITS),
            ("backend", backend, BACKENDS),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; known are {', '.join(known)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; it must be at least 0 and below 1")
        self.features = Features(shared(basis or BSpline(), share, in_features), base)
        self.in_features, self.out_features, self.dropout = in_features, out_features, dropout
        self.prenorm, self.init, self.backend = prenorm, init, backend
        self.gain = gain
        if in_features % (groups := self.features.groups):
            raise ValueError(f"{in_features} inputs do not split into {groups} groups")
        if self.features.is_learned and spline_scale:
            raise ValueError("spline_scale is for functions of an edge's own, not shared ones")
        if init == "original" and not isinstance(self.basis, BSpline):
            raise ValueError('init="original" is for B-splines of an edge\'s own')

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.weight = parameter(out_features, self.features.size, in_features)
        shape = self.features.coefficient_shape
        self.coefficients = parameter(*shape) if shape else None
        self.spline_scale = parameter(out_features, in_features) if spline_scale else None
        self.bias = parameter(out_features) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the parameters anew, from torch's global random stream."""
        if self.bias is not None:
            self.bias.zero_()
        if (start := self.features.start()) is not None and self.coefficients is not None:
            self.coefficients.copy_(start)
        if self.init == "original":
            self._reset_original()
            self.weight.mul_(self.gain)
            return
        mix, variance = self._mixing()
        self.weight.normal_(std=self.gain / math.sqrt(self.in_features * variance))
        self.weight.copy_(torch.einsum("lm,oli->omi", mix.to(self.weight), self.weight))
        if self.spline_scale is not None:
            self.spline_scale.fill_(1.0)

    def _mixing(self) -> tuple[Tensor, float]:
        """The map from independent numbers to the coefficients of an edge, and its variance.

        Returns (M, M), by which a row of M standard normal numbers is multiplied, and the mean
        square of the resulting curve over x ~ N(0, 1).
        """
        mean, second = self.features.gaussian_moments()
        mix = torch.diag(torch.ones_like(mean))
        if not self.features.is_learned:
            # Every curve gets mean zero. B-splines are never negative: without this, a fifth of an
            # output's mean square would not depend on x (measured for the default basis).
            mix -= torch.outer(mean, mean) / (mean @ mean).clamp(min=1e-12)
        if self.init == "whitened":
            # Equal variance along all eigenvectors of the curves' covariance, except below a
            # hundredth of the largest eigenvalue, where weights would be huge.
            values, vectors = torch.linalg.eigh(mix @ second @ mix)
            mix = vectors * (values + 0.01 * values.max()).rsqrt() @ vectors.T @ mix
        variance = torch.trace(mix @ second @ mix.T).item()
        if not variance > 1e-9:
            what = f"the functions {self.basis} are out of reach of inputs of unit variance"
            raise ValueError(f'{what}; move their range, or use init="original"')
        return mix, variance

    def _reset_original(self) -> None:
        """As efficient-kan: curves near zero, scaled by a factor of about 1/sqrt(n)."""
        basis, bound = spline_of(self), 1 / math.sqrt(self.in_features)
        grid = torch.tensor(basis.points, dtype=torch.float64)
        values = basis.expand(grid)  # (K, grid_size + 1): every function at every grid point
        # Small random values at the grid points, and the smallest coefficients that give them.
        noise = torch.rand(self.out_features, basis.grid_size + 1, self.in_features) - 0.5
        noise *= 0.1 / basis.grid_size
        to_coefficients = torch.linalg.pinv(values.T).to(noise)  # (K, grid_size + 1)
        self.weight[:, -basis.size :] = torch.matmul(to_coefficients, noise)
        if self.spline_scale is not None:
            self.spline_scale.uniform_(-bound, bound)
        if self.features.has_base:
            self.weight[:, 0].uniform_(-bound, bound)

    def effective_weight(self) -> Tensor:
        """(out, M, n): the coefficients with ``spline_scale`` multiplied in."""
        if self.spline_scale is None:
            return self.weight
        spline = self.weight[:, -self.basis.size :] * self.spline_scale.unsqueeze(1)
        return torch.cat([self.weight[:, : -self.basis.size], spline], dim=1)

    @torch.no_grad()
    def fold_scale(self) -> None:
        """Multiply ``spline_scale`` into the weight and drop it; the function stays the same.

        For inference, where computing the effective weight for every token would cost more than
        the token.
        """
        if self.spline_scale is not None:
            self.weight.copy_(self.effective_weight())
            self.spline_scale = None

    def normalise(self, x: Tensor) -> Tensor:
        """(..., in_features) -> the same: inputs of the functions, after ``prenorm``."""
        return F.rms_norm(x, (self.in_features,)) if self.prenorm == "rms" else x

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        x = self.normalise(x)
        drops, weight = self.training and self.dropout > 0, self.effective_weight()
        keep = F.dropout(torch.ones_like(x), self.dropout) if drops else None
        return kan_linear(
            x, weight, self.features, self.bias, self.coefficients, keep, self.backend
        )

    def edges(self, x: Tensor) -> Tensor:
        """The curve of every edge: phi_ij at the given points, without the bias.

        Args:
            x: (points,) for the same points at every input, or (points, in_features); inputs of the
                functions, after ``prenorm``.

        Returns:
            (points, out_features, in_features).
        """
        columns = x.unsqueeze(-1) if x.dim() == 1 else x
        columns = columns.expand(-1, self.in_features)
        features = self.features.expand(columns, self.coefficients)  # (points, M, n)
        return torch.einsum("pmi,omi->poi", features, self.effective_weight().to(features.dtype))

    @torch.no_grad()
    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``edges`` in two parts whose sum they are: of the base function, and of the basis.

        Returns:
            twice (points, out_features, in_features).
        """
        whole = self.edges(x)
        base = replace(self.features, base="none")
        columns = (x.unsqueeze(-1) if x.dim() == 1 else x).expand(-1, self.in_features)
        features = base.expand(columns, self.coefficients)  # (points, M', n)
        weight = self.effective_weight()[:, int(self.features.has_base) :].to(features.dtype)
        basis = torch.einsum("pmi,omi->poi", features, weight)
        return whole - basis, basis

    def update_grid(self, samples: Tensor, **options: Any) -> GridChange:
        """Fit the spline grid to the inputs: see ``nanogpkant.kan.grid.update_grid``."""
        return update_grid(self, samples, **options)

    def refine(self, grid_size: int, optimizer: torch.optim.Optimizer | None = None) -> GridChange:
        """Split every interval of the spline grid: see ``nanogpkant.kan.grid.refine``."""
        return refine(self, grid_size, optimizer)

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, basis={self.basis}, "
            f"base={self.features.base!r}, prenorm={self.prenorm!r}, "
            f"bias={self.bias is not None}, spline_scale={self.spline_scale is not None}"
        )


def kan_layers(model: nn.Module) -> dict[str, KANLinear]:
    """Every KAN layer of a model, by its name there; those inside pruned layers too."""
    return {name: m for name, m in model.named_modules() if isinstance(m, KANLinear)}
