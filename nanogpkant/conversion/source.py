"""Models to start from: runs and GPT-2s, opened alike."""

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.config import DataConfig, RunConfig
from nanogpkant.conversion.gpt2 import CONFIG, NAMES, download, read_shape, read_weights
from nanogpkant.conversion.nanogpt import is_checkpoint, read_checkpoint, read_vocabulary
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


def open_source(name: str, kind: str = "auto", vocabulary: str | None = None) -> ModelSource:
    """Open a run, the folder of a GPT-2, a GPT-2 by name, or a checkpoint of nanoGPT's layout.

    Args:
        name: a run as every command names one, a folder, one of ``gpt2.NAMES``, or a ckpt.pt.
        kind, vocabulary: of a ckpt.pt: see ``nanogpt``.

    Raises:
        UserError: none of these, a damaged one, one that our model cannot compute, or the Hub
            cannot be reached.
        UsageError: ``kind`` or ``vocabulary`` with another source than a ckpt.pt.
    """
    if is_checkpoint(name):
        return _checkpoint(name, kind, vocabulary)
    if vocabulary is not None or kind != "auto":
        raise UsageError(f"--from and --vocabulary are for a ckpt.pt, and {name} is none")
    if name in NAMES:
        return _gpt2(name, download(name))
    if (Path(name) / CONFIG).is_file():
        return _gpt2(name, Path(name))
    try:
        run = open_run(name)
    except UserError as error:
        others = f"the folder of a GPT-2 (config.json), {', '.join(NAMES)}, a ckpt.pt"
        raise UserError(f"{error}; other sources: {others}") from error
    return ModelSource(
        name, run.config(), load_checkpoint(run, "best"), run.tokenizer(), run.data_fingerprint()
    )


def _checkpoint(name: str, kind: str, vocabulary: str | None) -> ModelSource:
    file = Path(name)
    shape, step, weights, features = read_checkpoint(file, kind)
    size = len(weights["tokens.weight"])
    tokenizer = read_vocabulary(Path(vocabulary) if vocabulary else None, file, size)
    config = RunConfig(f"a model from {name}", shape, DataConfig(dataset="none"))
    return ModelSource(name, config, Loaded(file, step, weights, features), tokenizer, "")


def _gpt2(name: str, folder: Path) -> ModelSource:
    config = RunConfig(f"GPT-2 from {name}", read_shape(folder), DataConfig(dataset="none"))
    weights, tokenizer = read_weights(folder), read_tokenizer(folder)
    rows = len(weights["tokens.weight"])
    if tokenizer is not None and tokenizer.vocab_size != rows:
        sizes = f"{rows} embeddings and a tokenizer of {tokenizer.vocab_size}"
        remedy = f"transformers' resize_token_embeddings({tokenizer.vocab_size}) makes them fit"
        raise UserError(f"{folder} has {sizes}: {remedy}")
    return ModelSource(name, config, Loaded(folder, 0, weights, {}), tokenizer, "")
