"""Scores of edges, against numpy, and against removing single edges."""

import numpy as np
import pandas as pd
import pytest
import torch

from nanogpkant.config import KANConfig, ModelConfig
from nanogpkant.interpretation.judge.evaluator import SwapEvaluator, measure
from nanogpkant.interpretation.judge.removal import edge_ablations, rank_correlations
from nanogpkant.interpretation.judge.replacements import Replaceable
from nanogpkant.interpretation.observe.collect import collect
from nanogpkant.interpretation.observe.curves import points, weights
from nanogpkant.interpretation.observe.importance import ends_of_edges, importance
from nanogpkant.kan import kan_layers
from nanogpkant.model.gpt import GPT


@pytest.fixture(params=["edge", "group:2"])
def model(request: pytest.FixtureRequest) -> GPT:
    torch.manual_seed(0)
    kan = KANConfig(sites=["mlp_in", "mlp_out"], share=request.param, basis="chebyshev")
    config = ModelConfig(n_layer=1, n_head=2, n_embd=8, block_size=16, dropout=0.0, kan=kan)
    return GPT(config, 11).eval()


def test_std_is_that_of_the_curve_over_the_inputs(model: GPT, text: np.ndarray) -> None:
    (name, layer), *_ = kan_layers(model).items()
    observed = collect(model, text)[name]
    scores = importance(layer, observed)
    at = points(observed)
    share = weights(observed, at).double().numpy()
    values = layer.edges(at).detach().double().numpy()  # (G, m, n)
    mean = (share[:, None] * values).sum(0)
    std = np.sqrt((share[:, None] * (values - mean) ** 2).sum(0))
    assert np.allclose(scores["std"].numpy(), std, rtol=1e-3, atol=1e-7)
    expected = std * observed.grad_rms.numpy()[:, None]
    assert np.allclose(scores["std_grad"].numpy(), expected, rtol=1e-3, atol=1e-9)
    norm = np.sqrt((layer.weight.detach().numpy() ** 2).sum(1))
    assert np.allclose(scores["norm"].numpy(), norm, rtol=1e-5)


def test_inputs_and_outputs_have_the_importance_of_their_edges(
    model: GPT, text: np.ndarray
) -> None:
    observed = collect(model, text)
    scores = {n: importance(m, observed[n])["std_grad"] for n, m in kan_layers(model).items()}
    tables = ends_of_edges(scores, observed)
    for axis, end, table in zip((0, 1), ("input", "output"), tables, strict=True):
        assert table["importance"].is_monotonic_decreasing
        for name, rows in table.groupby("layer"):
            expected = np.sqrt((scores[name].numpy().astype(float) ** 2).sum(axis))
            assert sorted(rows[end]) == list(range(len(expected)))
            assert np.allclose(rows["importance"], expected[rows[end]])
            if end == "input":
                assert np.allclose(rows["mean"], observed[name].mean.numpy()[rows[end]])


def test_an_edge_that_is_zero_has_no_importance(model: GPT, text: np.ndarray) -> None:
    (name, layer), *_ = kan_layers(model).items()
    with torch.no_grad():
        layer.weight[3, :, 2] = 0.0
    scores = importance(layer, collect(model, text)[name])
    assert [scores[score][3, 2].item() for score in scores] == [0.0, 0.0, 0.0]


def test_taking_edges_out_is_what_the_scores_foretell(model: GPT, text: np.ndarray) -> None:
    with torch.no_grad():  # edges of very different sizes
        for layer in kan_layers(model).values():
            layer.weight.mul_(torch.logspace(-3, 0.5, layer.in_features))
    layers, observed = kan_layers(model), collect(model, text)
    each = {name: importance(layer, observed[name]) for name, layer in layers.items()}
    scores = {s: {name: each[name][s] for name in layers} for s in ("std_grad", "std", "norm")}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    known: dict = {}
    evaluator = SwapEvaluator(model, text)

    def remember(name, find):
        return known.setdefault(name, None) or known.update({name: find()}) or known[name]

    means = {name: Replaceable.of(layer, observed[name]).means() for name, layer in layers.items()}
    interventions = edge_ablations(layers, scores, means)
    rows = measure(evaluator, interventions, remember)
    assert len(rows) == 200
    assert len({(r["layer"], r["output"], r["input"]) for r in rows}) == 200
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    found = rank_correlations(pd.DataFrame(rows), list(scores)).set_index("score")
    assert found.loc["std_grad", "with_kl"] > 0.8
    assert measure(evaluator, interventions, lambda name, _: known[name]) == rows
