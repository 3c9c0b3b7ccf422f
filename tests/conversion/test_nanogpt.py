"""Checkpoints of nanoGPT's layout and of the original nanoGPKANT become runs.

The models here are written from their formulas; a file that the test saves stands in for theirs.
"""

import math
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_others import Efficient
from torch import Tensor, nn

import nanogpkant as ng
from nanogpkant.base.errors import UserError
from nanogpkant.cli import main

TEXT = "Speak, friend, and enter.\nI hear you.\n"
CHARACTERS = sorted(set(TEXT))
ARGUMENTS = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 16, "bias": False}
ARGUMENTS |= {"vocab_size": len(CHARACTERS), "dropout": 0.2}


class Stack(nn.Module):
    """The original's KAN: layers of efficient-kan."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Efficient(n, m) for n, m in pairwise(sizes))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Block(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool, is_kan: bool) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = (nn.LayerNorm(width, bias=bias) for _ in range(2))
        self.attn, self.mlp = nn.Module(), nn.Module()
        if is_kan:
            self.attn.c_attn, self.attn.c_proj = Stack(width, 3 * width), Stack(width, width)
            self.mlp.kan = Stack(width, 4 * width, width)
        else:
            self.attn.c_attn = nn.Linear(width, 3 * width, bias)
            self.attn.c_proj = nn.Linear(width, width, bias)
            self.mlp.c_fc = nn.Linear(width, 4 * width, bias)
            self.mlp.c_proj = nn.Linear(4 * width, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.attn.c_attn(self.ln_1(x)).split(C, 2)
        q, k, v = (t.view(B, T, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.mT / math.sqrt(C // self.heads)
        scores = scores.masked_fill(~torch.ones(T, T).tril().bool(), -math.inf)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C)
        x = x + self.attn.c_proj(y)
        z = self.ln_2(x)
        if hasattr(self.mlp, "kan"):
            return x + self.mlp.kan(z)
        return x + self.mlp.c_proj(F.gelu(self.mlp.c_fc(z)))


class Theirs(nn.Module):
    """nanoGPT's model, or the original nanoGPKANT's."""

    def __init__(self, is_kan: bool, bias: bool) -> None:
        super().__init__()
        width, size = ARGUMENTS["n_embd"], ARGUMENTS["vocab_size"]
        blocks = [Block(width, ARGUMENTS["n_head"], bias, is_kan) for _ in range(2)]
        parts = {"wte": nn.Embedding(size, width), "h": nn.ModuleList(blocks)}
        parts |= {"wpe": nn.Embedding(ARGUMENTS["block_size"], width)}
        self.transformer = nn.ModuleDict(parts | {"ln_f": nn.LayerNorm(width, bias=bias)})
        self.lm_head = nn.Linear(width, size, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.transformer["wte"](ids) + self.transformer["wpe"](torch.arange(ids.shape[1]))
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


def save(folder: Path, is_kan: bool, bias: bool = False, **changes: Any) -> Theirs:
    model = Theirs(is_kan, bias)
    state = {f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    saved = {"model": state, "model_args": ARGUMENTS | {"bias": bias}, "iter_num": 250}
    saved |= {"best_val_loss": torch.tensor(1.5), "config": {"out_dir": "x"}, "optimizer": {}}
    torch.save(saved | changes, folder / "ckpt.pt")
    return model


def save_meta(file: Path, characters: list[str] = CHARACTERS) -> None:
    ids = dict(enumerate(characters))
    meta = {"vocab_size": len(ids), "itos": ids, "stoi": {c: i for i, c in ids.items()}}
    file.write_bytes(pickle.dumps(meta))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("is_kan", [False, True])
def test_a_checkpoint_becomes_a_run_of_the_same_logits(is_kan, bias, tmp_path) -> None:
    theirs = save(tmp_path, is_kan, bias)
    save_meta(tmp_path / "meta.pkl")
    kind = "nanogpkant-original" if is_kan else "nanogpt"
    command = ["convert", str(tmp_path / "ckpt.pt"), "--out", str(tmp_path / "run")]
    assert main([*command, "--from", kind]) == 0
    run = ng.load(str(tmp_path / "run"), device="cpu")
    assert run.step == 250
    assert run.tokenizer.characters == tuple(CHARACTERS)
    assert len(run.config.model.kan.sites) == 4 * is_kan
    ids = torch.randint(len(CHARACTERS), (3, 16))
    torch.testing.assert_close(run.model(ids), theirs(ids), rtol=1e-4, atol=1e-5)
    assert len(run.generate("Speak", tokens=5)) == 5


def test_a_text_has_the_characters_too_and_kan_sites_can_be_added(tmp_path) -> None:
    theirs, text = save(tmp_path, is_kan=False), tmp_path / "input.txt"
    text.write_text(TEXT)
    settings = {"model.kan.sites": ["mlp_out"], "vocabulary": str(text)}
    ng.convert(str(tmp_path / "ckpt.pt"), out=str(tmp_path / "run"), **settings)
    run = ng.load(str(tmp_path / "run"), device="cpu")
    ids = torch.randint(len(CHARACTERS), (3, 16))
    torch.testing.assert_close(run.model(ids), theirs(ids), rtol=1e-4, atol=1e-5)
    made = ng.kanify(str(tmp_path / "ckpt.pt"), dry_run=True)
    assert [row["base"] for row in made.rows] == ["identity", "gelu"] * 2


class Danger:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_bad_checkpoints_are_one_line(tmp_path, plain_run) -> None:
    file, out = tmp_path / "ckpt.pt", str(tmp_path / "run")

    def refused(message: str, source: Path | str = file, **options: Any) -> None:
        with pytest.raises(UserError, match=message) as error:
            ng.convert(str(source), out=out, **options)
        assert "\n" not in str(error.value)
        assert not Path(out).exists()

    refused("cannot be read")
    file.write_bytes(b"x")
    refused("cannot be read with weights_only")
    torch.save({"model": Danger(), "model_args": {}}, file)
    refused("cannot be read with weights_only")
    torch.save([1, 2], file)
    refused("no checkpoint of nanoGPT: it needs model and model_args")
    model = save(tmp_path, is_kan=True)
    refused("no tokenizer beside it")
    save_meta(tmp_path / "meta.pkl")
    refused("--from nanogpt: it is a checkpoint of nanogpkant-original", from_="nanogpt")
    refused("are for a ckpt.pt", plain_run, from_="nanogpt")
    state = model.state_dict()
    for name, message in (
        ("other.weight", "other.weight is no weight of nanoGPT"),
        ("transformer.h.0.attn.extra", "attention.extra|attn.extra"),
    ):
        save(tmp_path, True, model=state | {name: torch.zeros(1)})
        refused(message)
    lost = {n: t for n, t in state.items() if not n.endswith("h.0.attn.c_proj.layers.0.grid")}
    save(tmp_path, True, model=lost)
    refused(r"blocks\.0\.attention\.out has no grid")
    save(tmp_path, True, model=state | {"transformer.h.0.ln_1.weight": torch.zeros(3)})
    refused("norm_1.weight")
    save(tmp_path, True, model={"x": 1})
    refused("no state dict of tensors")
    save(tmp_path, True, model_args={"n_layer": 2})
    refused("model_args have no n_head")
    save(tmp_path, True, model_args=ARGUMENTS | {"n_head": 3})
    refused("describe no model")
    save(tmp_path, True)
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(Danger()))
    refused("no meta.pkl of characters: it holds a builtins.print")
    save_meta(tmp_path / "meta.pkl", CHARACTERS[::-1])
    refused("not in the order")
    save_meta(tmp_path / "meta.pkl", CHARACTERS[:-1])
    refused(f"it has {len(CHARACTERS) - 1} characters")
