"""nanogpkant interpret, as people call it, and its page in a real browser."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import chromium
import pandas as pd
import pytest

from nanogpkant.cli import main
from nanogpkant.interpretation import Interpretation
from nanogpkant.interpretation.judge.evaluator import SwapEvaluator

pytestmark = pytest.mark.usefixtures("few_ablations")
FLAGS = ["--budget", "128", "--device", "cpu", "--top", "4"]


@pytest.fixture(scope="module")
def found(tiny_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("command") / "interpret"
    assert main(["interpret", str(tiny_run), *FLAGS, "--out", str(folder)]) == 0
    return folder


def test_everything_is_written(found):
    tables = ("faithfulness", "totals", "pruning", "ablations", "atlas")
    tables += ("layers", "inputs", "outputs")
    assert all(len(pd.read_csv(found / f"{name}.csv")) for name in tables)
    pictures = {p.stem for p in (found / "pictures").iterdir()}
    assert {"faithfulness", "pruning", "families", "importance", "atlas", "worst"} <= pictures
    assert sum(name.startswith("edges_") for name in pictures) == 4
    summary = json.loads((found / "summary.json").read_text("utf-8"))
    assert summary["edges"] == 4 * 16 * 64
    assert set(summary["totals"]) >= {"original", "spline", "formula", "line", "mean", "zero"}
    assert (found / "export" / "edges.parquet").is_file()
    assert 'href="play.html#function=blocks.0.mlp.into/' in (found / "index.html").read_text(
        "utf-8"
    )
    assert (found / "play.html").is_file()


def test_a_second_time_it_goes_on_from_what_is_there(found, tiny_run, capsys):
    before = {p: p.stat().st_mtime_ns for p in (found / "cache").rglob("*.safetensors")}
    assert main(["interpret", str(tiny_run), *FLAGS, "--out", str(found), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["seconds"]["faithfulness"] < 1
    assert before == {p: p.stat().st_mtime_ns for p in (found / "cache").rglob("*.safetensors")}


def test_stopped_in_the_middle_it_goes_on_from_there(tiny_run, tmp_path, capsys, monkeypatch):
    whole, scored = SwapEvaluator.score, []

    def score(evaluator, modules, *progress):
        scored.append(modules)
        if len(scored) == 6:
            raise KeyboardInterrupt
        return whole(evaluator, modules, *progress)

    monkeypatch.setattr(SwapEvaluator, "score", score)
    arguments = ["interpret", str(tiny_run), *FLAGS, "--out", str(tmp_path)]
    assert main(arguments) == 1
    assert "stopped: the same command resumes from here" in capsys.readouterr().err
    results = tmp_path / "cache" / "faithfulness" / "results.json"
    before = json.loads(results.read_text("utf-8"))
    assert len(before) == 4  # and the original
    interpretation = Interpretation(tiny_run, budget=128, device="cpu", folder=tmp_path)
    rows = len(interpretation.faithfulness)
    assert len(scored) == 6 + (rows - len(before)) + 1
    after = json.loads(results.read_text("utf-8"))
    assert before.items() <= after.items()


def test_pruned_run_is_a_run(tiny_run, tmp_path, capsys):
    out, run = tmp_path / "pruned", shutil.copytree(tiny_run, tmp_path / "run")
    flags = ["--share", "0.5", "--out", str(out), "--finetune", "2", "--json"]
    assert main(["prune", str(run), *flags]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["pruned"]["edges"] == pytest.approx(value["before"]["edges"] / 2, rel=0.02)
    saved = (out / "checkpoints").glob("step-*/model.safetensors")
    assert value["pruned"]["weight_bytes"] == pytest.approx(next(saved).stat().st_size, rel=0.05)
    assert main(["eval", str(out), "--json"]) == 0
    loss = json.loads(capsys.readouterr().out)["loss"]
    assert loss == pytest.approx(
        min(value["pruned"]["val_loss"], value["finetuned"]["val_loss"]), abs=1e-4
    )


def test_edges_that_are_gone_are_no_part_of_the_share(tiny_run, tmp_path, capsys):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    for source, out in ((run, "half"), (tmp_path / "half", "quarter")):
        flags = ["--share", "0.5", "--out", str(tmp_path / out), "--json"]
        assert main(["prune", str(source), *flags]) == 0
    edges = [json.loads(line)["pruned"]["edges"] for line in capsys.readouterr().out.splitlines()]
    assert edges[1] == pytest.approx(edges[0] / 2, rel=0.05)


def test_a_run_without_a_state_of_training_is_pruned(tiny_run, tmp_path, capsys):
    shared = tmp_path / "shared"
    assert main(["export", str(tiny_run), "--out", str(shared)]) == 0
    flags = ["--share", "0.5", "--unit", "inputs", "--out", str(tmp_path / "half"), "--json"]
    assert main(["prune", str(shared), *flags]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["pruned"]["weight_bytes"] < 0.9 * value["before"]["weight_bytes"]
    assert sum(n for n, _ in value["shapes"].values()) < 2 * (16 + 64)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--layers", "blocks.7"], "--layers blocks.7"),
        (["--families", "sine"], "--families sine"),
        (["--top", "0"], "--top 0"),
        (["--budget", "-1"], "--budget -1"),
        (["--finetune", "3"], "unknown flag --finetune"),
        (["--neurons", "blocks.0:1"], "--neurons blocks.0:1"),
        (["--lookup", "1"], "--lookup 1"),
        (["--checkpoint", "step-9"], "step-9"),
    ],
)
def test_bad_usage_is_said_in_one_line(tiny_run, tmp_path, capsys, flags, words):
    arguments = ["interpret", str(tiny_run), *flags, "--out", str(tmp_path / "i")]
    assert main(arguments) in (1, 2)
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert words in error[0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--share", "0.5"], "out"),
        (["--share", "1.5", "--out", "x"], "--share 1.5"),
        (["--share", "0.5", "--out", "x", "--finetune", "-1"], "--finetune -1"),
        (["--share", "0.5", "--out", "x", "--lookup", "8"], "unknown flag --lookup"),
        (["--share", "0.5", "--out", "x", "--score", "best"], "--score best"),
    ],
)
def test_bad_pruning_is_said_in_one_line(tiny_run, tmp_path, capsys, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    assert main(["prune", str(tiny_run), *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert not (tmp_path / "x").exists()


def test_a_run_without_kan_layers(tiny_experiment, tmp_path, capsys):
    plain = tmp_path / "plain"
    flags = ["--model.kan.sites", "[]", "--train.max_iters", "1", "--out", str(plain)]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    capsys.readouterr()
    assert main(["interpret", str(plain)]) == 1
    assert "has no KAN layers" in capsys.readouterr().err


def test_weights_that_are_not_finite(tiny_run, tmp_path, capsys):
    import torch

    from nanogpkant.base.errors import UserError
    from nanogpkant.interpretation import Interpretation

    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    interpretation = Interpretation(run, device="cpu")
    with torch.no_grad():
        interpretation.layers["blocks.1.mlp.into"].weight[0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        _ = interpretation.edges


@pytest.mark.parametrize("package", ["pandas", "sklearn"])
def test_without_a_package_of_the_extra(tiny_run, tmp_path, package):
    script = (
        f"import sys; sys.modules['{package}'] = None\n"
        "from nanogpkant.cli import main\n"
        f"sys.exit(main(['interpret', {str(tiny_run)!r}, '--out', {str(tmp_path / 'i')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert package in line
    assert "pip install 'nanogpkant[interpret]'" in line


def test_more_edges_than_memory(tiny_run, tmp_path, capsys, monkeypatch):
    flags = ["--out", str(tmp_path), "--device", "cpu"]
    monkeypatch.setattr("nanogpkant.interpretation.interpretation.ROW_BYTES", 10**12)
    assert main(["interpret", str(tiny_run), *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "4,096 edges" in line
    assert "--layers" in line
    kept = {p.name for p in (tmp_path / "cache" / "formulas").glob("*.safetensors")}
    assert len(kept) == 4

    def full(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("nanogpkant.interpretation.interpretation.tabulate", full)
    (tmp_path / "cache" / "formulas" / "blocks.1.mlp.out.safetensors").unlink()
    assert main(["interpret", str(tiny_run), *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory: take fewer layers")


@pytest.mark.skipif(chromium.PROGRAM is None, reason="needs Chromium")
def test_the_page_works_offline_in_every_size_and_colour(found, tmp_path):
    with chromium.Page(tmp_path) as page:
        for width in (1280, 400):
            for dark in (False, True):
                page.open(found / "index.html", width, dark)
                assert page.complaints() == []
                assert all(url.startswith(("file:", "data:")) for url in page.requests())
                wide = page.value("document.documentElement.scrollWidth")
                assert wide <= width, "the page is wider than its window"
        page.open(found / "index.html", 1280)
        # What is said of a point is so there, though points lie closer where inputs do.
        card = "document.querySelectorAll('section .card')[40]"
        page.value(f"{card}.closest('details')?.setAttribute('open', '')")
        for share in (0.0, 0.2, 0.6, 1.0):
            said = page.value(
                f"""(() => {{
                    const svg = {card}.querySelector("svg"), box = svg.getBoundingClientRect();
                    svg.dispatchEvent(new PointerEvent("pointermove", {{
                        clientX: box.left + {share} * box.width, clientY: box.top + 5}}));
                    return document.getElementById("tip").textContent;
                }})()"""
            )
            x, y = map(float, re.match(r"φ\((.+?)\) = (.+?);", said).groups())
            xs, ys = (
                [float(v) for v in page.value(f"{card}.dataset.{axis}").split()] for axis in "xy"
            )
            wanted = xs[0] + share * (xs[-1] - xs[0])
            assert abs(x - wanted) == pytest.approx(min(abs(v - wanted) for v in xs), abs=1e-3)
            assert y == ys[xs.index(x)]
        tables = "[...document.querySelectorAll('table')]"
        last = f"{tables}.at(-1)"
        page.value(f"{last}.closest('details')?.setAttribute('open', '')")
        heads = page.value(f"[...{last}.tHead.rows[0].cells].map(c => c.textContent.trim())")
        column = heads.index("R²")
        head = f"{last}.tHead.rows[0].cells[{column}]"
        page.value(f"({head}.querySelector('button') ?? {head}).click()")
        shown = page.value(
            f"[...{last}.tBodies[0].rows].map(r => parseFloat(r.cells[{column}].textContent))"
        )
        assert len(shown) > 100
        assert shown in (sorted(shown), sorted(shown, reverse=True))
