"""Shapes that were planted are found again, with the edges that have them."""

import numpy as np
import torch

from nanogpkant.interpretation.fit.atlas import atlas
from nanogpkant.interpretation.judge.evaluator import swapped
from nanogpkant.interpretation.judge.replacements import Lookup
from nanogpkant.interpretation.observe.collect import collect
from nanogpkant.kan import kan_layers


def planted(make_model) -> tuple:
    """A model whose edges are waves of three kinds, of any size and sign; one edge is silent."""
    model = make_model(sites=("mlp_out",), basis="fourier", degree=3, base="none")
    kinds = {}
    random = np.random.default_rng(1)
    for name, layer in kan_layers(model).items():
        kind = torch.from_numpy(random.integers(0, 3, (layer.out_features, layer.in_features)))
        gain = torch.randn(kind.shape).sign() * (0.5 + torch.rand(kind.shape))
        with torch.no_grad():
            layer.weight.zero_()
            layer.weight.scatter_(1, (2 * kind)[:, None], gain[:, None])
            layer.weight[0, :, 0] = 0.0
        kinds[name] = kind
    return model, kinds


def observed_alike(model, text):
    """Inputs that are all spread alike, so that a wave has one shape whatever its input."""
    observed = collect(model, text)
    counts = torch.ones_like(next(iter(observed.values())).counts)
    steps = torch.linspace(-3, 3, counts.shape[1] + 1).expand(len(counts), -1)
    ends = torch.full((len(counts),), 3.0)
    for each in observed.values():
        for name, value in (("counts", counts), ("edges", steps), ("low", -ends), ("high", ends)):
            object.__setattr__(each, name, value.clone())
    return observed


def test_planted_shapes(make_model, text):
    model, kinds = planted(make_model)
    layers, observed = kan_layers(model), observed_alike(model, text)
    found = atlas(layers, observed, k=3, seed=0)
    assert len(found.shapes) == 3
    names = {}
    for name, kind in kinds.items():
        assigned = found.layers[name]
        assert assigned.shape[0, 0] == -1
        assert assigned.gain[0, 0] == 0
        loud = assigned.shape >= 0
        assert loud.sum() == kind.numel() - 1
        for shape, of in zip(assigned.shape[loud].tolist(), kind[loud].tolist(), strict=True):
            assert names.setdefault(shape, of) == of
        assert (assigned.r2[loud] > 0.999).all()
    assert len(set(names.values())) == 3
    edges = sum(kind.numel() for kind in kinds.values())
    table = found.table()
    assert table["edges"].sum() == edges - len(kinds)
    assert (table["edges"].diff().dropna() <= 0).all()
    assert (table["formula_r2"] > 0.99).all()


def test_edges_as_the_atlas_has_them(make_model, text):
    model, _ = planted(make_model)
    layers, observed = kan_layers(model), observed_alike(model, text)
    found = atlas(layers, observed, k=3)
    name, layer = next(iter(layers.items()))
    x = torch.linspace(-3, 3, 50)[:, None].expand(-1, layer.in_features)
    torch.testing.assert_close(found.curves(name, observed[name])(x), layer.edges(x).detach(),
                               rtol=0, atol=0.02)  # fmt: skip
    ends = torch.full((layer.in_features,), 3.0)
    made = Lookup(layer, -ends, ends, found.curves(name, observed[name]))
    with torch.no_grad(), swapped(model, {name: made}):
        assert model(torch.randint(11, (2, 16))).isfinite().all()


def test_edges_that_are_all_flat_have_no_shape(make_model, text):
    model = make_model()
    layers, observed = kan_layers(model), collect(model, text)
    with torch.no_grad():
        for layer in layers.values():
            layer.weight.zero_()
    found = atlas(layers, observed)
    assert all((each.shape == -1).all() for each in found.layers.values())
    assert found.table()["edges"].sum() == 0
    for name, layer in layers.items():
        x = torch.randn(5, layer.in_features)
        assert not found.curves(name, observed[name])(x).any()


def test_the_seed_decides(make_model, text):
    model = make_model()
    layers, observed = kan_layers(model), collect(model, text)
    one, again = (atlas(layers, observed, k=5, seed=3) for _ in range(2))
    assert torch.equal(one.shapes, again.shapes)
