"""GPT-2s that transformers saved, read by us, against transformers' own logits."""

import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from nanogpkant.base.errors import UserError
from nanogpkant.config import SITES, with_changes
from nanogpkant.conversion import build, open_source

pytest.importorskip("transformers")


def logits(model: nn.Module, idx: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = model(idx)
    return getattr(found, "logits", found)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation_function": "gelu", "n_inner": 20},
        {"n_layer": 1, "n_head": 1, "n_embd": 5, "vocab_size": 3, "n_positions": 9},
        {"activation_function": "gelu_pytorch_tanh", "reorder_and_upcast_attn": True},
    ],
    ids=str,
)
def test_logits_are_those_of_transformers(gpt2, changes: dict) -> None:
    folder, theirs = gpt2(**changes)
    source = open_source(str(folder))
    size = theirs.config.vocab_size
    idx = torch.randint(size, (3, 8))
    expected = logits(theirs, idx)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits(source.model().eval(), idx), expected, rtol=1e-4, atol=1e-4)
    config = with_changes(source.config.model, block_size=4, **{"kan.sites": list(SITES)})
    kan = build(source, config, size).eval()
    torch.testing.assert_close(
        logits(kan, idx[:, :4]), logits(theirs, idx[:, :4]), rtol=1e-4, atol=1e-4
    )


def test_the_layout_of_the_file_on_the_hub(gpt2, idx) -> None:
    """Names without the prefix, masks beside the weights, and half the precision."""
    folder, theirs = gpt2()
    theirs = theirs.bfloat16().float()
    tensors = {
        name.removeprefix("transformer."): tensor.bfloat16().contiguous()
        for name, tensor in theirs.state_dict().items()
        if not name.startswith("lm_head")
    }
    for layer in range(3):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 8, 8).tril()
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model = open_source(str(folder)).model().eval()
    assert model.tokens.weight.dtype == torch.float32
    torch.testing.assert_close(logits(model, idx), logits(theirs, idx), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False, and only True"),
        ({"activation_function": "relu"}, "activation_function is 'relu', and only gelu_new"),
        ({"add_cross_attention": True}, "add_cross_attention is True, and only False"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False, and only True"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06, and only 1e-05"),
        ({"model_type": "llama"}, "model_type is 'llama', and only 'gpt2'"),
        ({"n_layer": "three"}, "transformers cannot read"),
        ({"n_layer": 0}, "config.json describes no model: --model.n_layer 0"),
        ({"n_inner": -3}, "config.json describes no model: --model.mlp_ratio"),
        ({"n_layer": 4}, "transformer.h.3.attn.c_attn.bias is missing from .*another GPT-2"),
        ({"n_embd": 24}, "transformer.h.0.attn.c_attn.bias has another shape in"),
    ],
)
def test_another_layout_is_refused(gpt2, changes: dict, line: str) -> None:
    folder, _ = gpt2()
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(UserError, match=line):
        open_source(str(folder))


def without(folder: Path, name: str) -> None:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    del tensors[name]
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def with_more(folder: Path, name: str) -> None:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors[name] = torch.zeros(3)
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def cut(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])


def only_pickle(folder: Path, name: str) -> None:
    tensors = safetensors.torch.load_file(folder / name)
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "name", "line"),
    [
        (without, "transformer.h.1.mlp.c_fc.bias", "transformer.h.1.mlp.c_fc.bias is missing from"),
        (
            with_more,
            "transformer.h.1.crossattention.c_attn.weight",
            "crossattention.c_attn.weight is not expected in",
        ),
        (cut, "model.safetensors", "transformers cannot read"),
        (cut, "config.json", "is not valid JSON"),
        (only_pickle, "model.safetensors", "transformers cannot read .*model.safetensors"),
    ],
)
def test_damage_is_one_line(gpt2, damage, name: str, line: str) -> None:
    folder, _ = gpt2()
    damage(folder, name)
    with pytest.raises(UserError, match=line) as error:
        open_source(str(folder))
    assert "\n" not in str(error.value)


def test_a_tokenizer_that_does_not_fit_is_one_line(gpt2, bpe) -> None:
    pytest.importorskip("tiktoken")
    folder, _ = gpt2(vocab_size=320)
    bpe(folder)
    line = r"has 320 embeddings and a tokenizer of 288: .*resize_token_embeddings\(288\)"
    with pytest.raises(UserError, match=line):
        open_source(str(folder))


def test_what_is_no_source(tmp_path) -> None:
    with pytest.raises(
        UserError, match="is not a run.* the folder of a GPT-2 .*, gpt2, gpt2-medium"
    ):
        open_source(str(tmp_path))


@pytest.fixture
def ask_a_hub(tmp_path, monkeypatch) -> Callable[[str], tuple[str, float]]:
    """What training from gpt2 says where the Hub is at an address, and how long it takes."""
    from huggingface_hub import constants

    from nanogpkant.conversion import gpt2

    def ask(url: str) -> tuple[str, float]:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(gpt2, "TIMEOUT", 1)
        started = time.perf_counter()
        with pytest.raises(UserError) as error:
            open_source("gpt2")
        return str(error.value), time.perf_counter() - started

    return ask


def test_a_hub_that_refuses_is_one_line_at_once(ask_a_hub) -> None:
    line, seconds = ask_a_hub("http://127.0.0.1:9")
    assert line.startswith("cannot get openai-community/gpt2 from the Hugging Face Hub")
    assert "refused" in line
    assert "PATH of a folder" in line
    assert seconds < 30  # a second, on a machine that has nothing else to do


def test_a_hub_that_is_silent_does_not_hang(ask_a_hub) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        line, seconds = ask_a_hub(f"http://127.0.0.1:{server.getsockname()[1]}")
    assert "timed out" in line
    assert seconds < 60


def test_what_is_in_the_cache_needs_no_hub(gpt2, tmp_path, monkeypatch) -> None:
    """A folder in the place where huggingface_hub keeps what it has downloaded."""
    from huggingface_hub import constants

    from nanogpkant.conversion.gpt2 import FILES, download

    folder, _ = gpt2()
    for name in FILES:
        (folder / name).touch()
    cache = tmp_path / "hub" / "models--openai-community--gpt2"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    (cache / "snapshots").mkdir()
    folder.rename(cache / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert download("gpt2") == cache / "snapshots" / ("0" * 40)


def test_without_the_hubs_package_the_remedy_is_named(monkeypatch) -> None:
    from nanogpkant.conversion.gpt2 import download

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"gpt2 needs the huggingface_hub .*nanogpkant\[hf\]"):
        download("gpt2")
