"""A model as the page runs it: every operation by name, every tensor by its number in the pack.

Matrices are packed as (inputs, outputs). Nothing of the configuration has to be known to run it.
"""

import copy
import json
from typing import Any

import torch
from torch import Tensor, nn

from nanogpkant.base.errors import UserError
from nanogpkant.config import ModelConfig
from nanogpkant.kan.curve import DistanceCurve
from nanogpkant.kan.layer import KANLinear
from nanogpkant.kan.pruned import PrunedLinear
from nanogpkant.model.activation import XIELU
from nanogpkant.model.attention import Attention
from nanogpkant.model.gpt import GPT
from nanogpkant.model.positions import Slopes, alibi_slopes
from nanogpkant.playground.pack import Pack, Weights, rounded

# Bases that web/bases.js computes.
KNOWN = {"bspline", "hat", "rbf", "chebyshev", "fourier", "rational", "line"}
FAR = 8  # times as many distances as the curve was learned on


def check(model: GPT, run: str) -> None:
    """
    Raises:
        UserError: the model has a part that the page cannot run.
    """
    for name, module in model.named_modules():
        if isinstance(module, PrunedLinear):
            remedy = "play the run that it was pruned from"
            raise UserError(f"{run}: {name} is pruned, which the page cannot run: {remedy}")
    basis = model.config.kan.basis
    if model.config.kan.sites and basis not in KNOWN:
        problem = f"{run} has --model.kan.basis {basis}, which the page cannot run"
        raise UserError(f"{problem}; it runs {', '.join(sorted(KNOWN))}")


@torch.no_grad()
def recipe(model: GPT, pack: Pack) -> dict[str, Any]:
    """The model in types of JSON; its tensors go into the pack."""
    config = model.config
    return {
        "width": config.n_embd,
        "heads": config.n_head,
        "block_size": config.block_size,
        "vocab_size": model.vocab_size,
        "extrapolates": config.extrapolates,
        "softcap": config.logit_softcap,
        "tokens": pack.add_matrix(model.tokens.weight),
        "positions": None if model.positions is None else pack.add_matrix(model.positions.weight),
        "head": None if model.head is None else pack.add_matrix(model.head.weight.T),
        "blocks": [_block(block, i, config, pack) for i, block in enumerate(model.blocks)],
        "norm": _norm(model.norm, pack),
    }


@torch.no_grad()
def rounded_model(model: GPT, weights: Weights) -> GPT:
    """A copy of the model with its matrices as the page has them."""
    twin = copy.deepcopy(model)
    tables = [twin.tokens, *([] if twin.positions is None else [twin.positions])]
    for embedding in tables:
        embedding.weight.copy_(rounded(embedding.weight, weights))
    blocks: list[Any] = list(twin.blocks)
    layers = [p for b in blocks for p in (b.attention.qkv, b.attention.out, b.mlp.into, b.mlp.out)]
    for layer in [*layers, *([] if twin.head is None else [twin.head])]:
        if isinstance(layer, KANLinear):
            layer.fold_scale()
        matrix = layer.weight.flatten(1).T
        layer.weight.copy_(rounded(matrix, weights).T.reshape_as(layer.weight))
    return twin


@torch.no_grad()
def with_curves(model: GPT) -> GPT:
    """The model, ALiBi's slopes being curves of distance: lines, of the values at both ends.

    The value at distance 0 is the same for all tokens that a head looks at, and does nothing.
    """
    if not any(isinstance(each, Slopes) for each in model.modules()):
        return model
    twin, last = copy.deepcopy(model), model.config.block_size - 1
    blocks: list[Any] = list(twin.blocks)
    for block in blocks:
        slopes = block.attention.bias
        line = -alibi_slopes(len(slopes.slopes))[:, None] * torch.arange(last + 1)
        curve = DistanceCurve(line, "hat", 2, "linear", "linear")
        curve.weight.zero_()
        curve.weight[:, 1, 0] = -slopes.slopes * last
        block.attention.bias = curve
    return twin


def _block(block: Any, index: int, config: ModelConfig, pack: Pack) -> dict[str, Any]:
    name, activation = f"blocks.{index}", block.mlp.activation
    kind = "identity" if isinstance(activation, nn.Identity) else config.activation
    alpha = activation.alpha.tolist() if isinstance(activation, XIELU) else None
    return {
        "norm_1": _norm(block.norm_1, pack),
        "attention": _attention(block.attention, f"{name}.attention", config.block_size, pack),
        "norm_2": _norm(block.norm_2, pack),
        "into": _projection(block.mlp.into, f"{name}.mlp.into", pack),
        "activation": {"kind": kind, "alpha": alpha},
        "out": _projection(block.mlp.out, f"{name}.mlp.out", pack),
    }


def _attention(attention: Attention, name: str, block_size: int, pack: Pack) -> dict[str, Any]:
    convolution, score = attention.convolution, attention.score
    made: dict[str, Any] = {
        "qkv": _projection(attention.qkv, f"{name}.qkv", pack),
        "out": _projection(attention.out, f"{name}.out", pack),
        "rotates": attention.rotates,
        "bias": None,
        "convolution": None,
        "q_norm": _norm(attention.q_norm, pack),
        "k_norm": _norm(attention.k_norm, pack),
        "score": None if score is None else pack.add(score.coefficients),
        "is_mixed": attention.is_mixed,
        "mix": None if attention.mix is None else attention.mix.tolist(),
    }
    if attention.bias is not None:
        made["bias"] = _curve(attention.bias, f"{name}.bias", block_size, pack)
    if convolution is not None:
        kernel = f"{name}.convolution.kernel"
        made["convolution"] = _curve(convolution.kernel, kernel, convolution.length, pack)
    return made


def _curve(curve: Any, name: str, length: int, pack: Pack) -> dict[str, Any]:
    """Values by distance, and how they extend beyond.

    At distance d beyond the last, ``value + slope * (s(d) - s(last))``, s being the scale. A curve
    with a slope is edited by its coefficients: ``basis`` has what they are multiplied by, for each
    distance and for the slope.
    """
    values = curve.of(torch.arange(length))  # (heads or channels, length)
    slope, basis, scale = torch.zeros(len(values)), None, "linear"
    is_learned = isinstance(curve, DistanceCurve)
    if is_learned and curve.beyond == "linear":
        scale = curve.scale
        ends = torch.tensor([length - 1.0, FAR * length])
        steps = (torch.log2(1 + ends) if scale == "log" else ends).diff()
        last, far = _functions(curve, ends)
        rows = torch.cat([_functions(curve, torch.arange(length)), (far - last)[None] / steps])
        slope, basis = curve.weight[..., 0] @ rows[-1], pack.add(rows)
    return {
        "name": name,
        "length": length,
        "values": pack.add(values),
        "slope": slope.tolist(),
        "scale": scale,
        "basis": basis,
        "start": pack.add(curve.initial) if is_learned else None,
    }


def _functions(curve: DistanceCurve, distance: Tensor) -> Tensor:
    """(L,) -> (L, M), the functions of a curve's basis."""
    x = curve.on_scale(distance.to(curve.weight))[:, None]
    return curve.features.expand(x)[..., 0]


def _projection(layer: Any, name: str, pack: Pack) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "bias": None}
    if layer.bias is not None:
        made["bias"] = pack.add(layer.bias)
    if not isinstance(layer, KANLinear):
        return made | {"kind": "linear", "weight": pack.add_matrix(layer.weight.T)}
    coefficients = layer.coefficients
    return made | {
        "kind": "kan",
        "weight": pack.add_matrix(layer.effective_weight().flatten(1).T),  # (M * n, out)
        "coefficients": None if coefficients is None else pack.add(coefficients),
        "features": json.loads(layer.features.spec),
        "prenorm": layer.prenorm,
        "inputs": layer.in_features,
    }


def _norm(norm: Any, pack: Pack) -> dict[str, Any] | None:
    if isinstance(norm, nn.Identity):
        return None
    weight: Tensor | None = norm.weight
    bias: Tensor | None = getattr(norm, "bias", None)
    return {
        "kind": "layer" if isinstance(norm, nn.LayerNorm) else "rms",
        "weight": None if weight is None else pack.add(weight),
        "bias": None if bias is None else pack.add(bias),
        "epsilon": norm.eps,
    }
