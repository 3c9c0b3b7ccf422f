"""Learning the functions alone, their adapters, and PEFT's LoRA on KAN layers."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import nanogpkant as ng
from nanogpkant import KANLinear
from nanogpkant.base.errors import UsageError, UserError


def mlp(share: str = "group:4", seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
    return ng.kanify(model, where=["2"], share=share).model


def train(model: nn.Module, steps: int = 5) -> None:
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer, x = torch.optim.Adam(learned, 1e-2), torch.randn(64, 8)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - x.sin()).square().mean().backward()
        optimizer.step()


def test_only_the_functions_learn() -> None:
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    assert ng.train_only(model, "functions") == 4 * 12  # groups, a line and 11 splines
    train(model)
    changed = {n for n, p in model.state_dict().items() if not torch.equal(p, before[n])}
    assert changed == {"2.coefficients"}
    assert ng.train_only(model, "biases") == 24
    assert ng.train_only(model, "all") == sum(p.numel() for p in model.parameters())


def test_functions_of_edges_and_curves_and_gates_are_functions_too(tiny_gpt) -> None:
    assert ng.train_only(mlp("edge")) == 8 * 12 * 16
    model = tiny_gpt(["mlp_out"], position="curve", **{"kan.share": "group:2"})
    names = set()
    ng.train_only(model)
    names = {n.rpartition(".")[2] for n, p in model.named_parameters() if p.requires_grad}
    assert names == {"coefficients", "weight"}


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(UserError, match="no functions to train: kanify"):
        ng.train_only(nn.Linear(2, 2))
    with pytest.raises(UserError, match="no biases"):
        ng.train_only(nn.Linear(2, 2, bias=False), "biases")
    with pytest.raises(UsageError, match="did you mean functions"):
        ng.train_only(mlp(), "function")


def test_an_adapter_holds_the_functions_and_fits_its_base_alone(tmp_path: Path) -> None:
    model, x, file = mlp(), torch.randn(5, 8), tmp_path / "shakespeare.safetensors"
    base = copy.deepcopy(model)
    ng.train_only(model)
    train(model)
    layer = model[2]
    layer.refine(16)
    train(model)
    assert ng.save_functions(model, file) == file.stat().st_size < 3000
    assert not torch.allclose(base(x), model(x))
    ng.load_functions(base, file)
    assert torch.equal(base(x), model(x))
    other, before = mlp(seed=1), mlp(seed=1)
    with pytest.raises(UserError, match="another base"):
        ng.load_functions(other, file)
    with pytest.raises(UserError, match=r"another model: 2\.coefficients is missing from the"):
        ng.load_functions(mlp("edge"), file)
    assert torch.equal(other(x), before(x))


def test_damaged_adapters_are_one_line(tmp_path: Path) -> None:
    model, file = mlp(), tmp_path / "a.safetensors"
    with pytest.raises(UserError, match="cannot read"):
        ng.load_functions(model, file)
    file.write_bytes(b"no safetensors")
    with pytest.raises(UserError, match="cannot read"):
        ng.load_functions(model, file)
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(UserError, match="no adapter"):
        ng.load_functions(model, file)
    ng.save_functions(model, file)
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    tensors = load_file(file)
    for wrong in (tensors["2.coefficients"][:, :2], tensors["2.coefficients"] * torch.nan):
        save_file({"2.coefficients": wrong.contiguous()}, file, about)
        with pytest.raises(UserError, match=r"damaged: 2\.coefficients"):
            ng.load_functions(model, file)
    for features in ("{}", "[]", '{"2": "x"}', "?"):
        save_file(tensors, file, about | {"features": features})
        with pytest.raises(UserError, match="damaged"):
            ng.load_functions(model, file)
    with pytest.raises(UserError, match="no functions to save"):
        ng.save_functions(nn.Linear(2, 2), file)


@pytest.mark.parametrize("share", ["group:4", "edge", "atoms:2"])
def test_lora_by_peft_trains_merges_saves_and_loads(share: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    shape = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(**shape, num_attention_heads=2)
    model, x = transformers.LlamaForCausalLM(config).eval(), torch.randint(61, (2, 7))
    ng.kanify(model, share=share)
    base, before = copy.deepcopy(model), model(x).logits.detach()
    with pytest.raises(ValueError, match="not supported"):
        peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(target_modules=["down_proj"]))
    settings = ng.lora(peft.LoraConfig(target_modules=["down_proj"], r=2, lora_dropout=0.1))
    tuned = peft.get_peft_model(model, settings)
    torch.testing.assert_close(tuned.eval()(x).logits, before)
    optimizer = torch.optim.Adam([p for p in tuned.parameters() if p.requires_grad], 1e-1)
    for _ in range(3):
        optimizer.zero_grad()
        tuned.train()(x, labels=x).loss.backward()
        optimizer.step()
    after = tuned.eval()(x).logits.detach()
    assert not torch.allclose(after, before, atol=1e-3)
    with tuned.disable_adapter():
        torch.testing.assert_close(tuned(x).logits, before)
    tuned.save_pretrained(tmp_path / "lora")
    saved = ng.lora(peft.PeftConfig.from_pretrained(tmp_path / "lora"))
    again = peft.PeftModel.from_pretrained(base, tmp_path / "lora", config=saved).eval()
    torch.testing.assert_close(again(x).logits, after)
    again.merge_adapter()
    torch.testing.assert_close(again(x).logits, after, rtol=0, atol=1e-5)
    again.unmerge_adapter()
    torch.testing.assert_close(again(x).logits, after, rtol=0, atol=1e-5)
    half = copy.deepcopy(again).bfloat16()
    for name, parameter in half.named_parameters():
        if "lora_" in name:  # as PEFT keeps them beside weights of 16 bits
            parameter.data = parameter.data.float()
    assert half(x).logits.isfinite().all()
    merged = tuned.merge_and_unload(safe_merge=True)
    assert isinstance(merged.model.layers[0].mlp.down_proj, KANLinear)
    torch.testing.assert_close(merged(x).logits, after, rtol=0, atol=1e-5)
