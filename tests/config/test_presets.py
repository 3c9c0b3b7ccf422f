"""The presets of GPT-2's size, and the vocabularies that presets are counted with."""

import json

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from nanogpkant.cli import main
from nanogpkant.config import load_preset, preset_names
from nanogpkant.data import DATASETS, ByteTokenizer, TokenData, prepare
from nanogpkant.model.counting import GPT2_TOKENS, VOCABULARIES, count

GPT2 = ("gpt2", "gpt2_kan")
TINY = {"model.n_layer": 2, "model.n_head": 2, "model.n_embd": 16, "model.block_size": 16}
ONE_STEP = {"train.max_iters": 1, "train.batch_size": 4, "train.sample_tokens": 0}


def test_gpt2_is_hugging_faces():
    with torch.device("meta"):
        theirs = GPT2LMHeadModel(GPT2Config())
    model = load_preset("gpt2")[1].model
    assert GPT2Config().vocab_size == GPT2_TOKENS
    assert count(model, GPT2_TOKENS).parameters == sum(p.numel() for p in theirs.parameters())
    assert model.block_size == GPT2Config().n_positions


def test_its_kan_costs_the_same():
    plain, kan = (count(load_preset(name)[1].model, GPT2_TOKENS) for name in GPT2)
    assert 0 < kan.parameters - plain.parameters < 2e-5 * plain.parameters
    assert kan.flops_per_token == plain.flops_per_token


@pytest.mark.parametrize("name", GPT2)
def test_half_a_million_tokens_a_step(name):
    config = load_preset(name)[1]
    assert config.tokens_per_step == 491_520  # nanoGPT's
    assert config.train.batch_size % 8 == 0


@pytest.mark.parametrize("name", GPT2)
def test_one_step_of_a_tiny_one(name, corpus, tmp_path, capsys):
    data = {"data.dataset": "corpus", "data.file": corpus, "data.dir": tmp_path / "data"}
    changes = TINY | ONE_STEP | data | {"train.device": "cpu", "train.dtype": "float32"}
    flags = [word for key, value in changes.items() for word in (f"--{key}", str(value))]
    assert main(["train", name, *flags, "--out", str(tmp_path / "run"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["step"] == 1 and summary["val_loss"] < 10


def test_every_dataset_has_a_known_vocabulary():
    assert set(VOCABULARIES) == set(DATASETS)
    for name in preset_names():
        assert load_preset(name)[1].data.dataset in VOCABULARIES
    for name, dataset in DATASETS.items():
        if dataset.tokenizer == "gpt2":
            assert VOCABULARIES[name] == GPT2_TOKENS
        if dataset.tokenizer == "byte":
            assert VOCABULARIES[name] == ByteTokenizer().vocab_size
        if dataset.characters:
            assert VOCABULARIES[name] == len(dataset.characters)


OFFLINE = [d.name for d in DATASETS.values() if not d.needs_network]


@pytest.mark.parametrize("name", OFFLINE)
def test_vocabularies_are_those_of_the_prepared_text(name, tmp_path):
    assert TokenData.open(prepare(name, tmp_path)).vocab_size == VOCABULARIES[name]
