"""What is watched of a model, against the activations themselves."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nanogpkant.base.errors import UserError
from nanogpkant.data import blocks
from nanogpkant.interpretation.observe.collect import BINS, _Histogram, collect
from nanogpkant.kan import kan_layers


def inputs_of(model, layer, text) -> np.ndarray:
    """(tokens, n): all that a layer's functions see of a text."""
    seen = []
    handle = layer.register_forward_hook(
        lambda module, args, _: seen.append(module.normalise(args[0]).flatten(0, -2))
    )
    with torch.no_grad():
        for x, _ in blocks(text, model.config.block_size, 16):
            model(x)
    handle.remove()
    return torch.cat(seen).numpy()


@pytest.mark.parametrize("prenorm", ["none", "rms"])
def test_histograms_and_moments_are_those_of_the_inputs(make_model, text, prenorm):
    model = make_model(prenorm=prenorm)
    observed = collect(model, text)
    assert list(observed) == list(kan_layers(model))
    for name, layer in kan_layers(model).items():
        seen, x = observed[name], inputs_of(model, layer, text)
        assert seen.tokens == len(x) == len(text) - 1
        assert (seen.counts.sum(1) == len(x)).all()
        np.testing.assert_allclose(seen.mean, x.mean(0), atol=1e-5)
        np.testing.assert_allclose(seen.std, x.std(0), rtol=1e-3, atol=1e-5)
        width = (seen.edges[:, 1] - seen.edges[:, 0]).numpy()
        low, high = np.quantile(x, [0.001, 0.999], axis=0)
        # Of 3000 inputs the quantile lies among the outermost three.
        order = np.sort(x, axis=0)
        assert (seen.low.numpy() >= order[0]).all()
        assert (seen.low.numpy() <= np.maximum(order[4], low) + width).all()
        assert (seen.high.numpy() <= order[-1]).all()
        assert (seen.high.numpy() >= np.minimum(order[-5], high) - width).all()
        outside = ((x < -3) | (x > 3)).mean(0)
        np.testing.assert_allclose(seen.outside, outside, atol=1e-6)
        for number in range(0, layer.in_features, 5):
            borders = seen.edges[number].double().numpy()
            # A value on a border may be counted on either side of it.
            values, near = np.sort(x[:, number]), 1e-3 * width[number]
            counted = np.append(0, seen.counts[number].cumsum(0).numpy())
            assert (counted >= np.searchsorted(values, borders - near)).all()
            assert (counted <= np.searchsorted(values, borders + near, side="right")).all()


def test_gradients_are_those_of_the_summed_loss(make_model, text):
    model = make_model()
    short = text[:257]  # one batch, which also goes backward
    observed = collect(model, short)
    (name, layer), *_ = list(kan_layers(model).items())[3:]
    kept = []
    handle = layer.register_forward_hook(lambda module, args, y: kept.append(y) or y.retain_grad())
    for x, y in blocks(short, 16, 16):
        F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum").backward()
    handle.remove()
    rows = torch.cat([y.grad.flatten(0, -2) for y in kept])
    expected = rows.double().square().mean(0).sqrt()
    torch.testing.assert_close(observed[name].grad_rms.double(), expected, rtol=1e-4, atol=1e-8)


def test_the_model_is_left_as_it_was(make_model, text):
    model = make_model().train()
    model.tokens.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    collect(model, text, max_tokens=512)
    assert model.training
    assert all(not layer._forward_hooks for layer in kan_layers(model).values())
    assert not model.tokens.weight.requires_grad
    assert model.positions.weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_long_text_is_read_in_windows_that_the_seed_decides(make_model, text):
    model = make_model()
    name = next(iter(kan_layers(model)))
    one, again, other = (collect(model, text, max_tokens=512, seed=s)[name] for s in (1, 1, 2))
    assert one.tokens == 512
    assert torch.equal(one.counts, again.counts)
    assert not torch.equal(one.mean, other.mean)


def test_a_model_that_diverged(make_model, text):
    model = make_model()
    with torch.no_grad():
        model.blocks[0].mlp.into.weight[0] = torch.nan
    with pytest.raises(UserError, match=r"blocks\.0\.mlp\.out are not finite.*checkpoint"):
        collect(model, text)


def test_a_layer_that_is_never_called(make_model, text):
    model = make_model()
    model.spare = make_model().blocks[0].mlp.out
    with pytest.raises(UserError, match="spare was never called"):
        collect(model, text)


def test_ranges_of_histograms_double_and_lose_nothing():
    histogram = _Histogram(torch.tensor([[0.0, 5.0], [1.0, 5.0]]))
    rows = torch.tensor([[0.5, 5.0], [40.0, 5.0], [-70.0, 5.001], [1e4, 4.0]])
    for row in rows:
        histogram.add(row[None])
    assert histogram.counts.sum(1).tolist() == [4, 4]
    edges = histogram.edges()
    assert (edges[:, 0] <= rows.amin(0)).all()
    assert (edges[:, -1] >= rows.amax(0)).all()
    assert edges.shape == (2, BINS + 1)


def test_a_constant_input_has_no_width():
    x = torch.full((100, 1), 0.7)
    histogram = _Histogram(x)
    histogram.add(x)
    low, high = histogram.quantiles((0.001, 0.999))
    assert low == high == pytest.approx(0.7)
