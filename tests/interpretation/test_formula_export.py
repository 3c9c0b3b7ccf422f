"""Formulas taken elsewhere say what they said here: through tables, sympy and back."""

import json

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import sympy
import torch

from nanogpkant.base.errors import UsageError
from nanogpkant.base.files import sha256_of
from nanogpkant.interpretation import Interpretation
from nanogpkant.interpretation.fit.families import FAMILIES
from nanogpkant.interpretation.fit.formulas import fit
from nanogpkant.interpretation.observe.curves import points
from nanogpkant.interpretation.show.export import expression, neuron, write_export


@pytest.fixture(scope="module")
def interpretation(tiny_run, tmp_path_factory) -> Interpretation:
    folder = tmp_path_factory.mktemp("interpret")
    return Interpretation(tiny_run, budget=128, device="cpu", folder=folder)


@pytest.fixture(scope="module")
def exported(interpretation):
    manifest = write_export(interpretation, top=3, neurons=["blocks.1.mlp.out:2"], lookup=200)
    return interpretation.folder / "export", manifest


def values(row, x: np.ndarray) -> np.ndarray:
    """The row's formula at x, by sympy alone."""
    symbol = sympy.Symbol("x", real=True)
    function = sympy.lambdify(symbol, expression(row, symbol), ["scipy", "numpy"])
    return np.broadcast_to(function(x), x.shape)


def test_the_table_through_sympy_gives_the_fitted_values(interpretation, exported):
    table = pd.read_parquet(exported[0] / "edges.parquet")
    assert len(table) == sum(m.in_features * m.out_features for m in interpretation.layers.values())
    for name, rows in table.groupby("layer"):
        at = points(interpretation.observed[name])
        fitted = interpretation.fits[name].evaluate(at.double()).numpy()
        for row in rows.to_dict("records")[::37]:
            x = at[:, row["input"]].double().numpy()
            expected = fitted[:, row["output"], row["input"]]
            assert np.abs(values(row, x) - expected).max() <= 1e-5 * max(expected.std(), 1e-6)


def test_the_text_of_a_formula_is_the_formula(interpretation, exported):
    table = pd.read_csv(exported[0] / "edges.csv", keep_default_na=False)
    assert len(table) == len(interpretation.edges)
    x = sympy.Symbol("x", real=True)
    named = {f.name: (lambda z, f=f: sympy.sympify(f.expression, {"z": z})) for f in FAMILIES}
    for row in table.to_dict("records")[::97]:
        written = sympy.sympify(row["formula"].replace("^", "**"), named | {"x": x})
        at = points(interpretation.observed[row["layer"]])[1:-1].double()
        fitted = (
            interpretation.fits[row["layer"]].evaluate(at)[:, row["output"], row["input"]].numpy()
        )
        found = sympy.lambdify(x, written, ["scipy", "numpy"])(at[:, row["input"]].numpy())
        assert np.abs(found - fitted).max() <= 0.03 * max(np.ptp(fitted), 1e-6)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_is_the_same_function_in_sympy(family):
    x = torch.linspace(-1.3, 2.9, 64)
    u = (x - 0.8) / 2.1
    starts = family.starts()
    rate, offset = starts[starts[:, 1].abs().argmin()]  # bends and poles far from the ends
    planted = 0.3 + 2 * family.value(rate * u + offset)
    fits = fit(x[:, None], torch.full((64, 1), 1 / 64), planted[:, None, None], [family.name])
    row = fits.table().iloc[0]
    inside = x[1:-1].double()  # at the very ends a rounding error is beyond the range
    fitted = fits.evaluate(inside[:, None])[:, 0, 0].numpy()
    assert row["term"] == family.name or row["r2"] > 0.999
    assert np.abs(values(row, inside.numpy()) - fitted).max() <= 1e-5 * fitted.std()


def test_a_neuron_is_the_sum_of_its_edges(interpretation, exported):
    found = neuron(interpretation, "blocks.1.mlp.out", 2)
    symbols = sorted(found.free_symbols, key=lambda s: int(s.name[2:]))
    at = points(interpretation.observed["blocks.1.mlp.out"]).double()
    x = at[20].numpy()
    function = sympy.lambdify(symbols, found, ["scipy", "numpy"])
    expected = interpretation.fits["blocks.1.mlp.out"].evaluate(at[20:21])[0, 2].sum().item()
    assert function(*x[[int(s.name[2:]) for s in symbols]]) == pytest.approx(expected, abs=1e-5)
    written = json.loads((exported[0] / "formulas.json").read_text("utf-8"))
    again = sympy.sympify(written["neurons"]["blocks.1.mlp.out:2"]["sympy"])
    again = sympy.lambdify(sorted(again.free_symbols, key=lambda s: int(s.name[2:])), again)
    assert again(*x[[int(s.name[2:]) for s in symbols]]) == pytest.approx(expected, abs=1e-5)
    assert len(written["edges"]) == 3 * len(interpretation.layers)
    assert all(r"\\" not in edge["latex"] and edge["latex"] for edge in written["edges"])
    for edge in written["edges"]:
        complexities, names, r2 = zip(*edge["pareto"], strict=True)
        assert list(complexities) == sorted(set(complexities))
        assert list(r2) == sorted(set(r2))
        assert r2[-1] >= edge["r2"] - 2e-3  # the front is kept as float16
        assert names[0] == "constant"


def test_lookup_tables_are_the_edges(interpretation, exported):
    saved = safetensors.torch.load_file(exported[0] / "lookup.safetensors")
    for name, layer in interpretation.layers.items():
        low, high, table, scale = (
            saved[f"{name}/{part}"].double().numpy() for part in ("low", "high", "values", "scale")
        )
        x = torch.from_numpy(low + 0.37 * (high - low)).float()[None]
        expected = layer.edges(x)[0].detach().numpy()  # (m, n)
        for i in range(layer.in_features):
            grid = np.linspace(low[i], high[i], len(table))
            for j in range(layer.out_features):
                found = scale * np.interp(x[0, i].item(), grid, table[:, j, i])
                assert abs(found - expected[j, i]) < 2e-3 * scale


def test_the_manifest_says_what_of(interpretation, exported):
    folder, manifest = exported
    assert manifest == json.loads((folder / "manifest.json").read_text("utf-8"))
    assert set(manifest["files"]) == {p.name for p in folder.iterdir()} - {"manifest.json"}
    assert all(sha256_of(folder / name) == sha for name, sha in manifest["files"].items())
    assert manifest["weights_sha256"] == interpretation.identity["weights"]
    assert manifest["lookup"]["beyond"].startswith("constant")


@pytest.mark.parametrize("wrong", ["nowhere:1", "blocks.0.mlp.into", "blocks.0.mlp.into:64", ":3"])
def test_no_such_neuron(interpretation, wrong):
    with pytest.raises(UsageError, match="--neurons"):
        write_export(interpretation, neurons=[wrong])


def test_a_table_of_one_point_is_none(interpretation):
    with pytest.raises(UsageError, match="--lookup 1"):
        write_export(interpretation, lookup=1)
