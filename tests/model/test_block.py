"""Options of the modern block against implementations that others wrote."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.base.errors import UsageError
from nanogpkant.config import ModelConfig, load_config
from nanogpkant.kan import Features, Fourier, Shared
from nanogpkant.kan.curve import bucket
from nanogpkant.model.activation import ACTIVATIONS, root_mean_square
from nanogpkant.model.attention import ROWS, Attention
from nanogpkant.model.cache import Cache
from nanogpkant.model.convolution import make_convolution
from nanogpkant.model.gpt import GPT
from nanogpkant.model.initialization import draw_parameters
from nanogpkant.model.positions import Places, alibi_slopes, rotate
from nanogpkant.model.projection import make_linear

transformers = pytest.importorskip("transformers")

POSITIONS = ["learned", "rope", "alibi", "slopes", "curve", "none", "rope+curve", "learned+curve"]
CURVE = {"curve.knots": 4}
OPTIONS = {
    "rms": {"norm": "rms"},
    "norm without weights": {"norm_weight": False},
    "qk_norm": {"qk_norm": True},
    "temperature": {"score_degree": 1},
    "score": {"score_degree": 3, "position": "slopes"},
    "score, rotated": {"score_degree": 4, "position": "rope"},
    "taps": {"conv": "taps"},
    "decay": {"conv": "decay", "conv_length": 6},
    "lag curve": {"conv": "curve", "conv_length": 6, "curve.knots": 3},
    "value residual": {"value_residual": True, "n_layer": 3},
    "untied": {"tied": False},
    "softcap": {"logit_softcap": 3.0},
    "fourier curve": {"position": "curve", "curve.basis": "fourier", "curve.knots": 3},
    "smooth curve": {"position": "curve", "curve.basis": "bspline", "curve.knots": 4},
    "table": {"position": "curve", "curve.scale": "linear", "curve.knots": 8},
    "buckets": {"position": "curve", "curve.scale": "buckets", "curve.knots": 4},
    "line beyond": {"position": "curve", "curve.beyond": "linear", "curve.knots": 4},
    **{name: {"activation": name} for name in ACTIVATIONS},
    **{position: {"position": position} | CURVE for position in POSITIONS},
}


@pytest.fixture(params=OPTIONS)
def model(request, tiny_gpt) -> GPT:
    """A small model with one option, and parameters that are not those of its start."""
    made = tiny_gpt(**OPTIONS[request.param]).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def test_a_later_token_does_not_change_earlier_logits(model: GPT) -> None:
    idx = torch.randint(11, (2, 8))
    for changed in range(1, 8):
        other = idx.clone()
        other[:, changed] = (other[:, changed] + 1) % 11
        before, after = model(idx), model(other)
        torch.testing.assert_close(after[:, :changed], before[:, :changed], rtol=0, atol=1e-12)
        assert (after - before)[:, changed:].abs().amax() > 1e-9


@pytest.mark.usefixtures("nan_buffers")
@pytest.mark.parametrize("first", [1, 3])
def test_the_cache_changes_nothing(model: GPT, first: int) -> None:
    idx = torch.randint(11, (3, 8))
    cache = Cache(model.config, 3, idx.device, torch.float64)
    parts = [model(idx[:, :first], cache=cache)]
    parts += [model(idx[:, i : i + 1], cache=cache) for i in range(first, 6)]
    parts += [model(idx[:, 6:], cache=cache)]  # several tokens after cached ones
    torch.testing.assert_close(torch.cat(parts, 1), model(idx), rtol=0, atol=1e-6)


def test_padding_changes_nothing(model: GPT) -> None:
    idx = torch.randint(11, (1, 5))
    alone = model(idx)
    for left in (1, 3):
        padded = F.pad(idx, (left, 0), value=7)
        mask = F.pad(torch.ones_like(idx), (left, 0))
        rows = model(torch.cat([padded, torch.randint(11, padded.shape)]),
                     attention_mask=torch.cat([mask, torch.ones_like(mask)]))  # fmt: skip
        torch.testing.assert_close(rows[:1, left:], alone, rtol=0, atol=1e-6)


def test_every_parameter_learns(model: GPT) -> None:
    idx = torch.randint(11, (4, 8))
    F.cross_entropy(model(idx).transpose(1, 2), idx.roll(-1, 1)).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.count_nonzero() > 0, name


def test_gradients(model: GPT) -> None:
    """Along random directions, against differences."""
    idx = torch.randint(11, (2, 8))

    def loss() -> Tensor:
        return F.cross_entropy(model(idx).transpose(1, 2), idx.roll(-1, 1))

    learned = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss(), learned)
    with torch.no_grad():
        for parameter, gradient in zip(learned, gradients, strict=True):
            direction = torch.randn_like(parameter)
            ends = []
            for step in (1e-6, -2e-6, 1e-6):
                parameter.add_(direction, alpha=step)
                ends.append(loss())
            slope = (ends[0] - ends[1]) / 2e-6
            expected = (gradient * direction).sum()
            torch.testing.assert_close(slope, expected, rtol=1e-3, atol=1e-7)


def their_rotation(x: Tensor, position: Tensor) -> Tensor:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    heads, head = x.shape[1], x.shape[3]
    config = transformers.LlamaConfig(hidden_size=heads * head, num_attention_heads=heads)
    cos, sin = LlamaRotaryEmbedding(config)(x, position.expand(len(x), -1))
    return apply_rotary_pos_emb(x, x, cos, sin)[0]


@pytest.mark.parametrize("head", [2, 6, 32])
def test_rotation_is_llamas(head: int) -> None:
    x, position = torch.randn(3, 4, 9, head), torch.randint(500, (3, 9))
    for at in (position, position[0]):
        torch.testing.assert_close(rotate(x, at), their_rotation(x, at), rtol=0, atol=2e-5)


@pytest.mark.parametrize("heads", [1, 2, 6, 7, 8, 12])
def test_slopes_are_blooms(heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    theirs = build_alibi_tensor(torch.ones(1, 5), heads, torch.float32)[:, 0]  # (heads, 5)
    torch.testing.assert_close(theirs[:, -1] / 4, alibi_slopes(heads))


@pytest.mark.parametrize(("count", "longest"), [(8, 32), (32, 128), (12, 256)])
def test_buckets_are_t5s(count: int, longest: int) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(2 * longest)
    theirs = T5Attention._relative_position_bucket(-distance, False, count, longest)
    assert torch.equal(bucket(distance.float(), count, longest).long(), theirs)


@pytest.mark.parametrize("scores", [1, 1 << 40], ids=["a sequence at a time", "all sequences"])
@pytest.mark.parametrize("position", ["alibi", "curve", "rope+curve", "none"])
@pytest.mark.parametrize("length", [5, ROWS, ROWS + 3, 2 * ROWS + 17])
def test_attention_in_parts_is_torchs(
    tiny_config, monkeypatch, position: str, length: int, scores: int
) -> None:
    monkeypatch.setattr("nanogpkant.model.attention.SCORES", scores)
    config = tiny_config(position=position, block_size=64)
    attention = Attention(config, 0).double()
    if "curve" in position:
        nn.init.normal_(attention.bias.weight)
    q, k, v = (torch.randn(2, 2, length, 4, dtype=torch.float64, requires_grad=True) for _ in "qkv")
    places = Places.of(length, length, q.device, None)
    values = torch.zeros(1, length)
    if attention.bias is not None:
        values = attention.bias.of(torch.arange(length))
    distance = torch.arange(length)[:, None] - torch.arange(length)
    mask = values[:, distance.clamp(min=0)].masked_fill(distance < 0, -math.inf)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.double())
    given = attention.attend(q, k, v, places)
    torch.testing.assert_close(given, expected)
    biases = [p for name, p in attention.named_parameters() if name.startswith("bias")]
    leaves = [q, k, v, *(p for p in biases if p.requires_grad)]
    gradient = torch.randn_like(q)
    ours = torch.autograd.grad(given, leaves, gradient)
    torch.testing.assert_close(
        ours, torch.autograd.grad(expected, leaves, gradient), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("degree", [1, 2, 5])
def test_a_score_is_numpys_series_of_the_cosine(tiny_config, degree: int) -> None:
    attention = Attention(tiny_config(score_degree=degree, position="none"), 0).double()
    nn.init.normal_(attention.score.coefficients)
    q, k, v = (torch.randn(2, 2, 6, 4, dtype=torch.float64) for _ in "qkv")
    with torch.no_grad():
        place = Places.of(6, 6, q.device, None)
        found = attention.attend(*attention.score.normalize(q, k), v, place)
    cosine = F.cosine_similarity(q[:, :, :, None], k[:, :, None], dim=-1).numpy()
    for head in range(2):
        series = [0.0, *attention.score.coefficients[head].tolist()]
        score = torch.tensor(np.polynomial.chebyshev.chebval(cosine[:, head], series))
        score = score.masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf)
        torch.testing.assert_close(found[:, head], score.softmax(-1) @ v[:, head])


def test_a_decay_is_scipys_filter(tiny_config) -> None:
    signal = pytest.importorskip("scipy.signal")
    convolution = make_convolution(tiny_config(conv="decay", conv_length=9)).double()
    kernel = convolution.kernel
    nn.init.normal_(kernel.size)
    nn.init.normal_(kernel.log_length)
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    with torch.no_grad():
        found = convolution(x, Places.of(9, 9, x.device, None), 0)
        decay = torch.exp(-torch.exp(-kernel.log_length))
    for head in range(2):
        own = x[..., 4 * head : 4 * head + 4]
        tail = signal.lfilter([kernel.size[head].item()], [1, -decay[head].item()], own, axis=1)
        torch.testing.assert_close(found[..., 4 * head : 4 * head + 4], own + torch.tensor(tail))


def test_rms_and_qk_norm_are_qwens(tiny_config) -> None:
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    attention = Attention(tiny_config(qk_norm=True), 0)
    nn.init.normal_(attention.q_norm.weight)
    theirs = Qwen3RMSNorm(4, eps=1e-5)
    theirs.load_state_dict(attention.q_norm.state_dict())
    x = torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(attention.q_norm(x), theirs(x))


def test_a_llama_is_ours(tiny_gpt) -> None:
    """RoPE, RMSNorm, SwiGLU and an untied head together, against transformers' Llama."""
    options = {"position": "rope", "norm": "rms", "activation": "swiglu", "tied": False}
    model = tiny_gpt(n_embd=12, n_head=3, mlp_ratio=2.0, **options).float().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=12, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=3, rms_norm_eps=1e-5, tie_word_embeddings=False,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    state = {
        "model.embed_tokens.weight": model.tokens.weight,
        "model.norm.weight": model.norm.weight,
    }
    state["lm_head.weight"] = model.head.weight
    for i, block in enumerate(model.blocks):
        q, k, v = block.attention.qkv.weight.chunk(3)
        gate, value = block.mlp.into.weight.chunk(2)
        ours = {
            "input_layernorm": block.norm_1.weight,
            "post_attention_layernorm": block.norm_2.weight,
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": block.attention.out.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": value,
            "mlp.down_proj": block.mlp.out.weight,
        }
        state |= {f"model.layers.{i}.{name}.weight": weight for name, weight in ours.items()}
    theirs.load_state_dict(state)
    idx = torch.randint(11, (4, 8))
    with torch.no_grad():
        torch.testing.assert_close(model(idx), theirs(idx).logits, rtol=1e-4, atol=1e-4)
        longer = torch.randint(11, (1, 30))  # rotation knows no longest text
        torch.testing.assert_close(model(longer), theirs(longer).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("ours", "theirs"), [("gelu", "gelu"), ("gelu_tanh", "gelu_new"),
                                              ("silu", "silu"), ("relu2", "relu2")])  # fmt: skip
def test_activations_are_transformers(ours: str, theirs: str) -> None:
    x = torch.randn(999)
    torch.testing.assert_close(ACTIVATIONS[ours]()(x), transformers.activations.ACT2FN[theirs](x))


def test_xielu_is_transformers() -> None:
    theirs = transformers.activations.XIELUActivation(dtype=torch.float32)
    ours, x = ACTIVATIONS["xielu"](), torch.randn(999) * 3
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_even() -> None:
    x = torch.randn(999, dtype=torch.float64)
    ours = ACTIVATIONS["even"]()
    torch.testing.assert_close(ours(x), x * (torch.distributions.Normal(0, 1).cdf(x) - 0.5))
    torch.testing.assert_close(ours(-x), ours(x))


def test_even_cosine() -> None:
    x, functions = torch.randn(1, 999, dtype=torch.float64) * 3, Shared(Fourier(2))
    learned = torch.tensor([0, -0.8, -0.7, 0, 0], dtype=torch.float64)[None, None]
    expected = Features(functions, "even").expand(x, learned)[:, 0]
    torch.testing.assert_close(ACTIVATIONS["even_cosine"]()(x), expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_projection_behind_an_activation_starts_at_unit_variance(activation: str) -> None:
    config = ModelConfig(1, 4, 256, mlp_ratio=4, activation=activation, init="variance_preserving")
    torch.manual_seed(0)
    into = torch.randn(4000, config.mlp_width * (2 if activation == "swiglu" else 1))
    with torch.no_grad():
        hidden = ACTIVATIONS[activation]()(into)
        assert hidden.square().mean().sqrt().item() == pytest.approx(
            root_mean_square(activation), rel=0.01
        )
        out = make_linear("mlp_out", config)(hidden) * math.sqrt(
            2
        )  # 1 / sqrt(2 n_layer) of 1 layer
        assert out.square().mean().sqrt().item() == pytest.approx(1, rel=0.05)


def test_models_share_the_start_of_what_they_share(tiny_gpt) -> None:
    variants = [
        {}, {"position": "curve"} | CURVE, {"activation": "even"}, {"qk_norm": True},
        {"n_layer": 3}, {"tied": False}, {"sites": ("mlp_out",)}, {"conv": "taps"},
    ]  # fmt: skip
    states = []
    for changes in variants:
        model = tiny_gpt(**changes)
        draw_parameters(model, 7)
        states.append(model.state_dict())
    for changes, state in zip(variants, states, strict=True):
        scale = math.sqrt(2 / changes.get("n_layer", 2))
        for name in state.keys() & states[0].keys():
            if name.endswith("mlp.out.weight") and "sites" in changes:
                continue  # a KAN's are coefficients
            factor = scale if name.endswith("out.weight") else 1.0
            torch.testing.assert_close(state[name], states[0][name] * factor, msg=name)
    model = tiny_gpt()
    draw_parameters(model, 8)
    assert not torch.equal(model.state_dict()["tokens.weight"], states[0]["tokens.weight"])
    weights = [p.flatten()[:8] for p in states[0].values() if p.dim() > 1]
    assert all(
        not torch.allclose(a / a.std(), b / b.std()) for a in weights for b in weights if a is not b
    )


def test_zero_start(tiny_gpt) -> None:
    model, idx = tiny_gpt(residual="zero"), torch.randint(11, (2, 8))
    embedded = model.tokens(idx) + model.positions(torch.arange(8))
    torch.testing.assert_close(model(idx), F.linear(model.norm(embedded), model.tokens.weight))


def test_softcap(tiny_gpt) -> None:
    model, idx = tiny_gpt(logit_softcap=0.5).float(), torch.randint(11, (2, 8))
    capped = model(idx)
    object.__setattr__(model.config, "logit_softcap", 0.0)
    torch.testing.assert_close(capped, 0.5 * torch.tanh(model(idx) / 0.5))


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("position", "rotary"),
        ("position", "curve+alibi"),
        ("position", "rope+rope"),
        ("position", "none+rope"),
        ("curve.knots", 1),
        ("curve.beyond", "linear"),
        ("position", "rope"),
        ("logit_softcap", -1.0),
        ("conv_length", 1),
        ("score_degree", -1),
        ("qk_norm", True),
        ("activation", "xielu"),
        ("activation", "even_cosine"),
    ],
)
def test_settings_that_cannot_work(tiny_config, flag: str, value: object) -> None:
    others = {
        "position": {"n_embd": 6},
        "curve.knots": {"position": "curve"},
        "curve.beyond": {"curve.basis": "fourier", "curve.knots": 3},
        "conv_length": {"conv": "curve"},
        "qk_norm": {"score_degree": 1},
        "activation": {"kan.base": "gpt", "kan.sites": ["mlp_out"]},
    }
    with pytest.raises(UsageError, match=rf"^--model\.{flag} .*: ."):
        tiny_config(**others.get(flag, {}), **{flag: value})


def test_mlp_of_earlier_versions_is_activation(tmp_path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("model: {mlp: swiglu}\n", encoding="utf-8")
    assert load_config(path).model.activation == "swiglu"


@pytest.mark.parametrize("first", [1, 20, 37])
def test_a_text_outgrows_the_block(tiny_gpt, first: int) -> None:
    """The cache grows to any length, at once or token by token."""
    model, idx = tiny_gpt(position="slopes").eval(), torch.randint(11, (2, 40))
    cache = Cache(model.config, 2, idx.device, torch.float64)
    parts = [model(idx[:, :first], cache=cache)]
    parts += [model(idx[:, i : i + 1], cache=cache) for i in range(first, 40)]
    torch.testing.assert_close(torch.cat(parts, 1), model(idx), rtol=0, atol=1e-6)
