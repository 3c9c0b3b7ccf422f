"""KAN layers of other libraries, as ours: the same function, tried on random inputs.

efficient-kan (and its copies in the original nanoGPKANT and kansformers), FastKAN, pykan, inkan and
flashkan are told by their attributes. Nothing of theirs is imported. Each library's layer is read
into ``Edges``; a layer that computes something else than its attributes say is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.base.errors import UserError
from nanogpkant.conversion.kanify import base_of
from nanogpkant.kan import RBF, BSpline, KANLinear
from nanogpkant.kan.bases.base import Basis
from nanogpkant.kan.knots import transfer
from nanogpkant.model.modes import evaluating

SAME = 1e-9  # relative difference below which knots are the same
MOST_KNOTS = 1024  # of a grid that serves inputs with grids of their own
TRIED = 64  # random inputs
TOLERANCE = 1e-4  # relative, of outputs in float32


@dataclass(frozen=True)
class Edges:
    """The functions of a layer from n inputs to m outputs."""

    base: str
    base_weight: Tensor | None  # (m, n)
    splines: Tensor  # (m, K, n)
    basis: Basis
    bias: Tensor | None = None  # (m,)

    def layer(self) -> KANLinear:
        """A KAN layer of these functions, on their device and in their dtype."""
        (out, _, n), base = self.splines.shape, self.base
        if self.base_weight is None:
            base, parts = "none", [self.splines]
        else:
            parts = [self.base_weight[:, None], self.splines]
        # "original" takes any grid, however far from zero
        init = "original" if isinstance(self.basis, BSpline) else "variance_preserving"
        made = KANLinear(n, out, self.bias is not None, basis=self.basis, base=base, init=init)
        made.to(self.splines)
        with torch.no_grad():
            made.weight.copy_(torch.cat(parts, dim=1))
            if made.bias is not None and self.bias is not None:
                made.bias.copy_(self.bias)
        return made


class NormedKAN(nn.Module):
    """FastKAN's layer with its norm, which stands before the bumps alone."""

    def __init__(self, norm: nn.Module, splines: KANLinear, base: KANLinear | None) -> None:
        super().__init__()
        self.norm, self.splines, self.base = norm, splines, base

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., m)."""
        y = self.splines(self.norm(x))
        return y if self.base is None else y + self.base(x)


class Products(nn.Module):
    """Nodes of pykan: the first inputs, then products of the others, each times and plus a number.

    Args:
        arities: inputs of every product, the last ones of all.
        scale, bias: (sums + products,) of the nodes.
    """

    def __init__(self, arities: Sequence[int], scale: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.arities = tuple(arities)
        self.scale, self.bias = (nn.Parameter(each.detach().clone()) for each in (scale, bias))

    def forward(self, x: Tensor) -> Tensor:
        """(..., sums + all inputs of products) -> (..., sums + products)."""
        sums, *factors = x.split((x.shape[-1] - sum(self.arities), *self.arities), dim=-1)
        nodes = torch.cat([sums, *(each.prod(-1, keepdim=True) for each in factors)], -1)
        return self.scale * nodes + self.bias

    def extra_repr(self) -> str:
        return f"arities={self.arities}"


def from_efficient_kan(layer: nn.Module) -> nn.Module:
    """A layer of efficient-kan, or of a copy, as ``KANLinear``.

    Raises:
        UserError: it is none, or computes something else.
    """
    return _converted(layer, "efficient-kan")


def from_fastkan(layer: nn.Module) -> nn.Module:
    """A layer of FastKAN as ``KANLinear``, or ``NormedKAN`` where it has a norm.

    Raises:
        UserError: see ``from_efficient_kan``.
    """
    return _converted(layer, "FastKAN")


def from_inkan(layer: nn.Module) -> nn.Module:
    """A layer of inkan or flashkan as ``KANLinear``.

    Raises:
        UserError: see ``from_efficient_kan``.
    """
    return _converted(
        layer, "flashkan" if _has(layer, "spline_weight base_activation") else "inkan"
    )


def from_pykan(model: nn.Module) -> nn.Module:
    """A model of pykan (``MultKAN``, or ``KAN``) as a stack of ``KANLinear``; or one layer of it.

    Its factors and shifts of nodes become part of weights and biases; nodes that multiply stand
    between layers, as ``Products``.

    Raises:
        UserError: see ``from_efficient_kan``; or symbolic edges.
    """
    return _converted(model, "pykan model" if hasattr(model, "act_fun") else "pykan")


def from_kans(model: nn.Module) -> nn.Module:
    """A model with all layers of other KAN libraries in it replaced, in place; or the one layer.

    Raises:
        UserError: it has none, or one that cannot be converted; the model is unchanged.
    """
    if library := library_of(model):
        return _converted(model, library)
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{other}.") for other in found)
        if not inside and (library := library_of(module)):
            found[name] = _converted(module, library)
    if not found:
        raise UserError(f"{type(model).__name__} has no KAN layer of a library known: {KNOWN}")
    for name, module in found.items():
        model.set_submodule(name, module)
    return model


def library_of(module: nn.Module) -> str | None:
    """The library that a module is a layer or model of, by its attributes."""
    if isinstance(module, KANLinear):
        return None
    return next((name for name, (attributes, _) in READ.items() if _has(module, attributes)), None)


def _has(module: nn.Module, attributes: str) -> bool:
    return all(hasattr(module, each) for each in attributes.split())


@torch.no_grad()
def _converted(module: Any, library: str) -> nn.Module:
    attributes, read = READ[library]
    kind = f"a {library}" if library.startswith("pykan") else f"a layer of {library}"
    if not _has(module, attributes):
        raise UserError(f"{type(module).__name__} is not {kind}: it lacks {attributes}")
    made = read(module)
    if isinstance(made, Edges):
        made = made.layer()
    parameter = next(module.parameters())
    n = next(m.in_features for m in made.modules() if isinstance(m, KANLinear))
    x = 1.5 * torch.randn(TRIED, n, generator=torch.Generator().manual_seed(0), device="cpu")
    x = x.to(parameter.device, parameter.dtype)
    with evaluating(module):
        wanted = module(x)
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    error = (made.eval()(x) - wanted).abs().max() / (1 + wanted.abs().max())
    made.train(module.training)
    if not error < TOLERANCE:
        problem = f"computes something else than {library}'s formula"
        raise UserError(f"{type(module).__name__} {problem}: outputs differ by {error:.1g}")
    return made


def _base(activation: Callable[[Tensor], Tensor]) -> str:
    base = base_of(activation)
    if base is None:
        name = getattr(activation, "__name__", type(activation).__name__)
        raise UserError(f"the activation {name} is no base function of a KAN layer here")
    return base


def _efficient(layer: Any) -> Edges:
    splines = layer.spline_weight  # (m, n, K)
    if (scale := getattr(layer, "spline_scaler", None)) is not None:
        splines = splines * scale.unsqueeze(-1)
    bias = getattr(layer, "bias", None)
    basis, splines = on_one_grid(layer.grid, splines.transpose(1, 2), layer.spline_order)
    return Edges(_base(layer.base_activation), layer.base_weight, splines, basis, bias)


def _pykan(layer: Any) -> Edges:
    if (layer.grid[:, 1:] <= layer.grid[:, :-1]).any():
        raise UserError("a grid of pykan has two equal knots: update it on other samples")
    splines = layer.coef * (layer.mask * layer.scale_sp).unsqueeze(-1)  # (n, m, K)
    basis, splines = on_one_grid(layer.grid, splines.permute(1, 2, 0), layer.k)
    return Edges(_base(layer.base_fun), (layer.mask * layer.scale_base).T, splines, basis)


def _uniform(layer: Any) -> Edges:
    """Of flashkan, and of inkan, whose weight is packed."""
    if getattr(layer, "dim", 1) != 1:
        raise UserError("a layer of inkan with dim=2 has functions of two inputs: no edges")
    splines, low = layer.spline_weight.transpose(1, 2), float(layer.grid_starts[0])
    size, step = splines.shape[1] - 3, 1 / layer.inv_h
    grid = low + 3 * step, low + (3 + size) * step
    base = _base(layer.base_activation)
    return Edges(base, layer.base_weight, splines, BSpline(size, 3, grid))


def _fast(layer: Any) -> nn.Module | Edges:
    grid, h = layer.rbf.grid, float(layer.rbf.denominator)
    basis = RBF(len(grid) - 1, (float(grid[0]), float(grid[-1])))
    if abs((basis.grid_range[1] - basis.grid_range[0]) / basis.grid_size / h - 1) > 1e-5:
        raise UserError(f"a denominator of {h:.3g} is not the distance of the centres: unsupported")
    linear, raw = getattr(layer, "spline_linear", None), getattr(layer, "spline_weight", None)
    weight: Any = raw if linear is None else linear.weight.unflatten(1, (-1, len(grid)))
    splines, has_base = weight.transpose(1, 2), getattr(layer, "base_linear", None) is not None
    edges = Edges("none", None, splines, basis)
    if has_base:
        line = layer.base_linear
        edges = Edges(_base(layer.base_activation), line.weight, splines, basis, line.bias)
    if layer.layernorm is None:
        return edges
    alone = replace(edges, base="none", base_weight=None, bias=None).layer()
    base = None
    if has_base:
        unused = BSpline(1, 1)
        nothing = splines.new_zeros(len(splines), unused.size, splines.shape[2])
        base = replace(edges, splines=nothing, basis=unused).layer()
    return NormedKAN(layer.layernorm, alone, base)


def _pykan_model(model: Any) -> nn.Module:
    for number, symbolic in enumerate(model.symbolic_fun):
        if symbolic.mask.any():
            raise UserError(f"layer {number} has symbolic edges: convert before fixing them")
    if not torch.equal(model.input_id.cpu(), torch.arange(model.width_in[0])):
        raise UserError("some of its inputs were pruned: convert the model before")
    layers: list[nn.Module] = []
    for number, each in enumerate(model.act_fun):
        edges = _pykan(each)
        factor, shift = model.subnode_scale[number], model.subnode_bias[number]
        scale, bias = model.node_scale[number], model.node_bias[number]
        products = model.width[number + 1][1]
        if not products:
            factor, shift = scale * factor, scale * shift + bias
        base = None if edges.base_weight is None else edges.base_weight * factor[:, None]
        splines = edges.splines * factor[:, None, None]
        layers.append(replace(edges, base_weight=base, splines=splines, bias=shift).layer())
        if products:
            arity = model.mult_arity
            arities = [arity] * products if isinstance(arity, int) else arity[number + 1]
            layers.append(Products(arities, scale, bias))
    return nn.Sequential(*layers)


READ: dict[str, tuple[str, Callable[[Any], nn.Module | Edges]]] = {
    "pykan model": ("act_fun symbolic_fun subnode_scale node_scale", _pykan_model),
    "pykan": ("coef scale_base scale_sp grid base_fun mask", _pykan),
    "efficient-kan": ("base_weight spline_weight grid spline_order base_activation", _efficient),
    "inkan": ("weight grid_starts n_bases base_activation inv_h", _uniform),
    "flashkan": ("spline_weight base_weight grid_starts inv_h", _uniform),
    "FastKAN": ("rbf layernorm use_base_update", _fast),
}
KNOWN = "efficient-kan, FastKAN, pykan, inkan, flashkan"


def on_one_grid(grids: Tensor, splines: Tensor, order: int) -> tuple[BSpline, Tensor]:
    """Splines on grids of their own for every input, as splines on one grid for all.

    Args:
        grids: (n, knots) of every input, ascending, those outside of the grid among them.
        splines: (m, K, n) coefficients of B-splines on these knots.

    Returns:
        the basis, and (m, K', n): exact, on the union of all knots where they differ.

    Raises:
        UserError: orders that are not offered, or too many different knots.
    """
    if not 1 <= order <= 5:
        raise UserError(f"splines of order {order}: orders 1 to 5 can be converted")
    rows = grids.detach().double().cpu()
    unit, first = (
        (rows[:, -1] - rows[:, 0]).max() * max(SAME, torch.finfo(grids.dtype).eps),
        rows[0],
    )
    if ((rows - first).abs() <= 4 * unit).all():
        inner, step = first[order : len(first) - order], first.diff().mean()
        if ((first.diff() - step).abs() <= 8 * unit).all():  # uniform, knots outside too
            ends = float(inner[0]), float(inner[-1])
            return BSpline(len(inner) - 1, order, ends), splines
        return _within(first.tolist(), order), F.pad(splines, (0, 0, order, order))
    knots = rows.flatten().sort().values
    knots = knots[torch.cat([torch.ones(1, dtype=torch.bool), knots.diff() > 4 * unit])]
    if len(knots) > MOST_KNOTS:
        raise UserError(
            f"its inputs have grids of their own, {len(knots)} knots: {MOST_KNOTS} at most"
        )
    basis, columns = _within(knots.tolist(), order), []
    for row, of_input in zip(rows, splines.unbind(2), strict=True):
        own = _within(row.tolist(), order)
        matrix = transfer(own, basis)[:, order : own.size - order]  # (K', K)
        columns.append(of_input @ matrix.T.to(of_input))
    return basis, torch.stack(columns, 2)


def _within(knots: list[float], order: int) -> BSpline:
    """Splines with all of these knots inside of the grid: number ``order`` is the first of them."""
    return BSpline(order=order, grid=tuple(knots))
