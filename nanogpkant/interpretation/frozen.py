"""Learned functions made fixed, in plain torch: parts of the weights, or lines between points.

A function that is a line costs nothing. Any other one becomes 1023 short lines, whether it is the
learned function or its formula: finding one's line takes two lookups and a product.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.kan import BASE_FUNCTIONS, KANLinear
from nanogpkant.kan.activation import LearnedActivation
from nanogpkant.kan.bases.base import Basis, wide
from nanogpkant.kan.bases.bspline import BSpline
from nanogpkant.kan.features import Features

POINTS = 1024  # between which lines go
WIDTH = 16.0  # points reach from -WIDTH to WIDTH, or further where a grid does
REACH = 8.0  # of functions that have no grid: constant beyond, but for base and line
CURVED = ("relu2", "leaky_relu2")  # base functions that do not end in lines: computed
NOTHING = 1e-12  # largest value of what is no function at all


class FixedFunctions(nn.Module):
    """y_i = base(x_i) + slope_g x_i + rest_g(x_i) for all inputs i of a group g, as short lines.

    The rest is constant beyond its range, so the outermost lines continue as base and slope do.

    Args:
        features: one shared function an input.
        coefficients: (1, G, numbers), of these functions.
        by: "table" or "formula", of the rest.
    """

    lines: Tensor  # (G * 1023, 2) values at zero, and slopes
    first: Tensor  # (G, 1) numbers of the first lines

    def __init__(self, features: Features, coefficients: Tensor, by: str = "table") -> None:
        super().__init__()
        values, family = coefficients.detach().cpu().double(), features.family  # MPS has no float64
        low, high = -REACH, REACH
        if isinstance(family, BSpline) and family.outside == "zero":
            low, high = family.knots[0], family.knots[-1]
        self.end, self.groups = max(WIDTH, -low, high), features.groups
        self.base, self.formulas = features.base, []
        self.unit = 2 * self.end / (POINTS - 3)  # one line extends beyond each end
        order = torch.arange(POINTS, dtype=values.dtype, device=values.device)
        x = ((order - 1) * self.unit - self.end)[:, None].expand(-1, features.groups)  # (P, G)
        function = BASE_FUNCTIONS[self.base] or (torch.zeros_like,)
        line = values[0, :, 0] if isinstance(family, Basis) else torch.zeros_like(values[0, :, 0])
        inside = x.clamp(low, high)
        rest = features.expand(inside, values)[:, 0] - line * inside - function[0](inside)
        self.is_line = self.base in ("identity", "none") and bool(rest.abs().max() <= NOTHING)
        if by == "formula" and not self.is_line:
            rest, self.formulas = _formulas(inside, rest, (low, high))
        total = line * x + rest
        if self.base not in CURVED:
            total = total + function[0](x)
        slopes = total.diff(dim=0) / self.unit
        lines = torch.stack([total[:-1] - slopes * x[:-1], slopes], -1).transpose(0, 1)
        self.register_buffer("lines", lines.flatten(0, 1).to(wide(coefficients)))
        first = torch.arange(0, len(self.lines), POINTS - 1, dtype=torch.int32, device=x.device)
        self.register_buffer("first", first[:, None].to(coefficients.device))

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) -> the same."""
        z = wide(x).unflatten(-1, (self.groups, -1))  # (..., G, n / G)
        line = (z.detach() / self.unit).add_(1 + self.end / self.unit)
        line = line.clamp(0, POINTS - 2).nan_to_num_().int()
        index = line.add_(self.first).flatten()
        # Both numbers of a line at once, as one complex number.
        found = torch.view_as_complex(wide(self.lines)).index_select(0, index).view(z.shape)
        y = torch.addcmul(found.real, found.imag, z)
        if self.base in CURVED and (function := BASE_FUNCTIONS[self.base]):
            y = y + function[0](z)
        return y.flatten(-2).to(x.dtype)

    def extra_repr(self) -> str:
        rest = f", {', '.join(self.formulas)}" if self.formulas else ""
        return f"{self.base}, groups={self.groups}{rest}"


class FixedKAN(nn.Module):
    """A linear layer after fixed functions."""

    def __init__(self, layer: KANLinear, functions: FixedFunctions) -> None:
        super().__init__()
        self.functions, self.bias, self.normalise = functions, layer.bias, layer.normalise
        self.weight = nn.Parameter(layer.weight.detach()[:, 0], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., m)."""
        return F.linear(self.functions(self.normalise(x)), self.weight, self.bias)


@torch.no_grad()
def freeze_functions(model: nn.Module, by: Literal["table", "formula"] = "table") -> int:
    """Replace shared learned functions and learned activations by fixed ones, in place.

    Functions that are lines become part of the weights: such a layer is an ``nn.Linear`` again.

    Args:
        by: "table": the functions themselves; or "formula": the best formulas of ``interpret`` on
            the range of the grid, which the printed model shows. Both become 1023 short lines.

    Returns:
        how many layers were replaced.

    Raises:
        UserError: none has shared functions.
        UsageError: another ``by``.
    """
    if by not in ("table", "formula"):
        raise UsageError(f"freeze_functions by={by}: must be table or formula")
    made: dict[str, nn.Module] = {}
    for name, layer in model.named_modules():
        coefficients = getattr(layer, "coefficients", None)
        if not isinstance(layer, KANLinear | LearnedActivation) or coefficients is None:
            continue
        if layer.features.size == 1:
            functions = FixedFunctions(layer.features, coefficients, by)
            made[name] = (
                functions if isinstance(layer, LearnedActivation) else _fixed(layer, functions)
            )
            made[name].train(layer.training)
    if not made:
        problem = f"{type(model).__name__} has no functions that edges share"
        raise UserError(f'{problem}: kanify with share="group:8" makes some')
    for name, module in made.items():
        model.set_submodule(name, module)
    return len(made)


def _fixed(layer: KANLinear, functions: FixedFunctions) -> nn.Module:
    if not functions.is_line or layer.prenorm != "none":
        return FixedKAN(layer, functions)
    slopes = functions.lines[functions.first[:, 0], 1]
    factor = slopes.repeat_interleave(layer.in_features // functions.groups)
    linear = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    linear.weight, linear.bias = nn.Parameter(layer.weight[:, 0] * factor), layer.bias  # pyright: ignore
    return linear


def _formulas(x: Tensor, values: Tensor, ends: tuple[float, float]) -> tuple[Tensor, list[str]]:
    """Formulas of (P, G) values at (P, G) points: their values, and as text."""
    from nanogpkant.interpretation.fit.formulas import fit

    within = slice(*torch.searchsorted(x[:, 0].contiguous(), x.new_tensor(ends)).tolist())
    at, wanted = (t[within].float().cpu() for t in (x, values))
    fits = fit(at, torch.full_like(at, 1 / len(at)), wanted[:, None])
    found = fits.evaluate(x.float().cpu())[:, 0].to(values)
    return found, fits.table().sort_values("input")["formula"].tolist()
