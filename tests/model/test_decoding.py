"""The compiled step against the model's own forward pass."""

import math

import pytest
import torch
from torch import Tensor, nn

from nanogpkant import generation
from nanogpkant.base.errors import UsageError
from nanogpkant.config import SITES
from nanogpkant.generation import generate
from nanogpkant.kan.backends import native
from nanogpkant.kan.layer import kan_layers
from nanogpkant.model import decoding
from nanogpkant.model.cache import Cache
from nanogpkant.model.decoding import Decoder, UnsupportedError, make_decoder
from nanogpkant.model.gpt import GPT

needs_compiler = pytest.mark.skipif(
    native.compiled(decoding.SOURCE, decoding.STEP, frozenset({"BASE": "GELU", "GATED": 0}.items()))
    is None,
    reason="needs a C compiler",
)
CPU = torch.device("cpu")
CURVE = {"position": "curve", "curve.knots": 4}
PLAIN = {
    "default": {},
    "biases": {"bias": True},
    "rms": {"norm": "rms"},
    "norm without weights": {"norm_weight": False},
    "qk_norm": {"qk_norm": True},
    "untied": {"tied": False},
    "softcap": {"logit_softcap": 2.0},
    "one head, odd sizes": {"n_head": 1, "n_embd": 31, "mlp_ratio": 2.3},
    "several panels": {"n_embd": 72, "n_head": 3},
    **{
        a: {"activation": a}
        for a in ("gelu_tanh", "silu", "even", "even_cosine", "relu2", "leaky_relu2", "swiglu")
    },
    **{p: {"position": p} for p in ("rope", "alibi", "slopes", "none")},
    "curve": CURVE,
    "learned + curve": CURVE | {"position": "learned+curve"},
    "rope + curve": CURVE | {"position": "rope+curve"},
}
KAN = {
    "bspline": {},
    "line beyond": {"kan.outside": "linear"},
    "hat": {"kan.basis": "hat"},
    "bspline of order 5": {"kan.spline_order": 5, "kan.grid_size": 2},
    "rational": {"kan.share": "group:4", "kan.basis": "rational"},
    "chebyshev atoms": {"kan.basis": "chebyshev", "kan.share": "atoms:3"},
    "fourier, gpt's base": {"kan.basis": "fourier", "kan.share": "group:4", "kan.base": "gpt"},
    "one for all inputs": {"kan.share": "input", "kan.basis": "rational"},
    "no base": {"kan.base": "none"},
    "rms": {"kan.prenorm": "rms"},
    "spline_scale": {"kan.spline_scale": True},
    "biases": {"bias": True},
}


@pytest.fixture
def made(tiny_gpt):
    """A float32 model whose parameters are not those of its start."""

    def make(sites: tuple[str, ...] = (), **options) -> GPT:
        model = tiny_gpt(sites, **options).float().eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        return model

    return make


def check_steps(model: GPT, texts: int, ids: Tensor, cached: int) -> None:
    """Some tokens by torch's operations, two by themselves, the rest at once, each with a cache."""
    cache, decoder = Cache(model.config, texts, CPU, torch.float32), Decoder(model, texts)
    ends = [cached + 1, cached + 2, ids.shape[1]]
    with torch.no_grad():
        wanted = model(ids)[:, [end - 1 for end in ends]]
        if cached:
            model(ids[:, :cached], cache=cache)
        logits = [decoder(ids[:, cache.length : end], cache) for end in ends]
    torch.testing.assert_close(torch.stack(logits, 1), wanted, rtol=1e-4, atol=2e-5)


@needs_compiler
@pytest.mark.usefixtures("nan_buffers")
@pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN)
def test_plain_models(made, options: dict[str, object]) -> None:
    model = made(**options)
    check_steps(model, 2, torch.randint(11, (2, 8)), cached=3)


@needs_compiler
@pytest.mark.usefixtures("nan_buffers")
@pytest.mark.parametrize("options", KAN.values(), ids=KAN)
def test_kan_models(made, options: dict[str, object]) -> None:
    model = made(SITES, **options)
    check_steps(model, 1, torch.randint(11, (1, 8)), cached=0)


@needs_compiler
@pytest.mark.usefixtures("nan_buffers")
@pytest.mark.parametrize("texts", [1, 2, 3, 4, 5, 9, 17, 32])
def test_any_number_of_texts(made, texts: int) -> None:
    model = made(("mlp_in", "mlp_out"), **CURVE)
    check_steps(model, texts, torch.randint(11, (texts, 8)), cached=2)


@needs_compiler
@pytest.mark.usefixtures("nan_buffers")
def test_a_text_outgrows_the_block(made) -> None:
    model = made(**CURVE)
    check_steps(model, 2, torch.randint(11, (2, 70)), cached=5)


@needs_compiler
def test_layers_worth_threads(made) -> None:
    """1,100,000 weights in a layer: two threads share its outputs."""
    model = made(n_embd=524, n_head=2, n_layer=1)
    assert model.config.n_embd * model.config.mlp_width >= 2**20
    check_steps(model, 1, torch.randint(11, (1, 8)), cached=1)


@needs_compiler
@pytest.mark.parametrize("head", [16, 32, 64, 72])
@pytest.mark.parametrize("texts", [1, 3])
def test_common_sizes_of_heads(made, texts: int, head: int) -> None:
    model = made(n_head=2, n_embd=2 * head, block_size=90)
    check_steps(model, texts, torch.randint(11, (texts, 90)), cached=1)


@needs_compiler
@pytest.mark.parametrize("texts", [1, 3])
@pytest.mark.parametrize("options", [{}, CURVE], ids=["windows", "without end"])
def test_the_same_text_as_by_torch(made, monkeypatch, options, texts: int) -> None:
    model, prompt = made(("mlp_out",), **options), torch.randint(11, (texts, 3))
    settings = {"max_new_tokens": 60, "temperature": 0.7, "top_k": 8}
    quick = list(generate(model, prompt, **settings))
    monkeypatch.setattr(generation, "make_decoder", lambda *_: None)
    assert torch.equal(torch.stack(quick), torch.stack(list(generate(model, prompt, **settings))))


@needs_compiler
@pytest.mark.usefixtures("nan_buffers")
def test_every_layer_has_a_grid_of_its_own(made) -> None:
    model = made(("mlp_in", "mlp_out"))
    model.blocks[1].mlp.out.refine(24)
    model.blocks[1].mlp.into.update_grid(4 * torch.randn(500, 8))
    sizes = {layer.features.size for layer in kan_layers(model).values()}
    assert len(sizes) == 3
    check_steps(model, 3, torch.randint(11, (3, 8)), cached=2)


def test_prompts_of_other_types_and_beyond_the_vocabulary(made) -> None:
    model = made()
    long, whole = (
        torch.stack([*generate(model, torch.tensor([[1, 2]], dtype=dtype), 40)])
        for dtype in (torch.int64, torch.int32)
    )
    assert torch.equal(long, whole)
    for token in (-1, model.vocab_size):
        with pytest.raises(UsageError, match=f"from 0 to {model.vocab_size - 1}"):
            generate(model, torch.tensor([[1, token]]), 40)


@needs_compiler
def test_logits_that_are_not_finite_show(made) -> None:
    model = made()
    with torch.no_grad():
        model.blocks[1].mlp.out.weight[3, 5] = math.nan
    cache = Cache(model.config, 1, CPU, torch.float32)
    assert Decoder(model, 1)(torch.tensor([[1]]), cache).isnan().any()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"conv": "taps"}, "model.conv taps"),
        ({"value_residual": True}, "model.value_residual True"),
        ({"score_degree": 2, "position": "rope"}, "model.score_degree 2"),
        ({"activation": "xielu"}, "an activation of XIELU"),
    ],
)
def test_settings_without_a_compiled_step(made, caplog, options, reason: str) -> None:
    model = made(**options)
    with pytest.raises(UnsupportedError, match=reason):
        Decoder(model, 1)
    with caplog.at_level("INFO"):
        assert make_decoder(model, 1) is None
    assert reason in caplog.text
    assert len(list(generate(model, torch.tensor([[1, 2]]), 40))) == 40  # by torch's operations


def test_models_without_a_compiled_step(made, tiny_gpt, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedError, match="float32 on a CPU"):
        Decoder(tiny_gpt().double(), 1)
    with pytest.raises(UnsupportedError, match="33 texts"):
        Decoder(made(), 33)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(UnsupportedError, match="autocast is on"),
    ):
        Decoder(made(), 1)
    with pytest.raises(UnsupportedError, match="only B-splines"):
        Decoder(made(SITES, **{"kan.basis": "rbf"}), 1)
    changed = made(("mlp_out",))
    changed.blocks[0].mlp.out = nn.Sequential(changed.blocks[0].mlp.out)
    with pytest.raises(UnsupportedError, match="a layer of Sequential"):
        Decoder(changed, 1)
    changed = made()
    changed.blocks[1].norm_1 = nn.GroupNorm(1, changed.config.n_embd)
    with pytest.raises(UnsupportedError, match="a norm of GroupNorm"):
        Decoder(changed, 1)
    hooked = made()
    hooked.blocks[0].register_forward_hook(lambda *_: None)
    with pytest.raises(UnsupportedError, match="forward hooks"):
        Decoder(hooked, 1)
    monkeypatch.setattr(native, "compiled", lambda *_: None)
    with pytest.raises(UnsupportedError, match="no C compiler"):
        Decoder(made(), 1)
