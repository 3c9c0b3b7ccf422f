"""Layers without edges, against whole ones whose coefficients are zero."""

import copy

import pytest
import torch

from nanogpkant.interpretation.judge.evaluator import SwapEvaluator, measure, swapped
from nanogpkant.interpretation.judge.removal import (
    ABLATIONS,
    SHARES,
    by_input,
    pruned_layers,
    prunings,
)
from nanogpkant.interpretation.judge.replacements import Replaceable
from nanogpkant.interpretation.observe.collect import collect
from nanogpkant.kan import KANLinear, kan_layers
from nanogpkant.kan.pruned import PrunedLinear, prune

CASES = {
    "splines": {},
    "gated": {"activation": "swiglu", "base": "gpt"},
    "norms": {"prenorm": "rms"},
    "groups": {"share": "group:2", "basis": "chebyshev"},
    "atoms": {"share": "atoms:2", "basis": "rational"},
    "only the MLP": {"sites": ("mlp_in", "mlp_out")},
    "only what writes": {"sites": ("attn_out", "mlp_out")},
    "values of the first block": {"value_residual": True},
}


@pytest.fixture(params=CASES, ids=str)
def model(request, make_model):
    return make_model(**CASES[request.param])


def keep_some(layers, share: float) -> dict[str, torch.Tensor]:
    """Edges at random, and besides no edge of some inputs and of some outputs."""
    keep = {}
    for name, layer in layers.items():
        kept = torch.rand(layer.out_features, layer.in_features) < share
        kept[:, torch.rand(layer.in_features) < 0.3] = False
        kept[torch.rand(layer.out_features) < 0.3] = False
        kept[0, 0] = True
        keep[name] = kept
    return keep


@pytest.mark.parametrize("with_means", [True, False], ids=["mean", "zero"])
@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_pruned_model_says_what_the_masked_one_does(model, text, with_means, share):
    layers, observed = kan_layers(model), collect(model, text, max_tokens=512)
    means = {n: Replaceable.of(layer, observed[n]).means() for n, layer in layers.items()}
    keep = keep_some(layers, share)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for name, layer in kan_layers(masked).items():
            layer.weight *= keep[name][:, None]
            if with_means:
                extra = (means[name] * ~keep[name]).sum(1)
                layer.bias = torch.nn.Parameter(extra)
    made = pruned_layers(model, keep, means if with_means else None)
    x = torch.randint(11, (3, 16))
    with torch.no_grad(), swapped(model, made):
        found = model(x)
    torch.testing.assert_close(found, masked(x), rtol=1e-4, atol=1e-5)


def test_inputs_that_no_edge_reads_leave_the_matrices(make_model):
    model = make_model(sites=("mlp_in", "mlp_out"))
    keep = {}
    for name, layer in kan_layers(model).items():
        keep[name] = torch.ones(layer.out_features, layer.in_features, dtype=torch.bool)
    keep["blocks.0.mlp.into"][:, :3] = False
    keep["blocks.0.mlp.out"][:, ::2] = False
    made = pruned_layers(model, keep, None)
    assert all(isinstance(layer, PrunedLinear) for layer in made.values())
    into, out = made["blocks.0.mlp.into"].layer, made["blocks.0.mlp.out"].layer
    assert (into.in_features, into.out_features) == (5, 16)  # nor is what nobody reads worked out
    assert (out.in_features, out.out_features) == (16, 8)


def test_rows_of_every_score_and_ablation(make_model, text):
    model = make_model()
    layers, observed = kan_layers(model), collect(model, text, max_tokens=512)
    means = {n: Replaceable.of(layer, observed[n]).means() for n, layer in layers.items()}
    scores = {"random": {n: torch.rand_like(mean) for n, mean in means.items()}}
    interventions = prunings(model, scores, means)
    rows = measure(SwapEvaluator(model, text[:200]), interventions, lambda _, find: find())
    assert [(r["ablation"], r["share"]) for r in rows] == [
        (a, s) for a in ABLATIONS for s in SHARES
    ]
    kl = {(r["ablation"], r["share"]): r["kl"] for r in rows}
    assert kl["mean", 0.1] < kl["mean", 0.95]


def test_inputs_count_as_a_whole():
    scores = {"layer": torch.tensor([[3.0, 0.0], [4.0, 1.0]])}
    expected = torch.tensor([[12.5**0.5, 0.5**0.5]] * 2)
    torch.testing.assert_close(by_input(scores)["layer"], expected)


def test_edges_that_are_gone_stay_so_whoever_loads_the_weights():
    """Some loaders put other parameters in place of a module's own, and a copy has no hooks."""
    keep = torch.tensor([[True, False], [True, True]])
    layer = prune(KANLinear(2, 2).requires_grad_(False), keep, torch.zeros(2))
    loaded = copy.deepcopy(layer)
    loaded.layer.weight = torch.nn.Parameter(layer.layer.weight.detach().clone())
    for each in (layer.requires_grad_(True), loaded, copy.deepcopy(loaded)):
        for _ in range(2):
            each(torch.randn(5, 2)).sum().backward()
        assert torch.equal((each.layer.weight.grad != 0).any(1), keep)


def test_a_pruned_layer_is_in_the_mode_of_its_source():
    """In training mode, dropout of functions would blur what edges are worth."""
    layer, x = KANLinear(3, 2, dropout=0.5).eval(), torch.randn(5, 3)
    pruned = prune(layer, torch.full((2, 3), True), torch.zeros(2))
    torch.testing.assert_close(pruned(x), layer(x))
    assert prune(layer.train(), torch.full((2, 3), True), torch.zeros(2)).training
