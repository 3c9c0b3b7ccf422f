"""Curves as numbers, layers as tables, and what edges are compared with: against numpy."""

import numpy as np
import pytest
import torch

from nanogpkant.base.errors import UserError
from nanogpkant.interpretation.judge.evaluator import swapped
from nanogpkant.interpretation.judge.replacements import Lookup, Replaceable, table_points
from nanogpkant.interpretation.observe import curves as curves_module
from nanogpkant.interpretation.observe.curves import even_points, points, tabulate, weights


def test_points_ascend_from_end_to_end(looked_at):
    _, layers, observed = looked_at
    for name in layers:
        at = points(observed[name], 40)
        assert at.shape == (40, layers[name].in_features)
        assert (at.diff(dim=0) >= 0).all()
        assert torch.equal(at[0], observed[name].low)
        assert torch.equal(at[-1], observed[name].high)


def test_weights_are_how_often_inputs_lie_there(looked_at):
    _, layers, observed = looked_at
    name = list(layers)[2]
    at = points(observed[name], 20)
    share = weights(observed[name], at)
    torch.testing.assert_close(share.sum(0), torch.ones(share.shape[1]))
    edges, counts = observed[name].edges[0].double(), observed[name].counts[0]
    middles = (at[1:, 0] + at[:-1, 0]).double() / 2
    filled = np.interp(middles, edges, np.append(0, counts.cumsum(0)) / counts.sum().item())
    np.testing.assert_allclose(share[:, 0], np.diff([0, *filled, 1]), atol=1e-5)


def test_a_table_that_does_not_fit_into_memory(looked_at, monkeypatch):
    _, layers, observed = looked_at
    name, layer = next(iter(layers.items()))

    class Little:
        available = 1000

    monkeypatch.setattr(curves_module.psutil, "virtual_memory", Little)
    with pytest.raises(UserError, match=r"192 edges at 64 points take .* are free"):
        tabulate(layer, points(observed[name]))


def test_weights_that_are_not_finite(looked_at):
    _, layers, observed = looked_at
    name, layer = next(iter(layers.items()))
    with torch.no_grad():
        layer.weight[0, 0, 0] = torch.inf
    with pytest.raises(UserError, match="not finite: use another checkpoint"):
        tabulate(layer, points(observed[name]))


@pytest.mark.parametrize("count", [2, 7, 64])
def test_a_lookup_is_straight_lines_between_points(looked_at, count):
    _, layers, _ = looked_at
    layer = list(layers.values())[2]
    n = layer.in_features
    low, high = torch.linspace(-2, -1, n), torch.linspace(1, 2, n)
    x = torch.randn(3, 5, n) * 2  # some of them beyond the ends
    y = Lookup(layer, low, high, layer.edges, count)(x)
    at = even_points(low, high, count)
    values = layer.edges(at).detach().numpy()
    expected = np.zeros((15, layer.out_features))
    for i in range(n):
        for j in range(layer.out_features):
            row = x.view(15, n)[:, i].numpy()
            expected[:, j] += np.interp(row, at[:, i].numpy(), values[:, j, i])
    np.testing.assert_allclose(y.view(15, -1).numpy(), expected, atol=2e-5)


def test_fine_tables_are_the_layer(looked_at):
    _, layers, _ = looked_at
    layer = list(layers.values())[3]
    ends = torch.full((layer.in_features,), 2.5)
    x = torch.rand(50, layer.in_features) * 5 - 2.5
    with torch.no_grad():
        coarse, fine = (
            (Lookup(layer, -ends, ends, layer.edges, k)(x) - layer(x)).abs().max().item()
            for k in (table_points(layer), 1024)
        )
    assert fine < 1e-4 < 10 * coarse


def test_constant_inputs_have_constant_tables(looked_at):
    _, layers, _ = looked_at
    layer = next(iter(layers.values()))
    same = torch.full((layer.in_features,), 0.3)
    y = Lookup(layer, same, same, layer.edges)(torch.randn(4, layer.in_features))
    expected = layer.edges(same[None]).sum(-1)
    torch.testing.assert_close(y, expected.expand(4, -1), rtol=1e-5, atol=1e-6)


def test_controls_are_numpys_lines_and_means(looked_at):
    _, layers, observed = looked_at
    name, layer = list(layers.items())[3]
    at = points(observed[name])
    share = weights(observed[name], at)
    known = Replaceable.of(layer, observed[name]).curves
    values = layer.edges(at).detach()
    for i, j in ((0, 0), (3, 5), (7, 2)):
        y, w = values[:, j, i].double().numpy(), share[:, i].double().numpy()
        slope, start = np.polyfit(at[:, i].double().numpy(), y, 1, w=np.sqrt(w))
        found = known["line"](at)[:, j, i].detach().numpy()
        np.testing.assert_allclose(found, start + slope * at[:, i].numpy(), atol=1e-5)
        mean = np.average(y, weights=w)
        np.testing.assert_allclose(known["mean"](at)[:, j, i].detach(), mean, atol=1e-6)
    assert not known["zero"](at).any()
    torch.testing.assert_close(known["spline"](at), values)


def test_some_edges_are_replaced_and_the_others_not(looked_at):
    _, layers, observed = looked_at
    name, layer = next(iter(layers.items()))
    replaced = torch.rand(layer.out_features, layer.in_features) < 0.5
    at = torch.randn(6, layer.in_features)
    found = Replaceable.of(layer, observed[name]).replaced("zero", replaced).curves(at)
    assert (found[:, replaced] == 0).all()
    assert torch.equal(found[:, ~replaced], layer.edges(at)[:, ~replaced])


def test_modules_go_back_to_their_places(looked_at):
    model, _, _ = looked_at
    before = dict(model.named_modules())
    with (
        pytest.raises(RuntimeError, match="stop"),
        swapped(model, {"blocks.0.mlp.into": torch.nn.Identity()}),
    ):
        assert isinstance(model.blocks[0].mlp.into, torch.nn.Identity)
        raise RuntimeError("stop")
    assert dict(model.named_modules()) == before
