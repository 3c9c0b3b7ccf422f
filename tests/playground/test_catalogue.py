"""The catalogue of functions: their curves are the model's, their formulas fit them."""

import json

import numpy as np
import pytest
import torch

from nanogpkant.kan import kan_layers
from nanogpkant.playground.recipe import with_curves

ALL = ("qkv", "attn_out", "mlp_in", "mlp_out")
MODELS = {
    "edges": {"sites": ALL, "kan.grid_range": (-2.0, 2.0), "position": "curve"},
    "shared": {"sites": ("mlp_out",), "kan.share": "group:2", "kan.basis": "fourier"}
    | {"position": "curve", "conv": "curve"},
    "atoms": {"sites": ("mlp_in",), "kan.share": "atoms:2"},
    "beyond": {"sites": (), "position": "curve", "curve.beyond": "linear", "curve.knots": 4},
    "slopes": {"sites": (), "position": "slopes"},
}


@pytest.mark.parametrize("name", MODELS)
def test_curves_and_formulas(name, shaken, run_node):
    settings = dict(MODELS[name])
    model = shaken(settings.pop("sites"), **settings)
    text = np.random.default_rng(0).integers(0, 11, 2000).astype(np.uint16)
    code = """
      return [...catalogue.shapes.values()].map((shape) => {
        const { kind, layer, points, density, importance, formula, controls } = shape;
        const curve = points.map(shape.original), fitted = shape.of(shape.fit(curve));
        return {
          kind, layer, points, density, importance, controls, curve,
          again: points.map(fitted), formula: formula && {r2: formula.r2, values: formula.values},
          edit: shape.fit(curve),
        };
      });"""
    found = run_node(code, None, model, text=text)
    layers = kan_layers(with_curves(model))
    assert {each["layer"] for each in found} == set(layers)
    for each in found:
        layer, edit = layers[each["layer"]], each["edit"]
        x, curve = torch.tensor(each["points"]), torch.tensor(each["curve"])
        with torch.no_grad():
            if each["kind"] == "distance":
                wanted = layer.of(x)[edit["head"]]
            elif each["kind"] == "edge":
                wanted = layer.edges(x)[:, edit["output"], edit["input"]]
            else:
                inputs = x[:, None].expand(-1, layer.in_features)
                values = layer.features.expand(inputs, layer.coefficients)
                values = values.unflatten(2, (layer.features.groups, -1))
                wanted = values[:, edit["function"], edit["group"], 0]
        torch.testing.assert_close(curve, wanted, atol=1e-4, rtol=1e-3)
        assert 0 <= each["importance"] <= 1.0001
        spread = curve.std().item() + 1e-3
        assert (torch.tensor(each["again"]) - curve).abs().max() < 0.02 * spread + 1e-3
        if each["density"] is not None:
            assert max(each["density"]) == 1
        if each["kind"] == "distance" or each["formula"]["r2"] < 0.999:
            continue  # fitted where attention goes, or hardly at all
        low, high = each["controls"][0], each["controls"][-1]
        density = torch.tensor(each["density"])
        bins = ((x - low) / (high - low) * len(density)).floor().long()
        inside = (bins >= 0) & (bins < len(density))
        weight = density[bins[inside]] / density[bins[inside]].sum()
        away = torch.tensor(each["formula"]["values"])[inside] - curve[inside]
        middle = curve[inside] - (weight * curve[inside]).sum()
        assert (weight * away.square()).sum() < 0.02 * (weight * middle.square()).sum() + 1e-6


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("0.5 - 2 * x", "0.5 - 2*x"),
        ("0.7", "0.7"),
        ("1 + 3 * Math.tanh(2 * x - 1)", "tanh(2"),
        ("x + 0.5 * Math.sin(3 * x + 1)", "sin(3"),
        ("Math.exp(-((1.5 * x + 0.5) ** 2))", "gaussian(1.5"),
        ("2 * Math.max(0, x - 0.5)", "relu("),
        ("x ** 3 - x", "^3"),
    ],
)
def test_a_formula_in_the_page(code, words, run_node):
    run = f"""
      const x = values, y = x.map((x) => {code}), ones = x.map(() => 1);
      const {{ at, ...found }} = fitFormula(x, y, ones);
      return {{...found, away: Math.max(...x.map((each, i) => Math.abs(at(each) - y[i])))}};"""
    found = run_node(run, torch.linspace(-2, 2.5, 129).tolist(), text=[])
    assert words in found["text"], found
    assert found["r2"] > 0.998 and found["away"] < 0.15
    assert json.dumps(found["math"]).count('"mn"') >= 1


def test_formulas_in_the_page_are_about_as_good_as_interprets(shaken, run_node):
    """For edges, of which interpret may take two terms."""
    model = shaken(("mlp_in",), **{"kan.grid_range": (-2.0, 2.0)})
    text = np.random.default_rng(0).integers(0, 11, 2000).astype(np.uint16)
    code = """
      return [...catalogue.shapes.values()].slice(0, 40).map((shape) => {
        const { points, density } = shape, weights = points.map((_, p) =>
          0.01 + density[Math.floor(p / (points.length + 1) * density.length)]);
        return [shape.formula.r2, fitFormula(points, points.map(shape.original), weights).r2];
      });"""
    theirs, ours = np.array(run_node(code, None, model, text=text)).T
    assert np.median(theirs - ours) < 0.003
    assert (ours > 0.9).mean() > 0.9
