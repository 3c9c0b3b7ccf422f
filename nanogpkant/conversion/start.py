"""A new model that starts as another one: with the same shape, and KAN layers wherever asked."""

import torch

from nanogpkant.base.errors import UserError
from nanogpkant.config import ModelConfig, RunConfig
from nanogpkant.conversion.carry import carried, check_exact
from nanogpkant.conversion.source import Loaded, Source, open_source
from nanogpkant.data import TokenData
from nanogpkant.kan import kan_layers
from nanogpkant.model.gpt import GPT
from nanogpkant.run.load import load_weights

SHAPE = ("n_layer", "n_head", "n_embd", "mlp", "mlp_ratio", "bias")  # to be the source's
REMEDY = "prepare the text with its tokenizer (nanogpkant prepare --tokenizer), or another text"
FREE = ("sites", "backend", "init", "dropout")  # settings of KAN layers that need not be


def start(model: GPT, source: Source) -> None:
    """Give a model the function of a source. KAN layers take over plain projections exactly.

    Args:
        model: of the source's shape and vocabulary, or with a shorter context. Its projections may
            be KAN where the source's are plain; KAN layers of the source need the same settings.

    Raises:
        UserError: the shapes, vocabularies or KAN layers do not go together.
        UsageError: KAN settings with which the function would not be kept.
    """
    check_fits(model.config, source.config.model)
    weights = source.checkpoint.weights()
    if (have := len(weights["tokens.weight"])) != model.vocab_size:
        raise UserError(
            f"it has {have} tokens, and the text of --data.dataset {model.vocab_size}: {REMEDY}"
        )
    weights["positions.weight"] = weights["positions.weight"][: model.config.block_size]
    for name, layer in kan_layers(model).items():
        plain = weights.get(f"{name}.weight")
        if plain is not None and plain.dim() == 2:
            weights |= {f"{name}.{key}": value for key, value in carried(plain, layer).items()}
    at = source.checkpoint
    load_weights(model, Loaded(at.folder, at.step, weights, at.features()))


def check_fits(ours: ModelConfig, theirs: ModelConfig) -> None:
    """Refuse to start a model from one that it cannot be the continuation of.

    Raises:
        UserError: another shape, or KAN layers that mean other functions.
        UsageError: KAN settings with which a plain projection would not be kept.
    """
    differing = [name for name in SHAPE if getattr(ours, name) != getattr(theirs, name)]
    if differing:
        flags = [f"--model.{name} {_as_flag(getattr(theirs, name))}" for name in differing]
        raise UserError(f"it has {' '.join(flags)}: give that too")
    if ours.block_size > theirs.block_size:
        longest = f"it has {theirs.block_size} positions, and that is the longest context it takes"
        raise UserError(f"--model.block_size {ours.block_size}: {longest}")
    for name in vars(theirs.kan) if theirs.kan.sites else ():
        value = getattr(theirs.kan, name)
        if name not in FREE and value != getattr(ours.kan, name):
            raise UserError(f"it was trained with --model.kan.{name} {value}; give that too")
    if lost := [site for site in theirs.kan.sites if site not in ours.kan.sites]:
        raise UserError(f"its {lost[0]} is KAN, and so it has to stay: --model.kan.sites needs it")
    for site in ours.kan.sites:
        if site not in theirs.kan.sites:
            check_exact(site, ours)


def _as_flag(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_vocabulary(source: Source, data: TokenData) -> None:
    """Refuse data whose tokens are not those of the source, as far as that has a tokenizer.

    Raises:
        UserError: they differ.
    """
    if source.tokenizer is not None and source.tokenizer != data.tokenizer:
        raise UserError(f"its vocabulary is not that of --data.dataset: {REMEDY}")


def start_from(model: GPT, config: RunConfig, data: TokenData) -> None:
    """Give a new model what ``train.init_from`` names.

    Raises:
        UserError, UsageError: see ``open_source``, ``check_vocabulary`` and ``start``.
    """
    name = config.train.init_from
    try:
        source = open_source(name)
        check_vocabulary(source, data)
        start(model, source)
    except UserError as error:
        raise type(error)(f"--train.init_from {name}: {error}") from error


def build(source: Source, config: ModelConfig, vocab_size: int) -> GPT:
    """A model of the given configuration that starts as the source.

    Raises:
        UserError, UsageError: see ``start``.
    """
    model = GPT(config, vocab_size)
    start(model, source)
    return model


@torch.no_grad()
def largest_change_of_logits(model: GPT, source: Source) -> float:
    """How far a model's logits are from the source's on random tokens: by rounding alone."""
    length = min(model.config.block_size, 64)
    random = torch.Generator("cpu").manual_seed(0)
    idx = torch.randint(model.vocab_size, (1, length), generator=random, device="cpu")
    was_training = model.training
    change = (model.eval()(idx) - source.model().eval()(idx)).abs().max().item()
    model.train(was_training)
    return change
