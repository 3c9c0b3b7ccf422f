"""Runs of every kind of KAN, trained a little, looked into from end to end."""

import shutil

import pytest

from nanogpkant.cli import main
from nanogpkant.interpretation import Interpretation, summary

pytestmark = pytest.mark.usefixtures("few_ablations")

KINDS = {
    "bspline": {},
    "hat": {"basis": "hat"},
    "rbf": {"basis": "rbf"},
    "chebyshev": {"basis": "chebyshev"},
    "fourier": {"basis": "fourier"},
    "rational": {"basis": "rational", "share": "group:8"},
    "group": {"share": "group:8"},
    "atoms": {"share": "atoms:3"},
    "norm": {"prenorm": "rms"},
}


def trained(experiment, out, *flags: str):
    small = ["--model.n_layer", "1", "--train.max_iters", "2", "--train.sample_tokens", "0"]
    small += ["--model.kan.spline_scale", "false"]
    assert main(["train", str(experiment), "--out", str(out), *small, *flags]) == 0
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_a_run(tiny_experiment, tmp_path, kind):
    flags = [part for key, value in KINDS[kind].items() for part in (f"--model.kan.{key}", value)]
    looked_into(trained(tiny_experiment, tmp_path / "run", *flags))


def test_a_gated_run(tiny_experiment, tmp_path):
    looked_into(trained(tiny_experiment, tmp_path / "run", "--model.activation", "swiglu"))


def test_a_pruned_run(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    flags = ["--share", "0.6", "--out", str(tmp_path / "half")]
    assert main(["prune", str(run), *flags]) == 0
    before, after = (
        len(Interpretation(run, device="cpu", folder=tmp_path / name).edges)
        for name, run in (("whole", tiny_run), ("pruned", tmp_path / "half"))
    )
    assert after < before
    looked_into(tmp_path / "half")


def looked_into(run):
    interpretation = Interpretation(run, budget=64, device="cpu", folder=run / "i")
    found = summary(interpretation)
    totals = found["totals"]
    assert totals["spline"]["kl"] <= 1e-3 + 0.05 * totals["mean"]["kl"]
    assert totals["formula"]["kl"] <= 1e-3 + 0.1 * totals["mean"]["kl"]
    assert found["accepted"] > 0.5
    assert interpretation.edges["r2"].le(1.0001).all()
    assert interpretation.edges["formula"].str.len().gt(0).all()
    assert found["edges"] == sum(
        m.in_features * m.out_features for m in interpretation.layers.values()
    )
    assert sum(found["layer_importance"].values()) == pytest.approx(1, abs=1e-4)
    assert (interpretation.inputs["outside"].between(0, 1)).all()


def test_pruning_leaves_curves_of_distance_alone(tiny_experiment, tmp_path):
    run = trained(tiny_experiment, tmp_path / "run", "--model.position", "curve")
    looked_into(run)
    command = ["prune", str(run), "--share", "0.3", "--out", str(tmp_path / "pruned")]
    assert main([*command, "--device", "cpu"]) == 0
