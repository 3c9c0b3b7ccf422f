"""A new model with the function of another one: the same shape, and KAN layers where wanted."""

import torch

from nanogpkant.base.errors import UserError, prefixed
from nanogpkant.config import ModelConfig, RunConfig, settings_that_differ
from nanogpkant.conversion.plain_to_kan import check_exact, kan_state
from nanogpkant.conversion.source import Loaded, ModelSource, open_source
from nanogpkant.data import TokenData
from nanogpkant.kan import kan_layers
from nanogpkant.kan.curve import DistanceCurve
from nanogpkant.model.gpt import GPT
from nanogpkant.run.load import load_weights

FREE_SHAPE = ("block_size", "dropout", "init", "residual", "kan")  # may differ from the source's
REMEDY = "prepare the text with its tokenizer (nanogpkant prepare --tokenizer), or another text"
FREE = ("sites", "backend", "init", "dropout")  # settings of KAN layers that may differ


def initialize(model: GPT, source: ModelSource) -> None:
    """Give a model the function of a source; KAN layers replace plain projections exactly.

    Args:
        model: of the source's shape and vocabulary, or with a shorter context. Its projections may
            be KAN where the source's are plain; KAN layers of the source need the same settings.

    Raises:
        UserError: shapes, vocabularies or KAN layers that do not fit.
        UsageError: KAN settings that would change the function.
    """
    check_fits(model.config, source.config.model)
    weights = source.checkpoint.weights()
    if (have := len(weights["tokens.weight"])) != model.vocab_size:
        raise UserError(
            f"it has {have} tokens, and the text of --data.dataset {model.vocab_size}: {REMEDY}"
        )
    if model.positions is not None:
        weights["positions.weight"] = weights["positions.weight"][: model.config.block_size]
    for name, layer in kan_layers(model).items():
        plain = weights.get(f"{name}.weight")
        if plain is not None and plain.dim() == 2:
            weights |= {f"{name}.{key}": value for key, value in kan_state(plain, layer).items()}
        elif plain is None and isinstance(layer, DistanceCurve):
            weights[f"{name}.weight"] = layer.weight.detach()  # zero: see adds_curves
    saved = source.checkpoint
    load_weights(model, Loaded(saved.folder, saved.step, weights, saved.features()))


def check_fits(ours: ModelConfig, theirs: ModelConfig) -> None:
    """Refuse a model that cannot start from another one.

    Raises:
        UserError: another shape, or other settings of the source's KAN layers.
        UsageError: KAN settings that would change the function of a plain projection.
    """
    free = FREE_SHAPE if "curve" not in theirs.positions else FREE_SHAPE[1:]
    free += ("position", "curve") if adds_curves(ours, theirs) else ()
    differing = settings_that_differ(theirs, ours, "model.").items()
    shape = [(name, value) for name, value in differing if name.split(".")[1] not in free]
    if shape:
        flags = [f"--{name} {str(value).lower()}" for name, value in shape]
        raise UserError(f"it has {' '.join(flags)}: give that too")
    if "learned" in theirs.positions and ours.block_size > theirs.block_size:
        longest = f"it has {theirs.block_size} positions; that is its longest context"
        raise UserError(f"--model.block_size {ours.block_size}: {longest}")
    for name in vars(theirs.kan) if theirs.kan.sites else ():
        value = getattr(theirs.kan, name)
        if name not in FREE and value != getattr(ours.kan, name):
            raise UserError(f"it was trained with --model.kan.{name} {value}; give that too")
    if lost := [site for site in theirs.kan.sites if site not in ours.kan.sites]:
        raise UserError(f"its {lost[0]} is KAN and has to stay so: add it to --model.kan.sites")
    for site in ours.kan.sites:
        if site not in theirs.kan.sites:
            check_exact(site, ours)


def adds_curves(ours: ModelConfig, theirs: ModelConfig) -> bool:
    """Whether a model is another one with curves of distance that start at zero."""
    others = set(ours.positions) - {"curve"}
    return (
        others < set(ours.positions)
        and others == set(theirs.positions) - {"none"}
        and ours.curve.start == "zero"
    )


def check_vocabulary(source: ModelSource, data: TokenData) -> None:
    """Refuse data with another tokenizer than the source's, where the source has one."""
    if source.tokenizer is not None and source.tokenizer != data.tokenizer:
        raise UserError(f"its vocabulary is not that of --data.dataset: {REMEDY}")


def start_from(model: GPT, config: RunConfig, data: TokenData) -> None:
    """Initialize a new model from ``train.init_from``; the data must have the source's tokenizer.

    Raises:
        UserError, UsageError: see ``open_source``, ``check_vocabulary`` and ``initialize``.
    """
    with prefixed(f"--train.init_from {config.train.init_from}"):
        source = open_source(config.train.init_from)
        check_vocabulary(source, data)
        initialize(model, source)


def build(source: ModelSource, config: ModelConfig, vocab_size: int) -> GPT:
    """A model of the given configuration with the source's function.

    Raises:
        UserError, UsageError: see ``initialize``.
    """
    model = GPT(config, vocab_size)
    initialize(model, source)
    return model


@torch.no_grad()
def largest_change_of_logits(model: GPT, source: ModelSource) -> float:
    """The largest absolute difference from the source's logits, on random tokens."""
    length = min(model.config.block_size, 64)
    random = torch.Generator("cpu").manual_seed(0)
    idx = torch.randint(model.vocab_size, (1, length), generator=random, device="cpu")
    return (model.eval()(idx) - source.model().eval()(idx)).abs().max().item()
