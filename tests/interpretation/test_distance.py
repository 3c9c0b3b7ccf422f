"""Curves of distance: their formulas, what these cost in loss, and where a person sees them."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import sympy
import torch

from nanogpkant.cli import main
from nanogpkant.interpretation import Interpretation
from nanogpkant.interpretation.fit.distance import attended, fit_curve, with_values
from nanogpkant.interpretation.judge.evaluator import SwapEvaluator
from nanogpkant.interpretation.judge.replacements import curve_replacements
from nanogpkant.kan.curve import DistanceCurve

pytestmark = pytest.mark.usefixtures("few_ablations")
BIAS, KERNEL = "attention.bias", "attention.convolution.kernel"
CURVES = [f"blocks.{block}.{name}" for block in (0, 1) for name in (BIAS, KERNEL)]
ONLY_CURVES = ["--model.kan.sites", "[]", "--model.position", "curve"]


@pytest.fixture(scope="module")
def curve_run(tiny_experiment, tmp_path_factory):
    """A run whose only KAN functions are curves, of distance and of the lag."""
    out = tmp_path_factory.mktemp("runs") / "curves"
    flags = [*ONLY_CURVES, "--model.conv", "curve", "--optim.function_learning_rate", "0.1"]
    assert main(["train", str(tiny_experiment), *flags, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def found(curve_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("interpret") / "curves"
    flags = ["--budget", "128", "--device", "cpu", "--out", str(folder)]
    assert main(["interpret", str(curve_run), *flags]) == 0
    return folder


def table(values: torch.Tensor) -> DistanceCurve:
    return DistanceCurve(values, knots=values.shape[1], scale="linear")


LAWS = {
    "the same at every distance": lambda d: 0 * d + 0.7,
    "a line in d, as ALiBi's": lambda d: 0.3 - 0.05 * d,
    "a line in log2(1 + d)": lambda d: 1 - 0.6 * torch.log2(1 + d),
    "a power of 1 + d": lambda d: 5 * (1 + d) ** -1.5 - 1,
    "an exponential of d": lambda d: 3 * torch.exp(-d / 9) - 1,
}


def test_the_laws_of_the_field_are_found() -> None:
    values = torch.stack([law(torch.arange(96.0)) for law in LAWS.values()])
    curve = table(values)
    rows = with_values(BIAS, curve, fit_curve(BIAS, curve, None)).table()
    assert list(rows["verdict"]) == list(LAWS)
    assert rows["r2"].min() > 0.9999
    assert rows["rms"].max() < 0.01
    assert rows["formula"][1] == "0.3 - 0.05*d"
    assert rows["formula"][2] == "1 - 0.6*log2(1 + d)"
    assert rows["formula"][3].endswith("*(1 + d)^-1.5")


def test_weights_are_those_of_attention() -> None:
    scores = torch.randn(2, 40, dtype=torch.float64)
    distance = torch.arange(40)[:, None] - torch.arange(40)
    bias = scores[:, distance.clamp(min=0)].masked_fill(distance < 0, -torch.inf)
    share = bias.softmax(-1)  # (H, T, T)
    wanted = torch.stack([share.diagonal(-d, 1, 2).sum(1) / 40 for d in range(40)], 1)
    torch.testing.assert_close(attended(scores), wanted)


def test_a_run_of_curves_alone_is_interpreted(found) -> None:
    heads = pd.read_csv(found / "curves.csv")
    assert list(dict.fromkeys(heads["layer"])) == CURVES
    assert list(heads["head"]) == [0, 1] * 4
    assert (found / "pictures" / "curves.png").stat().st_size > 10_000
    summary = json.loads((found / "summary.json").read_text("utf-8"))
    assert summary["curves"]["heads"] == 8
    assert set(summary["curves"]["totals"]) >= {"original", "formula", "line", "mean", "start"}
    page = (found / "index.html").read_text("utf-8")
    assert "8 curves of distance" in page
    assert page.count('class="card"') == 8
    assert not (found / "export" / "edges.parquet").exists()


def test_the_exported_formulas_are_the_exported_values(found) -> None:
    formulas = json.loads((found / "export" / "formulas.json").read_text("utf-8"))["curves"]
    values = safetensors.torch.load_file(found / "export" / "curves.safetensors")
    assert {(row["layer"], row["head"]) for row in formulas} == {
        (n, h) for n in CURVES for h in (0, 1)
    }
    for row in formulas:
        wanted = values[row["layer"]][row["head"]].numpy()
        d = sympy.Symbol("d")
        function = sympy.lambdify(d, sympy.sympify(row["sympy"], {"d": d}), ["scipy", "numpy"])
        at = np.arange(len(wanted), dtype=np.float64)
        written = np.broadcast_to(function(at), at.shape)
        assert np.abs(written - wanted).max() <= 1e-4 * max(1, np.abs(wanted).max())


def test_a_table_of_the_curve_itself_changes_nothing(curve_run, tmp_path) -> None:
    interpretation = Interpretation(curve_run, budget=128, device="cpu", folder=tmp_path)
    model = interpretation.model
    evaluator = SwapEvaluator(model, interpretation.data.val, 512)
    fits = interpretation.curve_fits
    same, other = (
        {n: {"is": f(e)} for n, e in fits.items()}
        for f in (lambda e: e.values, lambda e: -e.values)
    )
    scores = []
    for values in (same, other):
        replaced = curve_replacements(values, torch.device("cpu"))[1]
        assert replaced.labels == {"layers": "all", "replacement": "is"}
        scores.append(evaluator.score(replaced.modules()))
    assert scores[0].kl < 1e-8
    assert scores[1].kl > 1e-4


def test_edges_and_curves_of_one_run(run_with_curves, tmp_path, capsys) -> None:
    run = shutil.copytree(run_with_curves, tmp_path / "run")
    flags = ["--budget", "128", "--device", "cpu", "--top", "1"]
    assert main(["interpret", str(run), *flags, "--layers", "blocks.1"]) == 0
    told = capsys.readouterr().out
    assert "edges replaced by its formula" in told
    assert "2 curves of distance replaced by its formula" in told
    assert "blocks.1.attention.bias, head 1: " in told
    folder = run / "interpret"
    assert set(pd.read_csv(folder / "layers.csv")["layer"]) == {
        "blocks.1.mlp.into",
        "blocks.1.mlp.out",
    }
    assert main(["interpret", str(run), *flags, "--layers", "blocks.0.attention.bias"]) == 0
    files = {path.name for path in (folder / "export").iterdir()}
    assert files == {"curves.csv", "curves.safetensors", "formulas.json", "manifest.json"}


def test_curves_are_not_pruned(curve_run, tmp_path, capsys) -> None:
    assert main(["prune", str(curve_run), "--share", "0.5", "--out", str(tmp_path / "p")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "has curves of distance alone: nothing to prune" in line
