"""Curves of distance in attention that exists: nothing changes, and then every head can learn."""

import copy
import json
from typing import Any

import pytest
import torch
from models import MODELS, inputs, make
from torch import nn

import nanogpkant as ng
from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.kan import kan_layers
from nanogpkant.kan.curve import DistanceCurve

transformers = pytest.importorskip("transformers")

TEXT = [name for name in MODELS if name != "vit"]
WRITERS = [name for name in TEXT if name != "bert"]


def curves_of(model: nn.Module) -> list[DistanceCurve]:
    return [each for each in model.modules() if isinstance(each, DistanceCurve)]


def curved(name: str, **changes: Any) -> Any:
    """A model with curves of random shapes, the same in all layers."""
    model = make(name, **changes)
    ng.kanify(model, where=["distance"])
    weight = torch.randn_like(curves_of(model)[0].weight)
    for curve in curves_of(model):
        curve.weight.data.copy_(weight)
    return model


@pytest.mark.parametrize("name", TEXT)
@torch.no_grad()
def test_logits_stay_the_same_and_every_attention_layer_gets_curves(name: str) -> None:
    model, x = make(name), inputs(name)
    before = model(**x).logits
    answer = ng.kanify(model, where=["distance"])
    torch.testing.assert_close(model(**x).logits, before, rtol=0, atol=1e-5)
    assert [(row["kind"], row["outputs"], row["parameters"]) for row in answer.rows] == [
        ("distance", 4, 4 * 12)
    ] * 2
    assert set(kan_layers(model)) == {row["name"] for row in answer.rows}
    for curve in curves_of(model):
        nn.init.normal_(curve.weight)
    assert not torch.allclose(model(**x).logits, before, atol=1e-2)


@pytest.mark.parametrize("name", TEXT)
@torch.no_grad()
def test_the_bias_is_that_of_an_attention_mask_made_by_hand(name: str) -> None:
    model, x = curved(name), inputs(name)["input_ids"]
    plain = make(name)
    plain.load_state_dict({n: v for n, v in model.state_dict().items() if "curve" not in n})
    order, values = torch.arange(x.shape[1]), curves_of(model)[0].of(torch.arange(x.shape[1]))
    distance = (order[:, None] - order).abs()
    mask = values[:, distance]  # (H, T, T)
    if name != "bert":
        mask = mask.masked_fill(order > order[:, None], torch.finfo(mask.dtype).min)
    wanted = plain(input_ids=x, attention_mask=mask.expand(len(x), -1, -1, -1)).logits
    torch.testing.assert_close(model(input_ids=x).logits, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", WRITERS)
@torch.no_grad()
def test_caches_padding_and_windows_do_not_move_the_distances(name: str) -> None:
    window = {"sliding_window": 5} if name == "mistral" else {}
    model, x = curved(name, **window), inputs(name)["input_ids"]
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    written = model.generate(x, use_cache=False, **options)
    assert torch.equal(model.generate(x, **options), written)
    if name != "gpt2":  # takes no static cache
        static = model.generate(x, cache_implementation="static", disable_compile=True, **options)
        assert torch.equal(static, written)
    for side in (slice(3, None), slice(0, -3)):
        padded, mask = torch.zeros(2, 12, dtype=torch.long), torch.zeros(2, 12, dtype=torch.long)
        padded[:, side], mask[:, side] = x, 1
        padded[1], mask[1] = padded[0].roll(1), 1
        place = (mask.cumsum(1) - 1).clamp(min=0)
        found = model(padded, attention_mask=mask, position_ids=place).logits[0, side]
        torch.testing.assert_close(found, model(x[:1]).logits[0], rtol=0, atol=1e-5)


def test_curves_learn_alone_and_are_saved_as_functions(tmp_path) -> None:
    """That whole models with curves are saved, too, test_kanify.py shows."""
    for name, layers in (("llama", 2), ("bert", 4)):
        model, x = make(name), inputs(name)
        ng.kanify(model, where=["distance", "mlp"])
        base = copy.deepcopy(model)
        assert ng.train_only(model) == 2 * 4 * 12 + layers * 8 * 12  # of curves, and of MLPs
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.1)
        model.train().gradient_checkpointing_enable()
        for _ in range(3):
            optimizer.zero_grad()
            model(**x, labels=x["input_ids"]).loss.backward()
            optimizer.step()
        curve = curves_of(model.eval())[0]
        assert curve.weight.abs().max() > 0.1
        curve.refine(22)  # other knots are saved, too
        ng.save_functions(model, tmp_path / "functions.safetensors")
        ng.load_functions(base, tmp_path / "functions.safetensors")
        torch.testing.assert_close(base(**x).logits, model(**x).logits, rtol=0, atol=1e-5)


def test_some_layers_alone_and_the_rest_later() -> None:
    model, x = make("llama"), inputs("llama")
    before = model(**x).logits.detach()
    ng.kanify(model, where=["*.layers.1.*distance_curve"])
    assert list(kan_layers(model)) == ["model.layers.1.self_attn.distance_curve"]
    dry = ng.kanify(model, where=["distance"], dry_run=True)
    assert [row["name"] for row in dry.rows] == ["model.layers.0.self_attn.distance_curve"]
    assert "distance" in dry.words()
    ng.kanify(model, where=["distance"])
    assert len(curves_of(model)) == 2
    with pytest.raises(UsageError, match="has a bias of distance already"):
        ng.kanify(model, where=["distance"])
    torch.testing.assert_close(model(**x).logits, before, rtol=0, atol=1e-5)


def test_interpret_describes_and_draws_the_heads(tmp_path) -> None:
    model = curved("llama")
    for curve in curves_of(model):
        curve.weight.data.copy_(-torch.arange(12.0)[:, None].expand_as(curve.weight[0]))
    found = ng.interpret(model, out=str(tmp_path))
    assert len(found.heads) == 8
    assert found.heads["accepted"].all()
    assert set(found.heads["verdict"]) == {"a line in log2(1 + d)"}
    assert len(found.draw_curves().axes) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"curves.csv", "curves.png"}
    for look in (lambda: found.edges, found.draw, lambda: found.prune(0.5)):
        with pytest.raises(UserError, match=r"curves of distance alone: see heads and draw_curves"):
            look()
    ng.kanify(model, where=["mlp"])
    both = ng.interpret(model, inputs=inputs("llama"), layers=["model.layers.0"])
    assert len(both.curves) == 1
    assert list(both.layers) == ["model.layers.0.mlp.down_proj"]


def test_a_run_gets_curves_and_writes_the_same(plain_run, tmp_path) -> None:
    made = ng.kanify(str(plain_run), out=str(tmp_path / "curves"), where=["distance"])
    run = ng.load(str(made.out), device="cpu")
    assert "curve" in run.config.model.positions
    assert set(kan_layers(run.model)) == {row["name"] for row in made.rows}
    before = ng.load(str(plain_run), device="cpu")
    x = torch.randint(run.model.vocab_size, (1, 9))
    torch.testing.assert_close(run.model(x), before.model(x))
    model = before.model
    ng.kanify(model, where=["distance"], share="edge")
    torch.testing.assert_close(model(x), run.model(x))
    with pytest.raises(UsageError, match="--where distance: its attention has a bias of distance"):
        ng.kanify(str(made.out), dry_run=True, where=["distance"])


BAD = [
    (lambda: nn.TransformerEncoderLayer(8, 2), "TransformerEncoderLayer is none"),
    (lambda: make("vit"), "ViTForImageClassification is none"),
    (
        lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(d_model=8, d_kv=4, num_heads=2, num_layers=1, d_ff=8)
        ),
        "a decoder beside its encoder",
    ),
    (
        lambda: transformers.BloomForCausalLM(
            transformers.BloomConfig(hidden_size=8, n_layer=1, n_head=2, vocab_size=30)
        ),
        "its attention takes no function of ours",
    ),
    (
        lambda: transformers.Gemma2ForCausalLM(
            transformers.Gemma2Config(
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=4,
                vocab_size=30,
            )
        ),
        "softcap|more than scaled",
    ),
]


@pytest.mark.parametrize(("model", "message"), BAD)
def test_attention_that_cannot_take_them_is_refused_in_one_line(model, message) -> None:
    model = model()
    training = model.training
    state = repr(model), type(model), getattr(model, "config", None)
    before = json.dumps(str(state[2])), getattr(state[2], "_attn_implementation", None)
    with pytest.raises(UsageError, match=message) as error:
        ng.kanify(model, where=["distance"])
    assert "\n" not in str(error.value)
    assert (repr(model), type(model)) == state[:2]
    assert (json.dumps(str(state[2])), getattr(state[2], "_attn_implementation", None)) == before
    assert model.training == training


def test_another_attention_would_leave_the_curves_out() -> None:
    model = curved("llama")
    with pytest.raises(ValueError, match="eager would leave out the curves"):
        model.set_attn_implementation("eager")
    other = make("llama")
    ng.kanify(other)
    other.set_attn_implementation("eager")
