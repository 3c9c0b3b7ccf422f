"""Curves of distance in models that exist: a learned bias of every head, which starts at zero.

A model of transformers takes it by an attention function of our own: its scaled dot-product
attention, with the curves of an attention layer added to the mask. In our GPT it is the bias that
``model.position curve`` makes.

H heads, T queries, S keys.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nanogpkant.base.errors import UsageError, one_line
from nanogpkant.kan.curve import DistanceCurve
from nanogpkant.kan.features import Features
from nanogpkant.kan.state import set_features
from nanogpkant.model.gpt import GPT
from nanogpkant.model.modes import evaluating

ATTENTION = "kan_distance"  # name of the function in transformers' registry
CURVE = "distance_curve"  # attribute of an attention layer of transformers
LONGEST = 4096  # distances of a curve at most; beyond them its last value holds
KNOTS = 12  # as of ``model.curve``
TRIED = 6  # tokens


class Place(NamedTuple):
    """What a curve is made for."""

    heads: int
    longest: int
    itemsize: int


def places(model: Any) -> dict[str, Place]:
    """Where curves can stand in a model, by the names that they would have.

    Which layers of a model of transformers call the attention function, and whether the model stays
    the same with ours, is tried on a few tokens.

    Raises:
        UsageError: it cannot take them, or has some everywhere.
    """
    found = _places_in_ours(model) if isinstance(model, GPT) else _places_in_theirs(model)
    if not found:
        raise UsageError("--where distance: its attention has a bias of distance already")
    return found


def _places_in_ours(model: Any) -> dict[str, Place]:
    free = [n for n, each in enumerate(model.blocks) if each.attention.bias is None]
    longest = min(model.config.block_size, LONGEST)
    place = Place(model.config.n_head, longest, model.tokens.weight.itemsize)
    return {f"blocks.{n}.attention.bias": place for n in free}


@torch.no_grad()
def _places_in_theirs(model: Any) -> dict[str, Place]:
    embeddings: Any = model.get_input_embeddings() if is_pretrained(model) else None
    if not isinstance(embeddings, nn.Embedding):
        what = f"stands in language models of transformers; {type(model).__name__} is none"
        raise UsageError(f"--where distance: {what}")
    config, heads, itemsize = model.config, {}, embeddings.weight.itemsize

    def record(module: nn.Module, query: Tensor, *others: Any, **options: Any) -> Any:
        heads[module] = query.shape[1]
        return attend(module, query, *others, **options)

    before = config._attn_implementation
    problem = "it has a decoder beside its encoder" if config.is_encoder_decoder else ""
    try:
        tokens = torch.arange(1, 1 + TRIED, device=embeddings.weight.device)
        x = tokens[None] % embeddings.num_embeddings
        with evaluating(model):
            wanted = model(input_ids=x)[0]
            _register("kan_trial", record)
            config._attn_implementation = "kan_trial"
            off = (model(input_ids=x)[0] - wanted).abs().max() / (1 + wanted.abs().max())
        if not heads:
            problem = problem or "its attention takes no function of ours"
        elif not off < (1e-4 if itemsize > 2 else 5e-2):
            problem = problem or "it computes more than scaled dot-product attention"
    except Exception as error:  # of any model
        problem = problem or one_line(error)
    finally:
        _register("kan_trial", attend)  # the other one holds the model
        config._attn_implementation = before
    if problem:
        raise UsageError(f"--where distance: {type(model).__name__} cannot take it: {problem}")
    longest = min(getattr(config, "max_position_embeddings", LONGEST), LONGEST)
    names = {module: name for name, module in model.named_modules()}
    return {
        f"{names[module]}.{CURVE}": Place(count, longest, itemsize)
        for module, count in heads.items()
        if not hasattr(module, CURVE)
    }


def is_pretrained(model: nn.Module) -> bool:
    """Whether it is a model of transformers."""
    transformers = sys.modules.get("transformers")
    return transformers is not None and isinstance(model, transformers.PreTrainedModel)


def new_curve(heads: int, longest: int, features: str = "") -> DistanceCurve:
    """Hats on log2(1 + distance), all zero; or with the features that a saved one has."""
    start = torch.zeros(1, 1, device="cpu").expand(heads, longest)  # takes no memory
    curve = DistanceCurve(start, knots=min(KNOTS, longest))
    if features:
        set_features(curve, Features.from_spec(features))
    return curve


def use_curves(model: Any) -> None:
    """Let the attention of a model of transformers look for curves."""
    _register(ATTENTION, attend)
    model.config._attn_implementation = ATTENTION


def _register(name: str, function: Callable[..., Any]) -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, sdpa_mask)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> Any:
    """Transformers' scaled dot-product attention, with the curves of a layer that has some.

    Args:
        module: the attention layer.
        query, key, value: (B, H, T, D), and of as many or fewer heads (B, heads, S, D).
        attention_mask: (B or 1, H or 1, T, S), True or 0 where a token may look.
        options: see ``sdpa_attention_forward``.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if (curve := getattr(module, CURVE, None)) is not None:
        is_causal = options.get("is_causal")
        if is_causal is None:
            is_causal = getattr(module, "is_causal", True)
        attention_mask = _with_curve(curve, query, key.shape[2], attention_mask, is_causal)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def _with_curve(
    curve: DistanceCurve, query: Tensor, S: int, mask: Tensor | None, is_causal: bool
) -> Tensor:
    """(B or 1, H, T, S): what is added to the scores.

    A mask tells where the queries stand among the keys, since a static cache has room for more than
    there are: a token is the last one that it may see. (Padding may see less than itself.) Without
    one a single query is the last, and several are the first.
    """
    T, order = query.shape[2], torch.arange(S, device=query.device)
    first: Any = S - 1 if T == 1 and mask is None else 0
    if mask is not None and is_causal:
        visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        last = (visible * order).amax((0, 1, 3))  # (T,)
        first = (last - order[:T]).amax().clamp(max=S - T)
    at = first + order[:T, None]
    distance, values = (at - order).abs(), curve.of(order)
    bias = values.gather(1, distance.flatten().expand(len(values), -1)).view(1, -1, T, S)
    bias = bias.to(query.dtype)
    if mask is None and is_causal and T > 1:
        mask = order <= at
    if mask is None:
        return bias
    if mask.dtype == torch.bool:
        return bias.masked_fill(~mask, torch.finfo(bias.dtype).min)
    return bias + mask
