"""Where a model can start from: a run of ours, or a GPT-2, opened alike."""

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from nanogpkant.base.errors import UserError
from nanogpkant.config import DataConfig, RunConfig, load_config
from nanogpkant.conversion.gpt2 import (
    NAMES,
    download,
    is_gpt2_folder,
    read_shape,
    read_weights,
)
from nanogpkant.conversion.vocabulary import read_tokenizer
from nanogpkant.data import load_tokenizer
from nanogpkant.data.tokenizer import Tokenizer
from nanogpkant.kan.features import Features
from nanogpkant.model.gpt import GPT
from nanogpkant.pretrained import PREFIX
from nanogpkant.run.checkpoint import Checkpoint, load_checkpoint
from nanogpkant.run.folder import open_run
from nanogpkant.run.load import load_weights


@dataclass(frozen=True)
class Loaded(Checkpoint):
    """Weights in memory, for what takes a checkpoint."""

    tensors: dict[str, Tensor] = field(repr=False)
    layers: dict[str, Features]

    def weights(self) -> dict[str, Tensor]:
        return dict(self.tensors)

    def features(self) -> dict[str, Features]:
        return self.layers


@dataclass(frozen=True)
class Source:
    """A trained model to start from."""

    name: str
    """as it was asked for: a run, a name of GPT-2 or a folder"""
    config: RunConfig
    """a run's own; of GPT-2 the model, and the data "none" """
    checkpoint: Checkpoint
    tokenizer: Tokenizer | None
    """None: a folder of GPT-2 that has none"""
    data_fingerprint: str
    """of the data that ``config`` names; "" for none"""

    def model(self) -> GPT:
        """The model as it is.

        Raises:
            UserError: a run whose weights do not fit its configuration.
        """
        vocab_size = len(self.checkpoint.weights()["tokens.weight"])
        model = GPT(self.config.model, vocab_size)
        load_weights(model, self.checkpoint)
        return model


def open_source(name: str) -> Source:
    """A run folder, ``pretrained:NAME``, a name of GPT-2, or the folder of a GPT-2.

    Raises:
        UserError: it is none of them, it is damaged, it computes what our model cannot, or the Hub
            cannot be reached.
    """
    path = Path(name)
    if name in NAMES:
        return _gpt2(name, download(name))
    if is_gpt2_folder(path):
        return _gpt2(name, path)
    if not name.startswith(PREFIX) and not (path / "config.yaml").is_file():
        known = f"a GPT-2 folder (config.json), or one of {', '.join(NAMES)}"
        raise UserError(f"{name} is not a run (config.yaml), {known}")
    run = open_run(path)
    return Source(
        name,
        load_config(run.config_file),
        load_checkpoint(run, "best"),
        load_tokenizer(run.tokenizer_file),
        run.data_fingerprint(),
    )


def _gpt2(name: str, folder: Path) -> Source:
    config = RunConfig(f"GPT-2 from {name}", read_shape(folder), DataConfig(dataset="none"))
    weights, tokenizer = read_weights(folder), read_tokenizer(folder)
    rows = len(weights["tokens.weight"])
    if tokenizer is not None and tokenizer.vocab_size != rows:
        have = tokenizer.vocab_size
        remedy = f"transformers' resize_token_embeddings({have}) makes them fit"
        raise UserError(f"{folder} has {rows} embeddings and a tokenizer of {have}: {remedy}")
    return Source(name, config, Loaded(folder, 0, weights, {}), tokenizer, "")
