"""The playground's forward pass, held to torch."""

import pytest
import torch

from nanogpkant.generation import generate
from nanogpkant.playground.recipe import rounded_model

ALL = ("qkv", "attn_out", "mlp_in", "mlp_out")
GROUPS = {"kan.share": "group:2"}
MODELS = {
    "plain": {"sites": ()},
    "biases": {"sites": (), "bias": True, "activation": "gelu_tanh"},
    "bspline": {"sites": ALL, "bias": True, "kan.prenorm": "rms"},
    "outside": {"sites": ALL, "kan.outside": "linear", "kan.spline_order": 2, "kan.base": "none"},
    "scaled": {"sites": ALL, "kan.spline_scale": True, "kan.grid_range": (-2.0, 2.0)},
    "hat": {"sites": ALL, "kan.basis": "hat", "kan.outside": "linear", "kan.base": "gelu"},
    "rbf": {"sites": ALL, "kan.basis": "rbf", "kan.base": "gelu_tanh"},
    "chebyshev": {"sites": ALL, "kan.basis": "chebyshev", "kan.degree": 4},
    "fourier": {"sites": ALL, "kan.basis": "fourier", "kan.base": "even"},
    "shared": {"sites": ALL, **GROUPS, "kan.basis": "fourier", "kan.base": "gpt"},
    "rational": {"sites": ALL, **GROUPS, "kan.basis": "rational", "kan.degree": 4},
    "rational of degree 1": {"sites": ALL, **GROUPS, "kan.basis": "rational", "kan.degree": 1},
    "lines": {"sites": ALL, "kan.share": "input", "kan.basis": "line", "kan.base": "silu"},
    "atoms": {"sites": ALL, "kan.share": "atoms:3"},
    "swiglu": {"sites": ("mlp_in", "mlp_out"), "activation": "swiglu", "norm": "rms"},
    "curve": {"position": "curve", "activation": "even", "norm": "rms"},
    "curve on": {"position": "curve", "curve.beyond": "linear", "curve.basis": "bspline"},
    "buckets": {"position": "curve+rope", "curve.scale": "buckets", "curve.knots": 6},
    "slopes": {"position": "slopes", "activation": "relu2", "norm_weight": False},
    "alibi": {"position": "alibi", "activation": "leaky_relu2", "n_head": 4},
    "modern": {"position": "rope", "norm": "rms", "qk_norm": True, "activation": "xielu"}
    | {"conv": "taps", "value_residual": True, "tied": False, "logit_softcap": 5.0},
    "decay": {"position": "none", "conv": "decay", "activation": "silu"},
    "found": {"position": "curve", "activation": "even_cosine"},
    "cosines": {"position": "rope+curve", "conv": "curve", "score_degree": 3},
    "temperature": {"position": "learned", "score_degree": 1},
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_greedy_text_are_torchs(name, shaken, run_node):
    """Logits of a block, and 200 tokens, far beyond it."""
    settings = dict(MODELS[name])
    model = shaken(settings.pop("sites", ()), **settings)
    ids = torch.randint(0, 11, (1, 8))
    with torch.no_grad():
        wanted = model(ids)[0]
        written = [int(token) for token in generate(model, ids[:, :3], 200, temperature=0)]
    code = """
      const logits = model.logits(model.forward(values, new Cache(model)));
      const writer = new Writer(model, values.slice(0, 3)), written = [];
      for (let i = 0; i < 200; i++) {
        written.push(draw(writer.next(), 0, 0, Math.random));
        writer.ids.push(written.at(-1));
      }
      return {logits, written};"""
    found = run_node(code, ids[0].tolist(), model)
    torch.testing.assert_close(
        torch.tensor(found["logits"]).view_as(wanted), wanted, atol=2e-5, rtol=1e-4
    )
    assert found["written"] == written


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_rounded_weights_are_those_of_the_rounded_model(weights, shaken, run_node):
    model = shaken(ALL, tied=False)
    ids = torch.randint(0, 11, (1, 8))
    with torch.no_grad():
        exact, wanted = model(ids)[0], rounded_model(model, weights)(ids)[0]
    code = "return model.logits(model.forward(values, new Cache(model)));"
    logits = torch.tensor(run_node(code, ids[0].tolist(), model, weights)).view_as(wanted)
    torch.testing.assert_close(logits, wanted, atol=2e-5, rtol=1e-4)
    assert (exact - wanted).abs().max() > 1e-4


def test_without_webassembly_the_logits_are_the_same(shaken, run_node):
    model = shaken(ALL)
    ids = torch.randint(0, 11, (8,)).tolist()
    code = """
      const compiled = model.logits(model.forward(values, new Cache(model)));
      globalThis.WebAssembly = undefined;
      const plain = new Model(given.recipe, tensors);
      const logits = plain.logits(plain.forward(values, new Cache(plain)));
      return [compiled, logits, [plain.kernel.compiled === null]];"""
    compiled, logits, is_plain = run_node(code, ids, model)
    assert is_plain == [True]
    torch.testing.assert_close(torch.tensor(logits), torch.tensor(compiled), atol=2e-5, rtol=1e-4)


def test_the_loss_of_a_text_is_torchs(shaken, run_node):
    """In windows of a block, as evaluate has it; and again from a later block on."""
    import numpy as np

    from nanogpkant.evaluation import evaluate

    model = shaken(("mlp_out",), position="curve")
    ids = torch.randint(0, 11, (30,))
    wanted = evaluate(model, np.asarray(ids, dtype=np.uint16), 4).loss
    code = """
      const judge = new Judge(model, values), goesOn = async () => true;
      const losses = [];
      for (const block of [0, 1, 5]) losses.push(await judge.loss(block, goesOn));
      return losses;"""
    assert run_node(code, ids.tolist(), model) == pytest.approx([wanted] * 3, abs=2e-5)


def test_draws_follow_the_probabilities(run_node):
    code = """
      const next = random(7), counts = [0, 0, 0, 0], few = [0, 0, 0, 0];
      for (let i = 0; i < 20000; i++) counts[draw(values, 0.5, 0, next)]++;
      for (let i = 0; i < 2000; i++) few[draw(values, 0.5, 2, next)]++;
      return [counts.map((n) => n / 20000), few];"""
    logits = torch.tensor([0.3, -1.0, 0.9, 0.1])
    shares, few = run_node(code, logits.tolist())
    assert shares == pytest.approx((logits / 0.5).softmax(0).tolist(), abs=0.015)
    assert few[1] == few[3] == 0


TEXTS = ["Speak, friend, and enter.\n  I've 12 ünïcödé letters…\n", "a", "\t\n x   "]


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_tokenizers_give_the_same_ids_and_text(kind, run_node):
    from nanogpkant.data.tokenizer import ByteTokenizer, CharTokenizer, train_bpe

    if kind == "char":
        tokenizer = CharTokenizer(sorted(set("".join(TEXTS))))
    else:
        tokenizer = ByteTokenizer() if kind == "byte" else train_bpe(TEXTS * 3, 300)
    given = {"tokenizer": {"type": kind, **tokenizer.as_json()}, "texts": TEXTS}
    code = """
      const tokenizer = makeTokenizer(values.tokenizer);
      return values.texts.map((text) => {
        const ids = tokenizer.encode(text);
        return {ids, text: tokenizer.pieces(ids).join("")};
      });"""
    for text, found in zip(TEXTS, run_node(code, given), strict=True):
        assert found == {"ids": tokenizer.encode(text).tolist(), "text": text}
