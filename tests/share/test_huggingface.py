"""Exported models in transformers, loaded by a process that cannot import this project."""

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nanogpkant.cli import main
from nanogpkant.config import ModelConfig, RunConfig
from nanogpkant.data import CharTokenizer
from nanogpkant.generation import generate
from nanogpkant.kan import BSpline, KANLinear
from nanogpkant.kan.grid import change_basis
from nanogpkant.kan.knots import transfer
from nanogpkant.kan.pruned import prune
from nanogpkant.kan.state import spline_of
from nanogpkant.model.gpt import GPT
from nanogpkant.run.load import TrainedModel, load_model
from nanogpkant.run.manifest import verify
from nanogpkant.share.huggingface import FILES, modeling_code, write_huggingface

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sharing.md"
OLD = Path(__file__).resolve().parents[1] / "old_runs"  # made by revision 1182e80
CLEAN = Path(__file__).with_name("clean_transformers.py")
TOKENIZER = CharTokenizer("Speak, frindt")
MLP = ["mlp_in", "mlp_out"]
ALL = ["qkv", "attn_out", "mlp_in", "mlp_out"]
SHARED = {"kan.share": "group:4"}

# Each: KAN sites, and changes of the configuration.
MODELS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "plain": ([], {}),
    "gated": ([], {"activation": "swiglu", "mlp_ratio": 1.5, "bias": True, "dropout": 0.1}),
    "gated_hat": (MLP, {"activation": "swiglu", "kan.basis": "hat", "kan.outside": "linear"}),
    "modern": (
        [],
        {"position": "rope+curve", "norm": "rms", "qk_norm": True, "activation": "xielu"}
        | {"value_residual": True, "tied": False, "logit_softcap": 9.0, "conv": "taps"},
    ),
    "curves": (
        MLP,
        {"position": "learned+curve", "curve.basis": "fourier", "curve.knots": 3, "conv": "curve"}
        | {"kan.basis": "chebyshev", "kan.prenorm": "rms"},
    ),
    "slopes": ([], {"position": "slopes", "activation": "even", "norm_weight": False}),
    "everywhere": (ALL, {"bias": True, "kan.base": "gpt"}),
    "linear": (MLP, {"kan.outside": "linear", "kan.base": "none", "kan.spline_order": 2}),
    "rbf": (MLP, {"kan.basis": "rbf", "kan.base": "gelu"}),
    "fourier": (MLP, {"kan.basis": "fourier", "kan.base": "identity"}),
    "rational": (MLP, SHARED | {"kan.basis": "rational", "kan.base": "none"}),
    "line": (MLP, SHARED | {"kan.basis": "line"}),
    "atoms": (MLP, {"kan.share": "atoms:3"}),
    "scale": (MLP, {"kan.spline_scale": True, "kan.init": "original"}),
    "moved": (ALL, {}),
    "groups_refined": (MLP, {"kan.share": "group:2", "kan.init": "whitened"}),
    "pruned": (MLP, {"kan.prenorm": "rms", "bias": True}),
    "pruned_refined": (MLP, {"kan.spline_scale": True}),
}


def change(name: str, model: GPT) -> None:
    """What the name of a model promises, done to its KAN layers."""
    for path, layer in list(model.named_modules()):
        if not isinstance(layer, KANLinear):
            continue
        if "refined" in name:
            layer.refine(6)
        if "moved" in name:
            uneven = BSpline(order=3, grid=(-2.0, -0.9, 0.3, 1.0, 2.0))
            change_basis(layer, uneven, transfer(spline_of(layer), uneven))
        if "pruned" in name:
            keep = torch.rand(layer.out_features, layer.in_features) > 0.6
            keep[1], keep[:, 2] = False, False
            model.set_submodule(path, prune(layer, keep, torch.randn(layer.out_features)))


@torch.no_grad()
def expected(model: GPT) -> dict[str, torch.Tensor]:
    ids = torch.randint(model.vocab_size, (3, model.config.block_size))
    greedy = list(generate(model, ids[:, :3], 5, temperature=0))
    return {
        "ids": ids,
        "logits": model(ids),
        "loss": model(ids[:, :-1], ids[:, 1:]),
        "greedy": torch.cat([ids[:, :3], torch.stack(greedy, 1)], 1),
    }


@pytest.fixture(scope="module")
def clean(
    tiny_config: Callable[..., ModelConfig],
    tiny_run: Path,
    tiny_experiment: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What a process without this project found of every model."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("hf")
    (root / "models").mkdir()
    for name, (sites, changes) in MODELS.items():
        folder = root / "models" / name
        folder.mkdir()
        config = tiny_config(sites, **changes)
        model = GPT(config, TOKENIZER.vocab_size).eval()
        nn.init.normal_(model.tokens.weight)  # logits of a size that errors show in
        for part in (model.positions, model.head):
            if part is not None:
                nn.init.normal_(part.weight)
        change(name, model)
        for layer in model.modules():
            if isinstance(layer, KANLinear):
                layer.fold_scale()
        trained = TrainedModel(model, TOKENIZER, RunConfig(model=config), 0)
        write_huggingface(folder, trained, model.state_dict())
        save_file(expected(model), folder / "expected.safetensors")
    to, run = root / "models" / "exported", root / "run"
    shutil.copytree(tiny_run, run)
    more = ["--resume", "--train.max_iters", "40"]  # until its logits are of that size, too
    assert main(["train", str(tiny_experiment), "--out", str(run), *more]) == 0
    assert main(["export", str(run), "--out", str(to), "--format", "hf"]) == 0
    save_file(expected(load_model(run).model), to / "expected.safetensors")
    (root / "shared").mkdir()
    (root / "shared" / "hf").symlink_to(to)  # as docs/sharing.md calls it

    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "home")}
    command = [sys.executable, CLEAN, root / "models", root, PAGE, OLD]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_process_could_not_import_this_project(clean):
    assert clean["clean"] == "No module named 'nanogpkant'"


@pytest.mark.parametrize("name", [*MODELS, "exported"])
def test_the_model_is_the_same(clean, name: str):
    found = clean[name]
    scale = found.pop("scale")
    assert scale > 0.3
    bound = 1e-5 * max(1, scale)  # float32 rounds at the logits' scale
    for what, figure in found.items():
        assert figure == 0 if what.startswith("greedy") else figure < bound, (what, figure)


def test_an_export_of_an_earlier_version_still_loads_and_can_be_pushed(clean):
    assert clean["old export"] < 1e-5
    assert verify(OLD / "hf_export", FILES) == 60  # today's manifest may name its files


def test_it_is_saved_and_loaded_again_without_a_pickle(clean):
    assert clean["more"]["saved and loaded"] < 1e-6
    files = clean["more"]["files"]
    assert "modeling_nanogpkant.py" in files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    assert clean["more"]["ties"]


def test_it_loads_in_bfloat16(clean):
    assert clean["more"]["bfloat16 weights"] == ["torch.bfloat16"]
    assert 0 < clean["more"]["bfloat16"] < 0.1


def test_it_writes_up_to_its_context_and_no_further(clean):
    assert clean["more"]["default length"] == 16
    assert clean["more"]["too long"] == "17 tokens do not fit in block_size 16"
    assert clean["more"]["beams"] == 5


def test_it_can_start_afresh_train_and_take_more_tokens(clean):
    assert all(clean["more"]["fresh"])
    assert clean["more"]["fresh differs"] > 0.1
    assert clean["more"]["without gradient"] == []
    assert clean["more"]["resized"] == 20


def test_training_there_brings_no_pruned_edge_back(clean):
    of_those_gone, how_many, of_the_rest = clean["pruned gradient"]
    assert of_those_gone == 0
    assert how_many > 100
    assert of_the_rest > 1e-4


def test_the_cards_code_and_the_pages_run(clean):
    assert clean["more"]["page prints"].startswith("['Speak, ")
    assert len(clean["more"]["card prints"]) == 16 + 1  # the whole context, and print's new line
    assert clean["more"]["text"] == "Speak, friend"


def test_the_code_is_this_projects_and_needs_no_other_package():
    """Every class of it is, word for word, the class of the module that is named above it."""
    code = modeling_code()
    tree, here = ast.parse(code), code.splitlines()
    packages = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            packages.add(node.module.split(".")[0])
    assert packages - sys.stdlib_module_names == {"torch", "transformers"}
    for mine in (GPT, KANLinear):
        (node,) = [n for n in tree.body if getattr(n, "name", None) == mine.__name__]
        theirs = here[node.lineno - 1 : node.end_lineno]
        source = inspect.getsource(mine).splitlines()
        assert set(filter(None, theirs)) <= set(source)
        assert mine is KANLinear or theirs == source  # some methods of a layer are left out


def test_names_that_nothing_defines_are_not_left(tmp_path: Path):
    ruff = shutil.which("ruff", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    file = tmp_path / "code.py"
    file.write_text(modeling_code().replace("# ruff: noqa", ""), encoding="utf-8")
    check = [ruff, "check", "--isolated", "--select", "F,E9", "--target-version", "py311"]
    done = subprocess.run([*check, str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_manifest_covers_the_folder(tiny_run: Path, tmp_path: Path):
    to = tmp_path / "to"
    assert main(["export", str(tiny_run), "--out", str(to), "--format", "hf", "--bfloat16"]) == 0
    manifest = json.loads((to / "manifest.json").read_text(encoding="utf-8"))
    assert {*manifest["sha256"], "manifest.json", "README.md"} == {p.name for p in to.iterdir()}
    config = json.loads((to / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "bfloat16"


def test_without_the_tokenizers_package_it_says_so(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.delitem(sys.modules, "nanogpkant.share.tokenizers_json", raising=False)
    assert main(["export", str(tiny_run), "--out", str(tmp_path / "to"), "--format", "hf"]) == 1
    assert "pip install 'nanogpkant[hf]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["everywhere", "groups_refined", "modern"])
def test_hidden_states_embeddings_and_recomputing(name: str, tiny_config) -> None:
    from nanogpkant.share.modeling_nanogpkant import NanoGPKANTConfig, NanoGPKANTForCausalLM

    sites, changes = MODELS[name]
    gpt = vars(tiny_config(sites, **changes))
    parts = {key: vars(gpt[key]) for key in ("kan", "curve")}
    model = NanoGPKANTForCausalLM(NanoGPKANTConfig(gpt=gpt | parts, vocab_size=11)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    ids = torch.randint(11, (2, 8))
    found = model.eval()(ids, output_hidden_states=True)
    assert len(found.hidden_states) == 3
    torch.testing.assert_close(model.model.logits(found.hidden_states[-1]), found.logits)
    torch.testing.assert_close(found.logits, model.model(ids))
    embedded = model.get_input_embeddings()(ids)
    torch.testing.assert_close(model(inputs_embeds=embedded).logits, found.logits)
    for given in ({}, {"input_ids": ids, "inputs_embeds": embedded}):
        with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
            model(**given)
    gradients = []
    for recomputes in (False, True):
        if recomputes:
            model.gradient_checkpointing_enable()
        model.train().zero_grad()
        model(ids, labels=ids).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)
    if model.model.config.value_residual:
        model.gradient_checkpointing_enable({"use_reentrant": True})
        with pytest.raises(ValueError, match="value_residual needs gradient_checkpointing_kwargs"):
            model(ids, labels=ids)
