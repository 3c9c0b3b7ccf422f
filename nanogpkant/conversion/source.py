"""Models to start from: runs and GPT-2s, opened alike."""

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from nanogpkant.base.errors import UserError
from nanogpkant.config import DataConfig, RunConfig
from nanogpkant.conversion.gpt2 import CONFIG, NAMES, download, read_shape, read_weights
from nanogpkant.conversion.vocabulary import read_tokenizer
from nanogpkant.data.tokenizer import Tokenizer
from nanogpkant.kan.features import Features
from nanogpkant.model.gpt import GPT
from nanogpkant.run.checkpoint import Checkpoint, load_checkpoint
from nanogpkant.run.folder import open_run
from nanogpkant.run.load import load_weights


@dataclass(frozen=True)
class Loaded(Checkpoint):
    """A checkpoint in memory."""

    tensors: dict[str, Tensor] = field(repr=False)
    layers: dict[str, Features]

    def weights(self) -> dict[str, Tensor]:
        return dict(self.tensors)

    def features(self) -> dict[str, Features]:
        return self.layers


@dataclass(frozen=True)
class ModelSource:
    """A trained model to start from."""

    name: str
    """as given: a run, a folder, or the name of a GPT-2"""
    config: RunConfig
    """a run's own; of a GPT-2 its shape, with the data "none" """
    checkpoint: Checkpoint
    tokenizer: Tokenizer | None
    """None: a GPT-2 folder without one"""
    data_fingerprint: str
    """of the data in ``config``; "" without data"""

    def model(self) -> GPT:
        """The model itself.

        Raises:
            UserError: weights that do not fit the configuration.
        """
        model = GPT(self.config.model, len(self.checkpoint.weights()["tokens.weight"]))
        load_weights(model, self.checkpoint)
        return model


def open_source(name: str) -> ModelSource:
    """Open a run, the folder of a GPT-2, or a GPT-2 by name.

    Args:
        name: a run as every command names one, a folder, or one of ``gpt2.NAMES``.

    Raises:
        UserError: none of these, a damaged one, one that our model cannot compute, or the Hub
            cannot be reached.
    """
    if name in NAMES:
        return _gpt2(name, download(name))
    if (Path(name) / CONFIG).is_file():
        return _gpt2(name, Path(name))
    try:
        run = open_run(name)
    except UserError as error:
        others = f"the folder of a GPT-2 (config.json), {', '.join(NAMES)}"
        raise UserError(f"{error}; a model can also start from {others}") from error
    return ModelSource(
        name,
        run.config(),
        load_checkpoint(run, "best"),
        run.tokenizer(),
        run.data_fingerprint(),
    )


def _gpt2(name: str, folder: Path) -> ModelSource:
    config = RunConfig(f"GPT-2 from {name}", read_shape(folder), DataConfig(dataset="none"))
    weights, tokenizer = read_weights(folder), read_tokenizer(folder)
    rows = len(weights["tokens.weight"])
    if tokenizer is not None and tokenizer.vocab_size != rows:
        sizes = f"{rows} embeddings and a tokenizer of {tokenizer.vocab_size}"
        remedy = f"transformers' resize_token_embeddings({tokenizer.vocab_size}) makes them fit"
        raise UserError(f"{folder} has {sizes}: {remedy}")
    return ModelSource(name, config, Loaded(folder, 0, weights, {}), tokenizer, "")
