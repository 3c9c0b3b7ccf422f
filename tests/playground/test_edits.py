"""Edits of the page on the real run: as the page has them, and files that are none."""

import json

import pytest
import torch

from nanogpkant.cli import main
from nanogpkant.config import RunConfig
from nanogpkant.kan import kan_layers
from nanogpkant.model.gpt import GPT
from nanogpkant.playground.edits import apply
from nanogpkant.playground.recipe import with_curves
from nanogpkant.run.checkpoint import load_checkpoint, weights_hash
from nanogpkant.run.folder import open_run
from nanogpkant.run.load import load_model, load_weights

MODELS = {
    "edges": {"sites": ("mlp_in", "mlp_out"), "kan.spline_scale": True, "kan.prenorm": "rms"},
    "shared": {"sites": ("mlp_out",), "kan.share": "group:2", "kan.basis": "fourier"}
    | {"kan.base": "gpt", "position": "curve", "curve.knots": 4, "conv": "curve"},
    "atoms": {"sites": ("qkv",), "kan.share": "atoms:2", "position": "rope+curve"},
    "beyond": {"sites": (), "position": "curve", "curve.beyond": "linear", "curve.knots": 4},
    "splines beyond": {"sites": (), "position": "curve", "curve.beyond": "linear"}
    | {"curve.basis": "bspline", "curve.knots": 5, "conv": "curve"},
    "slopes": {"sites": ("mlp_out",), "position": "slopes"},
    "alibi": {"sites": (), "position": "alibi"},
}


def some_edits(model):
    """An edit of each kind that a model has, with numbers of chance."""
    edits = []
    for name, layer in kan_layers(with_curves(model)).items():
        if "attention.bias" in name or "kernel" in name:
            numbers = {"values": torch.randn(layer.initial.shape[1]).tolist()}
            if layer.beyond == "linear":
                numbers = {"coefficients": torch.randn(layer.features.size).tolist()}
            edits.append({"kind": "distance", "layer": name, "head": 1} | numbers)
        elif layer.features.is_learned:
            last = {"function": layer.basis.functions - 1, "group": layer.basis.groups - 1}
            numbers = {"spline": [-6, 6, 48], "coefficients": torch.randn(51).tolist()}
            edits.append({"kind": "shared", "layer": name, **last, **numbers})
        else:
            numbers = torch.randn(layer.features.size).tolist()
            place = {"output": 2, "input": 3}
            edits.append({"kind": "edge", "layer": name, **place, "coefficients": numbers})
    return edits


@pytest.mark.parametrize("name", MODELS)
def test_the_edited_model_has_the_pages_logits(name, shaken, run_node):
    settings = dict(MODELS[name])
    model = shaken(settings.pop("sites"), **settings)
    ids, edits = torch.randint(0, 11, (1, 8)), some_edits(model)
    code = """
      const under = new Edits(model);
      const logits = () => model.logits(model.forward(values.ids, new Cache(model)));
      const before = logits(), first = under.set(values.edits), edited = logits();
      under.set([]);
      return [before, edited, logits(), first];"""
    before, edited, after, first = run_node(code, {"ids": ids[0].tolist(), "edits": edits}, model)
    assert before == after and first == 0
    _, changed = apply(model, RunConfig(model=model.config), edits)
    with torch.no_grad():
        wanted = changed(ids)[0]
    # Other functions of an edited layer become splines too, very nearly what they were.
    torch.testing.assert_close(torch.tensor(edited).view_as(wanted), wanted, atol=5e-4, rtol=0)
    assert (torch.tensor(before).view_as(wanted) - wanted).abs().max() > 1e-3


def test_least_squares(run_node):
    code = """
      const basis = splineOf([-2, 2, 8]), rows = values.map((x) => {
        const row = new Float64Array(basis.size);
        basis.expand(x, row);
        return row;
      });
      const fitted = sumOf(basis, new Fitter(rows).solve(values.map(Math.sin)));
      return values.map((x) => fitted(x) - Math.sin(x));"""
    errors = run_node(code, torch.linspace(-2, 2, 65).tolist())
    assert max(map(abs, errors)) < 1e-3


@pytest.fixture
def edited(run_with_curves, tmp_path):
    """A file of edits for the run with curves, and what it holds."""
    trained = load_model(run_with_curves)
    given = {
        "format": "nanogpkant edits 1",
        "step": trained.step,
        "weights": weights_hash(open_run(run_with_curves), trained.step),
        "edits": some_edits(trained.model),
    }
    file = tmp_path / "edits.json"
    file.write_text(json.dumps(given), encoding="utf-8")
    return file, given


def test_the_verb_writes_a_run_that_loads(run_with_curves, edited, tmp_path, capsys):
    file, given = edited
    out = tmp_path / "bent"
    assert main(["edit", str(run_with_curves), "--edits", str(file), "--out", str(out)]) == 0
    assert f"{len(given['edits'])} edited functions" in capsys.readouterr().err
    run, after = open_run(run_with_curves), load_model(out)
    before = GPT(run.config().model, run.tokenizer().vocab_size)
    load_weights(before, load_checkpoint(run))
    _, wanted = apply(before.eval(), run.config(), given["edits"])
    ids = torch.randint(0, 11, (1, 12))
    with torch.no_grad():
        torch.testing.assert_close(after.model(ids), wanted(ids))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: {"format": "x"}, "is no file of edits"),
        (lambda e: e | {"edits": 3}, "holds no edits"),
        (lambda e: e | {"weights": "0"}, "it is for another model"),
        (lambda e: e | {"edits": [{"kind": "edge", "layer": "x"}]}, "edit 1: there is no edge x"),
        (lambda e: e | {"edits": [e["edits"][0] | {"head": 9}]}, "head 9 is not from 0 to 1"),
        (lambda e: e | {"edits": [e["edits"][0] | {"values": [1.0]}]}, "it has 1 numbers"),
        (lambda e: e | {"edits": [e["edits"][0] | {"values": [1e999]}]}, "not finite"),
    ],
)
def test_bad_edits_are_said_in_one_line(run_with_curves, edited, tmp_path, capsys, change, words):
    file, given = edited
    file.write_text(json.dumps(change(given)), encoding="utf-8")
    out = tmp_path / "bent"
    assert main(["edit", str(run_with_curves), "--edits", str(file), "--out", str(out)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line and str(file) in line
    assert not out.exists()


@pytest.mark.parametrize("name", ["beyond", "slopes"])
def test_far_beyond_the_block_the_edited_model_is_the_same(name, shaken, run_node):
    settings = dict(MODELS[name])
    model = shaken(settings.pop("sites"), **settings)
    ids, edits = torch.randint(0, 11, (1, 30)), some_edits(model)
    code = """
      new Edits(model).set(values.edits);
      return model.logits(model.forward(values.ids, new Cache(model)));"""
    edited = run_node(code, {"ids": ids[0].tolist(), "edits": edits}, model)
    _, changed = apply(model, RunConfig(model=model.config), edits)
    with torch.no_grad():
        wanted = changed(ids)[0]
    torch.testing.assert_close(torch.tensor(edited).view_as(wanted), wanted, atol=5e-4, rtol=0)
