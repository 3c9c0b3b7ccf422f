"""The fine-tuning presets fit GPT-2 as transformers describes it, of which no weights are here."""

import json
from pathlib import Path

import pytest
import torch

from nanogpkant.config import SITES, load_preset
from nanogpkant.conversion.gpt2 import read_shape
from nanogpkant.conversion.start import check_fits
from nanogpkant.model.counting import count
from nanogpkant.model.gpt import GPT

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("name", ["gpt2_finetune_shakespeare", "gpt2_kan_finetune_shakespeare"])
def test_presets_start_from_gpt2(name: str, tmp_path: Path) -> None:
    theirs = transformers.GPT2Config()  # the smallest GPT-2
    (tmp_path / "config.json").write_text(json.dumps(theirs.to_dict()))
    _, config = load_preset(name)
    check_fits(config.model, read_shape(tmp_path))
    assert config.train.init_from == "gpt2"
    assert config.model.kan.sites == (list(SITES) if "kan" in name else [])
    with torch.device("meta"):  # parameters are counted, not stored
        model = GPT(config.model, theirs.vocab_size)
    parameters = sum(p.numel() for p in model.parameters())
    assert count(config.model, theirs.vocab_size).parameters == parameters
    with torch.device("meta"):
        plain = sum(p.numel() for p in transformers.GPT2LMHeadModel(theirs).parameters())
    functions = 12 * 4 * 8 * 5 if "kan" in name else 0  # layers, sites, groups, numbers
    assert parameters == plain + functions
