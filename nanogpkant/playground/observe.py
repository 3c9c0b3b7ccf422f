"""What the page tells of every function: its inputs, how much it matters, its formula."""

import importlib
from typing import Any

import torch
from torch import Tensor

from nanogpkant.data import Ids
from nanogpkant.interpretation.observe.collect import Observed, collect
from nanogpkant.interpretation.observe.curves import even_points, points, weights
from nanogpkant.interpretation.observe.importance import importance
from nanogpkant.interpretation.show.mathml import spoken
from nanogpkant.kan import KANLinear, kan_layers
from nanogpkant.kan.curve import DistanceCurve
from nanogpkant.kan.features import Features
from nanogpkant.model.gpt import GPT
from nanogpkant.playground.pack import Pack

TOKENS = 8192  # read to observe inputs
BINS = 40  # of a density
SAMPLES = 129  # points of a formula, and of the curve that an edit is fitted to
TOP = 60  # edges of each layer that are listed
INTERVALS = 48  # of the spline that an edited shared function becomes
WIDER = 0.4  # share of a layer's range that this spline goes beyond it, at both ends together


@torch.no_grad()
def functions(model: GPT, text: Ids, pack: Pack, has_formulas: bool = True) -> dict[str, Any]:
    """Every KAN layer and curve of distance, in types of JSON.

    Args:
        text: token ids that the inputs are observed on, more than a block of them.
        has_formulas: fit them, which needs the packages of the extra ``interpret``.
    """
    layers = kan_layers(model)
    with torch.enable_grad():
        observed = collect(model, text, TOKENS) if layers else {}
    formulas = importlib.import_module("nanogpkant.playground.fitted") if has_formulas else None
    return {
        "samples": SAMPLES,
        "bins": BINS,
        "curves": [
            _curve(name, curve, observed[name], pack, formulas)
            for name, curve in layers.items()
            if isinstance(curve, DistanceCurve)
        ],
        "layers": [
            _layer(name, layer, observed[name], pack, formulas)
            for name, layer in layers.items()
            if not isinstance(layer, DistanceCurve)
        ],
    }


def _curve(
    name: str, curve: DistanceCurve, observed: Observed, pack: Pack, formulas: Any
) -> dict[str, Any]:
    """A curve of distance: what its heads matter, by the gradient at their values."""
    values = curve.of(torch.arange(curve.initial.shape[1]))  # (H, L)
    made: dict[str, Any] = {
        "name": name,
        "importance": (values.std(1) * observed.grad_rms).tolist(),
        "formulas": None,
    }
    if formulas is not None:
        made["formulas"] = _formulas(formulas.of_curve(name, curve), pack)
    return made


def _layer(
    name: str, layer: KANLinear, observed: Observed, pack: Pack, formulas: Any
) -> dict[str, Any]:
    features, n = layer.features, layer.in_features
    groups = features.groups if features.is_learned else n
    at, share = points(observed), weights(observed, points(observed))  # (64, n) each
    low = observed.low.view(groups, -1).amin(1)
    high = observed.high.view(groups, -1).amax(1)
    high = torch.where(high > low, high, low + 1e-3)
    made: dict[str, Any] = {
        "name": name,
        "kind": "shared" if features.is_learned else "edge",
        "inputs": n,
        "outputs": layer.out_features,
        "functions": features.basis.size if features.is_learned else 1,
        "groups": groups,
        "low": pack.add(low),
        "high": pack.add(high),
        "density": pack.add(density(observed, low, high)),
        "formulas": None,
    }
    if features.is_learned:
        matters = shared_importance(layer, observed, at, share)  # (M, G)
        margin = WIDER / 2 * (high.max() - low.min())
        ends = (low.min() - margin).item(), (high.max() + margin).item()
        made |= {"importance": matters.flatten().tolist(), "spline": [*ends, INTERVALS]}
        if formulas is not None:
            x = torch.linspace(*ends, SAMPLES)[:, None].expand(-1, groups)
            near, weight = even_points(low, high, 64), torch.ones(64, groups)
            curves = shared_values(features, layer.coefficients, near)  # (64, M, G)
            made["formulas"] = _formulas(formulas.of_functions(near, weight, curves, x), pack)
    else:
        matters = importance(layer, observed)["std_grad"]  # (m, n)
        top = matters.flatten().topk(min(TOP, matters.numel())).indices
        outputs, inputs = top // n, top % n
        made["top"] = torch.stack([outputs, inputs], 1).tolist()
        made["importance"] = matters[outputs, inputs].tolist()
        if formulas is not None:
            own = at[:, inputs]  # (64, E)
            curves = layer.edges(at)[:, outputs, inputs]
            x = even_points(low[inputs], high[inputs], SAMPLES)
            found = formulas.of_functions(own, share[:, inputs], curves[:, None], x)
            made["formulas"] = _formulas(found, pack)
    return made


def _formulas(found: tuple[Tensor, list[str], list[float]], pack: Pack) -> dict[str, Any]:
    """Formulas as ``fitted`` gives them: (functions, samples) values, texts and R²."""
    values, texts, r2 = found
    math = [spoken(text) for text in texts]
    return {"values": pack.add(values), "text": texts, "math": math, "r2": r2}


def shared_values(features: Features, coefficients: Any, x: Tensor) -> Tensor:
    """Shared functions of every group at points of its own: (points, G) -> (points, M, G)."""
    return features.expand(x, coefficients.cpu())


def shared_importance(layer: KANLinear, observed: Observed, at: Tensor, share: Tensor) -> Tensor:
    """(M, G): the loss that a function adds to first order, over all of its edges.

    As ``importance``'s std_grad: the standard deviation of an edge times the root mean square of
    the gradient at its output; edges of a function add up in squares.
    """
    features = layer.features
    values = features.expand(at, layer.coefficients)  # (64, M, n)
    mean = (share[:, None] * values).sum(0)
    variance = (share[:, None] * (values - mean).square()).sum(0)  # (M, n)
    weight = (layer.weight * observed.grad_rms[:, None, None]).square().sum(0)  # (M, n)
    return (variance * weight).unflatten(1, (features.groups, -1)).sum(-1).sqrt()


def density(observed: Observed, low: Tensor, high: Tensor) -> Tensor:
    """(groups, BINS) share of a group's inputs in even bins from low to high; the largest is 1."""
    middles = (observed.edges[:, 1:] + observed.edges[:, :-1]) / 2  # (n, B)
    groups, each = len(low), len(middles) // len(low)
    first, width = (x.repeat_interleave(each)[:, None] for x in (low, high - low))
    place = (middles - first) / width
    bins = (place * BINS).long()
    inside = (place >= 0) & (bins < BINS)
    row = torch.arange(len(middles))[:, None] // each
    flat = (row * BINS + bins)[inside]
    counts = torch.zeros(groups * BINS, dtype=torch.float64)
    counts.index_add_(0, flat, observed.counts[inside])
    counts = counts.view(groups, BINS)
    return counts / counts.amax(1, keepdim=True).clamp(min=1)
