"""kanify: the same function with KAN layers, in models of transformers, of torch and of ours."""

import copy
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import FOLDS, GATES, MODELS, bend, inputs, make, where_of
from torch import nn

import nanogpkant as ng
from nanogpkant import BSpline, KANLinear
from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.cli import main
from nanogpkant.conversion.kanify import KINDS, base_of, candidates
from nanogpkant.kan import BASE_FUNCTIONS, kan_layers
from nanogpkant.kan.activation import LearnedActivation
from nanogpkant.kan.curve import DistanceCurve

transformers = pytest.importorskip("transformers")

every = pytest.mark.parametrize("name", MODELS)


@every
@torch.no_grad()
def test_logits_stay_the_same_and_activations_are_folded(name: str) -> None:
    model, x = make(name), inputs(name)
    before = model(**x).logits
    answer = ng.kanify(model, where=where_of(name))
    assert answer.model is model
    torch.testing.assert_close(model(**x).logits, before, rtol=0, atol=1e-5)
    folded = {row["base"] for row in answer.rows if row["folded"]}
    assert folded == ({FOLDS[name]} if name in FOLDS else set())
    gates = {row["base"] for row in answer.rows if row["kind"] == "gate"}
    assert gates == ({GATES[name]} if name in GATES else set())
    bend(model)
    assert not torch.allclose(model(**x).logits, before, atol=1e-2)
    rows = {row["name"]: row for row in answer.rows}
    assert set(kan_layers(model)) == {n for n, row in rows.items() if row["kind"] != "gate"}
    for layer, row in rows.items():
        own = sum(p.numel() for p in model.get_submodule(layer).parameters())
        assert own == row["parameters"] == row["bytes"] // 4


FUNCTIONS = [("edge", "bspline"), ("edge", BSpline(3)), ("input", "hat"), ("group:4", "rbf")]
FUNCTIONS += [("atoms:2", "chebyshev"), ("edge", "fourier"), ("group:2", "rational")]


@pytest.mark.parametrize(("share", "basis"), FUNCTIONS)
@torch.no_grad()
def test_every_basis_and_form_of_sharing(share: str, basis: Any) -> None:
    model, x = make("gpt2"), inputs("gpt2")
    before = model(**x).logits
    ng.kanify(model, share=share, basis=basis)
    torch.testing.assert_close(model(**x).logits, before, rtol=0, atol=1e-5)


def test_a_dry_run_changes_nothing_and_prints_a_table() -> None:
    model = make("llama")
    kind, state = type(model), {n: p.clone() for n, p in model.state_dict().items()}
    answer = ng.kanify(model, where=["mlp", "gate"], dry_run=True)
    assert type(model) is kind
    assert all(torch.equal(p, state[n]) for n, p in model.state_dict().items())
    assert "act_fn" in answer.words()
    assert answer.as_dict()["total"]["flops"] == answer.as_dict()["total"]["flops_before"]
    json.dumps(answer.as_dict())
    applied = ng.kanify(model, where=["mlp", "gate"])
    assert applied.rows == answer.rows


# What a process without this package finds of a saved model; its folder and auto class follow.
READER = """
import sys, torch
sys.modules["nanogpkant"] = None
import transformers
from safetensors.torch import load_file, save_file
for auto, folder in zip(sys.argv[1::2], sys.argv[2::2]):
    model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True).eval()
    model.save_pretrained(f"{folder}/again")
    model = getattr(transformers, auto).from_pretrained(f"{folder}/again", trust_remote_code=True)
    x = load_file(f"{folder}/inputs.safetensors")
    save_file({"logits": model.eval()(**x).logits.detach()}, f"{folder}/found.safetensors")
"""


def test_saved_models_load_by_auto_classes_without_this_package(tmp_path, monkeypatch) -> None:
    from safetensors.torch import load_file, save_file

    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    autos = {"gpt2": "AutoModelForCausalLM", "llama": "AutoModelForCausalLM"}
    autos |= {"bert": "AutoModelForMaskedLM", "vit": "AutoModelForImageClassification"}
    expected, arguments = {}, []
    for name, auto in autos.items():
        model, x, folder = make(name), inputs(name), tmp_path / name
        ng.kanify(model, where=[*where_of(name), *["distance"] * (name in ("llama", "bert"))])
        bend(model)
        layers = kan_layers(model).values()
        layer = next(each for each in layers if isinstance(each, KANLinear))
        layer.refine(16)  # the grid is saved as it is then
        for curve in (each for each in layers if isinstance(each, DistanceCurve)):
            nn.init.normal_(curve.weight)
            curve.refine(22)  # as are the knots
        expected[name] = model(**x).logits.detach()
        model.save_pretrained(folder)
        save_file(x, folder / "inputs.safetensors")
        arguments += [auto, str(folder)]
        ours = ng.load_kanified(folder).eval()
        assert [type(each) for each in kan_layers(ours).values()] == [type(e) for e in layers]
        torch.testing.assert_close(ours(**x).logits, expected[name], rtol=0, atol=1e-5)
    done = subprocess.run(
        [sys.executable, "-c", READER, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name, logits in expected.items():
        found = load_file(tmp_path / name / "found.safetensors")["logits"]
        torch.testing.assert_close(found, logits, rtol=0, atol=1e-5)


def test_without_trust_a_saved_model_is_refused_and_not_loaded_as_another(tmp_path) -> None:
    model = make("llama")
    ng.kanify(model, where=["gate"])
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="trust_remote_code"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", trust_remote_code=False)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_all_ways_of_running_a_model_still_work(name: str) -> None:
    plain, x = make(name), inputs(name)["input_ids"]
    model = copy.deepcopy(plain)
    ng.kanify(model, where=where_of(name))
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    written = [m.generate(x, use_cache=c, **options) for m in (plain, model) for c in (False, True)]
    assert all(torch.equal(each, written[0]) for each in written)
    states = [m(x, output_hidden_states=True).hidden_states for m in (plain, model)]
    assert len(states[0]) == len(states[1])
    for a, b in zip(*states, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    embedded = model(inputs_embeds=model.get_input_embeddings()(x)).logits
    torch.testing.assert_close(embedded, model(x).logits, rtol=0, atol=1e-5)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train().zero_grad()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model(x, labels=x, use_cache=False).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_trainer_trains_saves_and_resumes(tmp_path) -> None:
    pytest.importorskip("accelerate")
    model, ids = make("llama"), torch.randint(1, 61, (8, 9))
    ng.kanify(model, where=["mlp", "gate"])
    rows = [{"input_ids": row, "labels": row} for row in ids]
    settings = {"max_steps": 2, "save_steps": 2, "per_device_train_batch_size": 4, "report_to": []}
    settings |= {"use_cpu": True, "disable_tqdm": True, "logging_steps": 1, "learning_rate": 1e-3}
    folder = tmp_path / "trained"
    arguments = transformers.TrainingArguments(str(folder), **settings)
    transformers.Trainer(model, arguments, train_dataset=rows).train()
    loaded = ng.load_kanified(folder / "checkpoint-2")
    torch.testing.assert_close(loaded.eval()(ids).logits, model.eval()(ids).logits)
    more = transformers.TrainingArguments(str(folder), **settings | {"max_steps": 3})
    trainer = transformers.Trainer(loaded, more, train_dataset=rows)
    assert trainer.train(resume_from_checkpoint=True).global_step == 3


def test_a_second_kanify_adds_layers(tmp_path) -> None:
    model, x = make("llama"), inputs("llama")
    before = model(**x).logits.detach()
    ng.kanify(model, where=["mlp"])
    ng.kanify(model, where=["*.0.self_attn.q_proj"], share="edge")
    model.save_pretrained(tmp_path / "m")
    loaded = ng.load_kanified(tmp_path / "m").eval()
    torch.testing.assert_close(loaded(**x).logits, before, rtol=0, atol=1e-5)
    assert len(kan_layers(loaded)) == 3


# Torch's own modules.


def test_neighbours_in_a_sequential_are_folded_unless_something_stands_between() -> None:
    for activation, base in ((nn.ReLU(), "relu"), (nn.GELU("tanh"), "gelu_tanh")):
        mlp = nn.Sequential(nn.Linear(3, 8), activation, nn.Linear(8, 2))
        x, twin = torch.randn(4, 3), copy.deepcopy(mlp)
        rows = ng.kanify(mlp, share="input").rows
        assert [row["base"] for row in rows] == ["identity", base]
        torch.testing.assert_close(mlp(x), twin(x))
    apart = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 2))
    assert [row["folded"] for row in ng.kanify(apart, where=["*"], share="edge").rows] == ["", ""]


class Between(nn.Module):
    """The names of a plain MLP, with something between activation and last layer."""

    def __init__(self, between: nn.Module, act: Callable = F.gelu) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(8, 16), act, nn.Linear(16, 8)
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.between(self.act(self.fc1(x))))


@pytest.mark.parametrize("between", [nn.Dropout(0.5), nn.LayerNorm(16)], ids=repr)
def test_an_activation_stays_where_moving_it_would_change_training_or_the_function(between) -> None:
    mlp, random = Between(between).train(), torch.get_rng_state()
    rows = ng.kanify(mlp).rows
    assert [row["folded"] for row in rows] == ["", ""]
    assert mlp.act is F.gelu
    assert mlp.between.training
    assert torch.equal(torch.get_rng_state(), random)


def test_a_dropout_of_nothing_and_an_empty_norm_as_timm_has_them_keep_nothing_apart() -> None:
    mlp, x = Between(nn.Sequential(nn.Dropout(0.0), nn.Identity()), nn.GELU()), torch.randn(4, 8)
    before = mlp(x)
    assert [row["base"] for row in ng.kanify(mlp).rows] == ["identity", "gelu"]
    torch.testing.assert_close(mlp(x), before)


def test_an_activation_without_a_base_function_stays_in_front() -> None:
    mlp, x = Between(nn.Identity(), torch.tanh), torch.randn(4, 8)
    before = mlp(x)
    assert [row["base"] for row in ng.kanify(mlp).rows] == ["identity", "identity"]
    torch.testing.assert_close(mlp(x), before)


def test_parameters_stay_the_same_objects_where_they_can_and_keep_their_settings() -> None:
    mlp = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)).to(torch.bfloat16)
    mlp[2].weight.requires_grad_(False)
    bias = mlp[2].bias
    ng.kanify(mlp)
    assert mlp[2].bias is bias
    assert not mlp[2].weight.requires_grad
    assert mlp[2].coefficients.requires_grad
    assert {p.dtype for p in mlp.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("base", [base for base in BASE_FUNCTIONS if base != "none"])
def test_activations_are_told_by_their_values(base: str) -> None:
    function = BASE_FUNCTIONS[base]
    assert function and base_of(function[0]) == base
    assert base_of(lambda x: function[0](x) + 1e-6) is None


def test_a_learned_activation_recomputes_and_has_right_gradients() -> None:
    from nanogpkant.kan import Features, Shared

    gate = LearnedActivation(Features(Shared(BSpline(3), groups=2), "silu"), dtype=torch.float64)
    nn.init.normal_(gate.coefficients)
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, _: gate(x), (x, gate.coefficients))
    with pytest.raises(ValueError, match="not one learned function"):
        LearnedActivation(Features(BSpline()))


# Names: folders and runs.


def test_a_folder_becomes_a_folder_and_keeps_its_other_files(tmp_path, capsys) -> None:
    model, x = make("llama"), inputs("llama")
    model.save_pretrained(tmp_path / "plain")
    (tmp_path / "plain" / "tokenizer.json").write_text("{}")
    to = tmp_path / "kan"
    assert main(["kanify", str(tmp_path / "plain"), "--out", str(to), "--where", "gate"]) == 0
    assert "act_fn" in capsys.readouterr().out
    assert (to / "tokenizer.json").read_text() == "{}"
    found = ng.load_kanified(to).eval()(**x).logits
    torch.testing.assert_close(found, model(**x).logits, rtol=0, atol=1e-5)
    more = ng.kanify(str(to), out=str(tmp_path / "more"), where=["mlp"])
    torch.testing.assert_close(more.model(**x).logits, found, rtol=0, atol=1e-5)


def test_weights_that_transformers_renames_come_back(tmp_path) -> None:
    """Its own classes write some under the names of other versions, and find them again."""
    model, x = make("neox"), inputs("neox")
    model.save_pretrained(tmp_path / "plain")
    ng.kanify(str(tmp_path / "plain"), out=str(tmp_path / "kan"))
    again = ng.load_kanified(tmp_path / "kan").eval()
    torch.testing.assert_close(again(**x).logits, model(**x).logits, rtol=0, atol=1e-5)


def test_a_run_becomes_a_run_that_writes_the_same(plain_run, tmp_path) -> None:
    assert ng.kanify(str(plain_run), dry_run=True, share="edge").model is None
    made = ng.kanify(str(plain_run), out=str(tmp_path / "kan"), share="edge")
    text = [
        ng.sample(run, prompt="Speak", tokens=10, seed=1, device="cpu").texts
        for run in (str(plain_run), str(made.out))
    ]
    assert text[0] == text[1]
    assert set(kan_layers(ng.load(str(made.out), device="cpu").model)) == {
        row["name"] for row in made.rows
    }


# Bad input.


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    return model


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
    model[2].register_forward_hook(lambda module, x, y: 2 * y)
    return model


def quantised() -> nn.Module:
    class Int8(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return input

    return nn.Sequential(Int8(8, 8))


BAD = [
    (lambda: nn.Sequential(nn.Conv2d(3, 8, 3)), {}, "no linear layer"),
    (quantised, {}, "no linear layer"),
    (lambda: nn.MultiheadAttention(8, 2), {}, "no linear layer"),
    (tied, {}, "is tied to 2"),
    (lambda: make("gpt2"), {"where": ["lm_head"]}, "is tied to transformer.wte"),
    (lambda: make("gpt2"), {"where": ["*.c_prj"]}, "matches no layer .*did you mean"),
    (lambda: make("gpt2"), {"where": ["gate"]}, "matches no layer"),
    (lambda: make("gpt2"), {"where": ["*ln_1"]}, "is a LayerNorm"),
    (lambda: make("llama", hidden_act="tanh"), {"where": ["gate"]}, "gates start as silu"),
    (lambda: make("llama"), {"where": ["gate"], "share": "edge"}, "one function a unit"),
    (lambda: make("gpt2"), {"share": "group:7"}, "32 inputs do not split into 7"),
    (lambda: make("gpt2"), {"share": "groups"}, "share is 'groups'"),
    (lambda: make("gpt2"), {"basis": "bsplin"}, "did you mean bspline"),
    (lambda: make("gpt2"), {"basis": "rational", "share": "edge"}, "--share edge"),
    (lambda: nn.Sequential(nn.Linear(8, 8, device="meta")), {"where": ["*"]}, "no values"),
    (lambda: nn.Linear(8, 8), {"where": ["*"]}, "no linear layer"),
    (lambda: nn.Sequential(nn.LazyLinear(8)), {}, "no linear layer"),
    (hooked, {}, "has forward hooks"),
    (lambda: make("gpt2"), {"out": "x"}, "--out x: is for a name"),
]


@pytest.mark.parametrize(("model", "options", "message"), BAD)
def test_bad_input_is_one_line_and_the_model_stays_as_it_was(model, options, message) -> None:
    model = model()
    before = repr(model)
    with pytest.raises(UserError, match=message) as error:
        ng.kanify(model, **options)
    assert "\n" not in str(error.value)
    assert repr(model) == before


def test_quantised_weights_are_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    model[0].weight = nn.Parameter(torch.ones(8, 8, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UsageError, match="quantised"):
        ng.kanify(model, where=["0"])


def test_bad_names_and_folders(tmp_path, plain_run, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--out: name the folder"):
        ng.kanify(str(plain_run))
    with pytest.raises(UserError, match="nothing_here"):
        ng.kanify("nothing_here", out="x")
    with pytest.raises(UsageError, match="has the kinds mlp, attention"):
        ng.kanify(str(plain_run), out="x", where=["gate"])
    for text, message in (("[]", "no configuration"), ('{"architectures": ["X"]}', "names X")):
        (tmp_path / "m").mkdir(exist_ok=True)
        (tmp_path / "m" / "config.json").write_text(text)
        with pytest.raises(UserError, match=message):
            ng.kanify("m", out="x")
        with pytest.raises(UserError, match="no kan_of"):
            ng.load_kanified("m")
    assert not (tmp_path / "x").exists()
    model = make("llama")
    ng.kanify(model)
    with pytest.raises(ValueError, match=r"model\.push_to_hub"):
        model.save_pretrained("y", push_to_hub=True)


def test_kinds_are_those_of_the_help() -> None:
    assert all(kind in ng.kanify.__doc__ for kind in KINDS)


def test_candidates_of_a_timm_vit() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timm = pytest.importorskip("timm")
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval()
    x = torch.randn(1, 3, 32, 32)
    before = vit(x)
    assert [c.base for c in candidates(vit).values() if c.folded] == ["gelu", "gelu"]
    ng.kanify(vit, where=["mlp", "attention"])
    torch.testing.assert_close(vit(x), before, rtol=0, atol=1e-5)
