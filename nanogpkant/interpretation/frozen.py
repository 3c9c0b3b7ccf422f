"""Learned functions made fixed, in plain torch: parts of the weights, tables or formulas.

A function that is a line costs nothing. On a CPU a table takes longer than this package's kernels
for the learned function itself (dev/LOG.md): it is for code that has only torch.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.kan import BASE_FUNCTIONS, KANLinear
from nanogpkant.kan.activation import LearnedActivation
from nanogpkant.kan.bases.base import Basis, wide
from nanogpkant.kan.bases.bspline import BSpline
from nanogpkant.kan.features import Features

POINTS = 512  # of a table
REACH = 8.0  # of functions that have no grid: constant beyond, but for base and line
NOTHING = 1e-12  # largest value of what is no function at all


class FixedFunctions(nn.Module):
    """y_i = base(x_i) + slope_g x_i + rest_g(x_i) for all inputs i of a group g.

    The rest is a table with linear interpolation, or formulas; it is constant beyond its range.

    Args:
        features: one shared function an input.
        coefficients: (1, G, numbers), of these functions.
        by: "table" or "formula".
    """

    table: Tensor | None  # (G, P)
    slope: Tensor  # (G, 1)

    def __init__(self, features: Features, coefficients: Tensor, by: str = "table") -> None:
        super().__init__()
        values, family = coefficients.detach().double(), features.family
        self.base, self.low, self.high = features.base, -REACH, REACH
        if isinstance(family, BSpline) and family.outside == "zero":
            self.low, self.high = family.knots[0], family.knots[-1]
        slope = (
            values[0, :, :1] if isinstance(family, Basis) else torch.zeros_like(values[0, :, :1])
        )
        x = torch.linspace(self.low, self.high, POINTS, dtype=values.dtype, device=values.device)
        columns = x[:, None].expand(-1, features.groups)
        rest = features.expand(columns, values)[:, 0] - slope[:, 0] * columns  # (P, G)
        if function := BASE_FUNCTIONS[features.base]:
            rest = rest - function[0](columns)
        self.register_buffer("slope", slope.to(coefficients.dtype))
        self.formulas: Any = None
        table = None
        if rest.abs().max() > NOTHING:
            if by == "formula":
                self.formulas = _formulas(columns, rest)
            else:
                table = rest.T.to(coefficients.dtype).contiguous()
        self.register_buffer("table", table)

    @property
    def is_line(self) -> bool:
        """Whether the functions are straight lines, which a weight takes in."""
        return self.base == "identity" and self.table is None and self.formulas is None

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) -> the same."""
        z = wide(x)
        grouped = z.unflatten(-1, (len(self.slope), -1))  # (..., G, n / G)
        y = self.slope * grouped
        if function := BASE_FUNCTIONS[self.base]:
            y = y + function[0](grouped)
        if self.table is not None:
            y = y + self._look_up(grouped, self.table)
        if self.formulas is not None:
            columns = grouped.transpose(-1, -2)  # (..., n / G, G)
            values = self.formulas.evaluate(columns.flatten(0, -2))[:, 0]
            y = y + values.view_as(columns).transpose(-1, -2)
        return y.flatten(-2).to(x.dtype)

    def _look_up(self, x: Tensor, table: Tensor) -> Tensor:
        position = ((x - self.low) / (self.high - self.low) * (POINTS - 1)).clamp(0, POINTS - 1)
        first = position.floor().clamp(max=POINTS - 2)
        row = POINTS * torch.arange(len(table), device=x.device)[:, None]
        index, flat = first.long() + row, table.flatten()
        return torch.lerp(flat[index], flat[index + 1], position - first)

    def extra_repr(self) -> str:
        rest = "a formula" if self.formulas is not None else "a table"
        rest = "nothing" if self.table is None and self.formulas is None else rest
        return f"{self.base} + a line + {rest}, groups={len(self.slope)}"


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
        by: "table": 512 points with linear interpolation; or "formula": the best of ``interpret``
            on the range of the grid.

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
    per_input = layer.in_features // len(functions.slope)
    factor = (1 + functions.slope[:, 0]).repeat_interleave(per_input)
    linear = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    linear.weight, linear.bias = nn.Parameter(layer.weight[:, 0] * factor), layer.bias  # pyright: ignore
    return linear


def _formulas(x: Tensor, values: Tensor) -> Any:
    """Formulas of (P, G) values at (P, G) points, as functions of G inputs and one output."""
    from nanogpkant.interpretation.fit.formulas import fit

    like, every = torch.float32, slice(None, None, 4)  # as many points as of other fits
    at, wanted = x[every].to(like).cpu(), values[every, None].to(like).cpu()
    fits = fit(at, torch.full_like(at, 1 / len(at)), wanted)
    return _moved(fits, x.device)


def _moved(fits: Any, device: torch.device) -> Any:
    from dataclasses import fields

    from nanogpkant.interpretation.fit.fits import Formulas

    return Formulas(**{f.name: getattr(fits, f.name).to(device) for f in fields(Formulas)})
