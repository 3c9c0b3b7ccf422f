"""What tests of convert share: small GPT-2s by transformers, and plain models of ours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nanogpkant.cli import main
from nanogpkant.config import ModelConfig, RunConfig
from nanogpkant.conversion import ModelSource
from nanogpkant.conversion.source import Loaded
from nanogpkant.model.gpt import GPT


@pytest.fixture
def gpt2(tmp_path: Path) -> Callable[..., Any]:
    """Save a small random GPT-2 to a folder as transformers does; returns folder and model."""
    transformers = pytest.importorskip("transformers")

    def make(name: str = "gpt2-tiny", **changes: Any) -> tuple[Path, nn.Module]:
        shape = {"vocab_size": 11, "n_positions": 8, "n_embd": 12, "n_layer": 3, "n_head": 3}
        ends = {"bos_token_id": 0, "eos_token_id": 0}
        config = transformers.GPT2Config(**(shape | ends | changes))
        model = transformers.GPT2LMHeadModel(config).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.4)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name, model

    return make


@pytest.fixture
def plain(tiny_config: Callable[..., ModelConfig]) -> Callable[..., tuple[ModelSource, GPT]]:
    """Make a plain model of 11 tokens with large weights, and the source that it is."""

    def make(**changes: Any) -> tuple[ModelSource, GPT]:
        config = tiny_config(**changes)
        model = GPT(config, 11).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.5)
        loaded = Loaded(Path("memory"), 0, dict(model.state_dict()), {})
        return ModelSource("plain", RunConfig(model=config), loaded, None, ""), model

    return make


@pytest.fixture
def idx() -> torch.Tensor:
    return torch.randint(11, (4, 8))


@pytest.fixture
def bpe(tmp_path: Path) -> Callable[..., Any]:
    """Train a small tokenizer of GPT-2's kind and save it as transformers would; both it and where.

    288 tokens: 256 bytes, 31 merges, and the end of text, which comes last as in GPT-2.
    """
    tokenizers = pytest.importorskip("tokenizers")

    def make(folder: Path | None = None) -> tuple[Any, Path]:
        folder = folder or tmp_path / "vocabulary"
        folder.mkdir(exist_ok=True)
        byte_level = tokenizers.pre_tokenizers.ByteLevel
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=287, initial_alphabet=byte_level.alphabet(), show_progress=False
        )
        text = "Speak, friend, and enter.\nI hear you, the friend of the speaker.\n" * 20
        tokenizer.train_from_iterator([text], trainer)
        tokenizer.add_special_tokens(["<|endoftext|>"])
        tokenizer.save(str(folder / "tokenizer.json"))
        return tokenizer, folder

    return make


@pytest.fixture(scope="session")
def plain_run(tiny_experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished plain run of the tiny experiment. Not to be changed."""
    flags = ["--model.kan.sites", "[]", "--model.kan.spline_scale", "false"]
    out = tmp_path_factory.mktemp("plain") / "plain"
    assert main(["train", str(tiny_experiment), *flags, "--out", str(out)]) == 0
    return out
