"""The GPT against Hugging Face's GPT-2, and what holds for any mix of KAN and plain projections."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.config import SITES, KANConfig, ModelConfig
from nanogpkant.kan import KANLinear
from nanogpkant.model.attention import Attention
from nanogpkant.model.cache import Cache
from nanogpkant.model.gpt import GPT
from nanogpkant.model.mlp import MLP
from nanogpkant.model.positions import Places
from nanogpkant.model.projection import make_linear, site_shape
from nanogpkant.training.nonfinite import first_nonfinite

MIXES = [c for size in range(5) for c in itertools.combinations(SITES, size)]
ENDS = [(), SITES]  # plain, and KAN everywhere


def site_modules(block: nn.Module) -> dict[str, nn.Module]:
    attention, mlp = block.attention, block.mlp
    return dict(zip(SITES, (attention.qkv, attention.out, mlp.into, mlp.out), strict=True))


@pytest.mark.parametrize(("mlp", "theirs"), [("gelu", "gelu"), ("gelu_tanh", "gelu_new")])
def test_plain_gpt_is_hugging_faces_gpt2(tiny_gpt, mlp: str, theirs: str) -> None:
    transformers = pytest.importorskip("transformers")
    model = tiny_gpt(bias=True, n_embd=12, n_head=3, n_layer=3, activation=mlp).float().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    config = transformers.GPT2Config(
        vocab_size=11,
        n_positions=8,
        n_embd=12,
        n_layer=3,
        n_head=3,
        activation_function=theirs,
        attn_implementation="eager",
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.transformer.wte.load_state_dict(model.tokens.state_dict())
    theirs.transformer.wpe.load_state_dict(model.positions.state_dict())
    theirs.transformer.ln_f.load_state_dict(model.norm.state_dict())
    for block, their_block in zip(model.blocks, theirs.transformer.h, strict=True):
        their_block.ln_1.load_state_dict(block.norm_1.state_dict())
        their_block.ln_2.load_state_dict(block.norm_2.state_dict())
        pairs = {
            "qkv": their_block.attn.c_attn,
            "attn_out": their_block.attn.c_proj,
            "mlp_in": their_block.mlp.c_fc,
            "mlp_out": their_block.mlp.c_proj,
        }
        for site, linear in site_modules(block).items():
            pairs[site].load_state_dict({"weight": linear.weight.T, "bias": linear.bias})
    idx = torch.randint(11, (4, 8))
    with torch.no_grad():
        logits = model(idx)
        torch.testing.assert_close(logits, theirs(idx).logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model(idx[:, :5]), logits[:, :5], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["recompute", "reference"])
@pytest.mark.parametrize("sites", ENDS, ids=["plain", "kan"])
def test_a_later_token_does_not_change_earlier_logits(
    tiny_gpt, sites: tuple[str, ...], backend: str
) -> None:
    model, idx = tiny_gpt(sites, **{"kan.backend": backend}), torch.randint(11, (2, 8))
    for changed in range(1, 8):
        other = idx.clone()
        other[:, changed] = (other[:, changed] + 1) % 11
        before, after = model(idx), model(other)
        torch.testing.assert_close(after[:, :changed], before[:, :changed], rtol=0, atol=1e-12)
        assert (after - before)[:, changed:].abs().amax(-1).min() > 1e-9


@pytest.mark.parametrize("sites", ENDS, ids=["plain", "kan"])
def test_loss_is_the_cross_entropy_of_the_logits(tiny_gpt, sites: tuple[str, ...]) -> None:
    model = tiny_gpt(sites).float()
    idx, targets = torch.randint(11, (2, 3, 7)).unbind()
    expected = F.cross_entropy(model(idx).transpose(1, 2), targets)
    torch.testing.assert_close(model(idx, targets), expected)
    assert abs(expected.item() - math.log(11)) < 0.5  # starts by knowing nothing
    with torch.autocast("cpu", torch.bfloat16):
        assert model(idx, targets).dtype == torch.float32


@pytest.mark.parametrize("init", ["variance_preserving", "original"])
@pytest.mark.parametrize("sites", MIXES, ids="+".join)
def test_every_mix_of_sites_trains(tiny_gpt, sites: tuple[str, ...], init: str) -> None:
    changes = {"bias": True, "kan.init": init, "kan.spline_scale": True}
    model, idx = tiny_gpt(sites, **changes), torch.randint(11, (4, 8))
    for block in model.blocks:
        is_kan = {site: isinstance(m, KANLinear) for site, m in site_modules(block).items()}
        assert is_kan == {site: site in sites for site in SITES}

    def loss() -> Tensor:  # in float64; the model's own is in float32
        return F.cross_entropy(model(idx).transpose(1, 2), idx.roll(-1, 1))

    before = loss()
    before.backward()
    assert all(p.grad.count_nonzero() > 0 for p in model.parameters())
    squares = sum(p.grad.square().sum().item() for p in model.parameters())
    step = 1e-6 / squares  # a short step down the gradient lowers the loss by step * |gradient|^2
    torch.optim.SGD(model.parameters(), step).step()
    assert (before - loss()).item() == pytest.approx(1e-6, rel=0.01)


@pytest.mark.parametrize("sites", MIXES, ids="+".join)
def test_gelu_stands_only_before_a_plain_mlp_out(tiny_gpt, sites: tuple[str, ...]) -> None:
    mlp, x = tiny_gpt(sites).blocks[0].mlp, torch.randn(3, 8, dtype=torch.float64)
    hidden = mlp.into(x)
    between = hidden if "mlp_out" in sites else F.gelu(hidden)
    assert torch.equal(mlp(x), mlp.out(between))


@pytest.mark.parametrize("kan_init", ["variance_preserving", "original"])
@pytest.mark.parametrize("plain_init", ["gpt2", "fan_in"])
@pytest.mark.parametrize("sites", ENDS, ids=["plain", "kan"])
@pytest.mark.parametrize("site", SITES)
def test_projections_into_the_residual_stream_start_smaller(
    site: str, sites: tuple[str, ...], plain_init: str, kan_init: str
) -> None:
    def spread(n_layer: int) -> float:
        torch.manual_seed(0)
        kan = KANConfig(list(sites), init=kan_init, spline_scale=True)
        config = ModelConfig(n_layer, 4, 64, init=plain_init, kan=kan)
        with torch.no_grad():
            return make_linear(site, config)(x).std().item()

    x = torch.randn(200, site_shape(site, ModelConfig(1, 4, 64))[0])
    residual = site in ("attn_out", "mlp_out")
    expected = math.sqrt(1 / 18) if residual else 1.0  # 1/sqrt(2L) of 9 layers, of 1/sqrt(2) of 1
    assert spread(9) / spread(1) == pytest.approx(expected * math.sqrt(2) ** residual)
    if kan_init == "variance_preserving" and sites:
        assert spread(1) == pytest.approx(1 / math.sqrt(2) ** residual, rel=0.1)


def test_plain_projections_start_as_configured() -> None:
    for init, std in (("gpt2", 0.02), ("fan_in", 1 / math.sqrt(64))):
        layer = make_linear("mlp_in", ModelConfig(2, 4, 64, init=init, bias=True))
        assert layer.weight.std().item() == pytest.approx(std, rel=0.03)
        assert (layer.bias == 0).all()


def test_more_tokens_than_the_block_are_refused(tiny_gpt) -> None:
    model = tiny_gpt()
    with pytest.raises(ValueError, match=r"9 tokens.*8"):
        model(torch.zeros(1, 9, dtype=torch.int64))
    cache = Cache(model.config, 1, torch.device("cpu"), torch.float64)
    model(torch.zeros(1, 6, dtype=torch.int64), cache=cache)
    with pytest.raises(ValueError, match=r"9 tokens.*8"):
        model(torch.zeros(1, 3, dtype=torch.int64), cache=cache)


@pytest.mark.usefixtures("nan_buffers")
@pytest.mark.parametrize("pieces", [[8], [1] * 8, [3, 1, 4], [1, 7], [5, 3]], ids=str)
@pytest.mark.parametrize("sites", ENDS, ids=["plain", "kan"])
def test_logits_do_not_depend_on_what_is_cached(
    tiny_gpt, sites: tuple[str, ...], pieces: list[int]
) -> None:
    model, idx = tiny_gpt(sites).eval(), torch.randint(11, (3, 8))
    cache = Cache(model.config, 3, torch.device("cpu"), torch.float64)
    logits = torch.cat([model(piece, cache=cache) for piece in idx.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(logits, model(idx), rtol=0, atol=1e-10)
    assert cache.length == 8


@pytest.mark.parametrize("is_left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("sites", ENDS, ids=["plain", "kan"])
def test_padding_changes_nothing(tiny_gpt, sites: tuple[str, ...], is_left: bool) -> None:
    """Texts of 2, 5 and 3 tokens in a batch of 5, and one more token each, against each alone."""
    model = tiny_gpt(sites).eval()
    texts = [torch.randint(11, (length,)) for length in (2, 5, 3)]
    idx, mask = torch.randint(11, (3, 5)), torch.zeros(3, 5, dtype=torch.int64)
    for row, text in enumerate(texts):
        where = slice(5 - len(text), 5) if is_left else slice(0, len(text))
        idx[row, where], mask[row, where] = text, 1
    cache = Cache(model.config, 3, torch.device("cpu"), torch.float64)
    logits, new = model(idx, cache=cache, attention_mask=mask), torch.randint(11, (3, 1))
    longer = torch.cat([mask, torch.ones_like(new)], 1)
    after = model(new, cache=cache, attention_mask=longer)
    assert logits.isfinite().all()
    for row, text in enumerate(texts):
        alone = model(torch.cat([text, new[row]])[None])[0]
        together = torch.cat([logits[row, mask[row] == 1], after[row]])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)


def places(tokens: int) -> Places:
    return Places.of(tokens, tokens, torch.device("cpu"), None)


@pytest.fixture
def attention(tiny_config) -> Attention:
    return Attention(tiny_config(dropout=0.3), layer=0).double()


def test_attention_drops_nothing_in_evaluation(attention: Attention, tiny_config) -> None:
    without = Attention(tiny_config(), layer=0).double()
    without.load_state_dict(attention.state_dict())
    x = torch.randn(2, 8, 8, dtype=torch.float64)
    assert torch.equal(attention.eval()(x, places(8)), without.train()(x, places(8)))
    assert not torch.allclose(attention.train()(x, places(8)), without(x, places(8)))


def test_dropped_attention_is_right_on_average(attention: Attention) -> None:
    q, k, v = torch.randn(3, 1, 2, 5, 4, dtype=torch.float64)
    exact = attention.eval().attend(q, k, v, places(5))
    many = (t.expand(20_000, -1, -1, -1) for t in (q, k, v))
    draws = attention.train().attend(*many, places(5))
    standard_error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - exact[0]).abs() < 5 * standard_error).all()


def test_each_attention_weight_is_dropped_with_the_same_probability(attention: Attention) -> None:
    q = k = torch.zeros(20_000, 2, 5, 4, dtype=torch.float64)  # every weight of a row is alike
    identity = torch.eye(5, dtype=torch.float64).expand(20_000, 2, -1, -1)
    weights = attention.train().attend(
        q, k, identity, places(5)
    )  # (draws, heads, looking, looked at)
    seen = torch.ones(5, 5).tril().bool()
    kept = (weights[..., seen] > 0).double().mean(0)
    assert (kept - 0.7).abs().max() < 5 * math.sqrt(0.3 * 0.7 / 20_000)
    assert (weights[..., ~seen] == 0).all()
    # By the last token's look back: other tokens, other heads and other texts are independent.
    columns = (weights[:, :, -1] > 0).double().flatten(1)
    correlation = torch.corrcoef(torch.cat([columns[:-1], columns[1:]], dim=1).T)
    assert (correlation - torch.eye(20)).abs().max() < 5 / math.sqrt(20_000)


def test_a_cpu_kernel_is_never_asked_for_dropout(
    attention: Attention, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, original = [], F.scaled_dot_product_attention

    def spy(*args: Tensor, dropout_p: float = 0.0, **kwargs: object) -> Tensor:
        asked.append(dropout_p)
        return original(*args, dropout_p=dropout_p, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    attention.train()(torch.randn(2, 200, 8, dtype=torch.float64), places(200))
    assert asked == [0.0]


@pytest.fixture(params=ENDS, ids=["plain", "kan"])
def model(request: pytest.FixtureRequest, tiny_gpt) -> GPT:
    return tiny_gpt(request.param, bias=True).float()


IDX = torch.arange(8)[None]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_weight_is_named(model: GPT, value: float) -> None:
    for name, parameter in reversed(list(model.named_parameters())):
        parameter.data.view(-1)[-1] = value
        assert first_nonfinite(model, IDX, IDX) == f"the weights of {name}"


@pytest.mark.parametrize("name", ["tokens", "blocks.0.attention.qkv", "blocks.1.mlp.into", "norm"])
def test_a_bad_output_is_named(model: GPT, name: str) -> None:
    handle = model.get_submodule(name).register_forward_hook(lambda m, i, out: out * math.nan)
    assert first_nonfinite(model, IDX, IDX) == f"the output of {name}"
    handle.remove()
    assert first_nonfinite(model, IDX, IDX) == "the loss itself"
    assert not any(module._forward_hooks for module in model.modules())


def test_an_overflow_is_named_where_it_happens(model: GPT) -> None:
    model.blocks[1].mlp.into.weight.data.fill_(3e38)
    assert first_nonfinite(model, IDX, IDX) == "the output of blocks.1.mlp.into"


def test_a_bad_gradient_is_named_from_the_end(model: GPT) -> None:
    model(IDX, IDX).backward()
    assert first_nonfinite(model, IDX, IDX) == "the loss itself"
    for name in ("tokens.weight", "blocks.0.norm_1.bias", "blocks.1.mlp.out.weight"):
        model.get_parameter(name).grad.view(-1)[0] = math.nan
        assert first_nonfinite(model, IDX, IDX) == f"the gradient of {name}"


def test_a_gated_mlp_is_swiglu(tiny_config):
    config = tiny_config(activation="swiglu", mlp_ratio=3.0)
    mlp = MLP(config)
    assert (mlp.into.out_features, mlp.out.in_features) == (48, 24)
    x = torch.randn(5, 8)
    gate, value = mlp.into.weight[:24], mlp.into.weight[24:]
    expected = (F.silu(x @ gate.T) * (x @ value.T)) @ mlp.out.weight.T
    torch.testing.assert_close(mlp(x), expected)


@pytest.mark.parametrize("mlp", ["gelu", "gelu_tanh", "swiglu"])
@pytest.mark.parametrize("basis", ["chebyshev", "rational", "line"])
def test_shared_functions_start_as_the_plain_gpt(tiny_config, mlp, basis):
    sites = ["qkv", "attn_out", "mlp_in", "mlp_out"]
    settings = {"kan.share": "group:2", "kan.basis": basis, "kan.base": "gpt", "activation": mlp}
    settings |= {"kan.init": "variance_preserving", "kan.spline_scale": False}
    plain, kan = GPT(tiny_config(activation=mlp), 11), GPT(tiny_config(sites, **settings), 11)
    weights = {name: value.view_as(kan.state_dict()[name]) if name in kan.state_dict() else value
               for name, value in plain.state_dict().items()}  # fmt: skip
    kan.load_state_dict(weights, strict=False)
    idx = torch.randint(11, (2, 8))
    torch.testing.assert_close(kan(idx), plain(idx), rtol=1e-4, atol=1e-5)
