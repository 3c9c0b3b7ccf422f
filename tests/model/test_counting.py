"""Counts by arithmetic against the built model and torch's own FLOP counter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nanogpkant.config import (
    SITES,
    CurveConfig,
    KANConfig,
    ModelConfig,
    load_preset,
    preset_names,
    with_changes,
)
from nanogpkant.kan import kan_layers
from nanogpkant.kan.curve import DistanceCurve
from nanogpkant.model.counting import SHAKESPEARE_CHARACTERS, VOCABULARIES, count
from nanogpkant.model.gpt import GPT


def built(config: ModelConfig, vocab_size: int) -> GPT:
    # The reference backend's products are ordinary ones, which the counter sees.
    return GPT(with_changes(config, **{"kan.backend": "reference"}), vocab_size).eval()


def counted_flops(model: GPT, batch_size: int) -> int:
    """FLOPs of a forward pass at full block, attention unfused so that its products are seen."""
    idx = torch.zeros(batch_size, model.config.block_size, dtype=torch.int64)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(idx)
    return counter.get_total_flops()


def curve_flops(model: GPT) -> int:
    """Of the curves of distance, once a batch; ``count`` leaves them out."""
    config, flops = model.config, 0
    for name, layer in kan_layers(model).items():
        if isinstance(layer, DistanceCurve):
            points = config.conv_length if "convolution" in name else config.block_size
            flops += 2 * points * layer.weight.numel()
    return flops


def check_counts(config: ModelConfig, vocab_size: int, batch_size: int) -> None:
    model, expected = built(config, vocab_size), count(config, vocab_size)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert expected.parameters == parameters
    positions = 0 if model.positions is None else model.positions.weight.numel()
    assert expected.parameters_without_positions == parameters - positions
    tokens = batch_size * config.block_size
    counted = counted_flops(model, batch_size) - curve_flops(model)
    assert expected.forward_flops_per_token * tokens == counted
    assert expected.flops_per_token == 3 * expected.forward_flops_per_token


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    heads, sizes, flags = draw(st.integers(1, 3)), st.integers(1, 6), st.booleans()
    kan = KANConfig(
        sites=draw(st.lists(st.sampled_from(SITES), unique=True)),
        grid_size=draw(sizes),
        spline_order=draw(st.integers(1, 5)),
        base=draw(st.sampled_from(["silu", "gelu", "gelu_tanh", "identity", "none"])),
        spline_scale=draw(flags),
        prenorm=draw(st.sampled_from(["none", "rms"])),
    )
    curve = CurveConfig(
        draw(st.sampled_from(["hat", "bspline", "fourier"])), knots=2, learned=draw(flags)
    )
    return ModelConfig(
        n_layer=draw(st.integers(1, 3)),
        n_head=heads,
        n_embd=2 * heads * draw(sizes),
        mlp_ratio=draw(st.floats(1, 6)),
        block_size=1 + draw(sizes),
        position=draw(st.sampled_from(POSITIONS)),
        curve=curve,
        norm=draw(st.sampled_from(["layer", "rms"])),
        norm_weight=draw(flags),
        **draw(st.sampled_from([{}, {"qk_norm": True}, {"score_degree": 1}, {"score_degree": 3}])),
        activation=draw(st.sampled_from(["gelu", "even", "xielu", "swiglu"])),
        conv=draw(st.sampled_from(["none", "taps", "decay", "curve"])),
        value_residual=draw(flags),
        tied=draw(flags),
        bias=draw(flags),
        kan=kan,
    )


POSITIONS = ["learned", "rope", "alibi", "slopes", "curve", "none", "rope+curve", "learned+slopes"]


@settings(max_examples=40, deadline=None)
@given(config=configs(), vocab_size=st.integers(1, 30), batch_size=st.integers(1, 3))
def test_any_model(config: ModelConfig, vocab_size: int, batch_size: int) -> None:
    check_counts(config, vocab_size, batch_size)


@pytest.mark.parametrize("name", preset_names())
def test_presets(name: str) -> None:
    _, config = load_preset(name)
    vocab_size = VOCABULARIES[config.data.dataset]
    with torch.device("meta"):  # parameters are counted, not stored
        model = GPT(config.model, vocab_size)
    parameters = sum(p.numel() for p in model.parameters())
    assert count(config.model, vocab_size).parameters == parameters


def test_flops_of_a_preset_with_every_projection_kan() -> None:
    _, config = load_preset("shakespeare_char_micro_kan")
    check_counts(with_changes(config.model, block_size=16), SHAKESPEARE_CHARACTERS, 1)


def test_training_costs_three_forward_passes() -> None:
    """Two products in the backward pass for each one forward, where every input has a gradient."""
    model = built(ModelConfig(2, 2, 8, 8, kan=KANConfig(sites=list(SITES))), 11)
    idx = torch.zeros(3, 8, dtype=torch.int64)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(idx, idx).backward()
    assert counter.get_total_flops() == 3 * 8 * count(model.config, 11).forward_flops_per_token * 3


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("shakespeare_char_micro_kan", 8.86),  # as published with the original nanoGPKANT
        ("shakespeare_char_micro", 0.90),
        ("shakespeare_char_micro_boosted_parameters", 7.10),
    ],
)
def test_published_sizes(name: str, millions: float) -> None:
    parameters = count(load_preset(name)[1].model, SHAKESPEARE_CHARACTERS)
    assert round(parameters.parameters_without_positions / 1e6, 2) == millions


def test_the_matched_preset_is_as_large_as_the_kan() -> None:
    matched, kan = (
        count(load_preset(name)[1].model, SHAKESPEARE_CHARACTERS).parameters
        for name in ("shakespeare_char_matched", "shakespeare_char_micro_kan")
    )
    assert matched == pytest.approx(kan, rel=0.005)
