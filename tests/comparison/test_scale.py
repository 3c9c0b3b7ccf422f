"""Studies: read, planned, trained with a kill in between, measured by rule, fitted and reported."""

import csv
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from planted import GRIDS, planted

from nanogpkant.base.errors import UserError
from nanogpkant.cli import main
from nanogpkant.comparison.runs import load_run
from nanogpkant.comparison.scaling.cells import Cell, plan_study, short
from nanogpkant.comparison.scaling.findings import Measured, find, measure, save_fit
from nanogpkant.comparison.scaling.law import Fit, fit
from nanogpkant.comparison.scaling.report import answer, write_report
from nanogpkant.comparison.scaling.study import Study, load_study
from nanogpkant.model.counting import count

pytestmark = pytest.mark.timeout(600)  # each run of a study is a process
ROOT = Path(__file__).resolve().parents[2]
PAGES = ("scaling", "clusters")
ONE_SIZE = {"sizes": [3000], "tokens": [640, 1280, 1920]}


@pytest.fixture(scope="session")
def content(tiny_experiment: Path) -> dict:
    """Two families at two sizes and two numbers of tokens: 16 runs of a few steps."""
    preset = str(tiny_experiment)
    return {
        "families": [
            {"name": "gpt", "preset": preset, "overrides": {"model.kan.sites": []}},
            {"name": "kan", "preset": preset, "overrides": {"model.kan.spline_scale": False}},
        ],
        "sizes": [3000, 9000],
        "tokens": [640, 1280],
        "seeds": [1, 2],
        "learning_rate": {8: 0.02, 16: 0.01},
        "shape": {"head_size": 8, "width_per_layer": 16, "min_layers": 1},
        "repeat_flops": 1,
    }


def write(folder: Path, content: dict, **changes: object) -> Path:
    file = folder / "growth.yaml"
    plain = json.loads(json.dumps(content | changes))
    file.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def trained(content: dict, trained_here, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of three cells that was killed and resumed. Not to be changed."""
    folder = tmp_path_factory.mktemp("study")
    file = write(folder, content, families=content["families"][:1], **ONE_SIZE)
    command = ["scale", str(file), "--out", str(folder / "runs")]
    process = subprocess.Popen([sys.executable, "-m", "nanogpkant.cli", *command])
    deadline = time.monotonic() + 280
    while not list(folder.glob("runs/growth/*/seed-1-trunk-*/metrics.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while main(command) != 0:  # the killed one's child may still be training
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return folder


def planned(folder: Path, content: dict, **changes: object) -> tuple[list, list]:
    return plan_study(load_study(write(folder, content, **changes)), folder / "runs")


def test_sizes_rates_and_branches_follow_the_rules(content: dict, tmp_path: Path) -> None:
    cells, runs = planned(tmp_path, content)
    assert [(c.family, c.seed, c.tokens) for c in cells[:2]] == [("gpt", 1, 640), ("gpt", 1, 1280)]
    assert len(cells) == 8  # seed 2 would cost more than repeat_flops
    for cell in cells:
        model, optim = cell.run.config.model, cell.run.config.optim
        assert model.n_embd == 8 * model.n_head
        assert model.n_layer == max(1, round(model.n_embd / 16))
        assert cell.parameters == count(model, 20).parameters
        assert cell.grid == (2 if cell.family == "kan" else None)
        assert cell.edges <= cell.parameters
        assert optim.learning_rate == pytest.approx(0.02 * (model.n_embd / 8) ** -1, rel=1e-3)
    trunk_1, cell_1, trunk_2, cell_2 = (run.config for run in runs[:4])
    assert [run.train.max_iters for run in (trunk_1, cell_1, trunk_2, cell_2)] == [8, 10, 16, 20]
    assert not trunk_2.optim.decay_lr
    assert (cell_2.optim.decay_iters, cell_2.optim.min_lr) == (4, 0.0)
    assert [run.after for run in runs[:4]] == [None, runs[0].path, runs[0].path, runs[2].path]
    everyone, _ = planned(tmp_path, content | {"repeat_flops": "inf"})
    assert len(everyone) == 16


def test_a_killed_study_goes_on_and_says_why_there_is_no_fit(trained: Path, capsys) -> None:
    folder = trained / "runs" / "growth"
    file = trained / "growth.yaml"
    cells, runs = plan_study(load_study(file), trained / "runs")
    assert {run.state for run in runs} == {"finished"}
    text = (folder / "report" / "report.md").read_text(encoding="utf-8")
    assert "There is no fit: gpt has 1 distinct number of parameters" in text
    with open(folder / "report" / "cells.csv", encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    losses = [load_run(cell.run.path).last_loss("all") for cell in cells]
    assert [float(row["loss"]) for row in rows] == losses
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.jsonl")}
    assert main(["scale", str(file), "--out", str(trained / "runs")]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.jsonl")} == before
    assert "there will be no fit" in capsys.readouterr().err


def test_a_dry_run_says_what_is_left(trained: Path, capsys) -> None:
    command = ["scale", str(trained / "growth.yaml"), "--out", str(trained / "runs"), "--dry_run"]
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["cells"], row["finished"], row["seconds_left"]) for row in rows] == [(3, 3, 0)]
    assert all(row["memory"] > 0 and row["flops"] > 0 for row in rows)


def test_cells_are_left_out_by_rule_and_named(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    file = shutil.copy(trained / "growth.yaml", tmp_path)
    cells, _ = plan_study(load_study(Path(file)), tmp_path / "runs")
    first, second, last = cells
    shutil.rmtree(first.run.path)
    metrics = second.run.path / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    rows[-1]["loss"] = 5.0
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    measured, left_out = measure(cells, {})
    assert [each.cell for each in measured] == [last]
    assert left_out[first.name] == "missing"
    assert left_out[second.name].startswith("diverged: its loss 5.000")
    assert measure(cells, {last.name: "the loss is nan"})[1][last.name] == "the loss is nan"

    environment = last.run.path / "environment.json"
    changed = json.loads(environment.read_text(encoding="utf-8")) | {"data_fingerprint": "other"}
    environment.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(UserError, match="were trained on different data"):
        measure([second, last], {})


@pytest.mark.usefixtures("trained_here")
def test_a_failure_stops_the_runs_that_continue_it(content: dict, tmp_path: Path, capsys) -> None:
    mad = content["families"][0] | {"learning_rate": {8: 1e18}}
    file = write(tmp_path, content, families=[mad], sizes=[3000], tokens=[640])
    assert main(["scale", str(file), "--out", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "2 of 2 runs failed" in captured.err
    assert "it continues gpt-" in captured.out
    assert (tmp_path / "growth" / "report" / "report.html").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"families": []}, "families []: must be a list"),
        ({"sizes": ["many"]}, "sizes 'many': must be a number above 0"),
        ({"sizes": [3000, 3001]}, "3,000 and 3,001 are the same model"),
        ({"tokens": [10]}, "too few for a cooldown"),
        ({"tokens": [640, 641]}, "as many as another one's"),
        ({"overrides": {"optim.warmup_iters": 9}}, "would begin within optim.warmup_iters 9"),
        ({"overrides": {"model.n_layer": 2}}, "model.n_layer is decided by sizes and shape"),
        ({"overrides": {"train.max_iters": 2}}, "train.max_iters is decided by tokens"),
        ({"learning_rate": 0.1}, "learning_rate 0.1: must be rates by width"),
        ({"cooldown": 1}, "cooldown 1: must be a share of a run"),
        ({"seeds": [1, 1]}, "seeds: 1 stands there twice"),
        ({"shape": {"heads": 2}}, "unknown key shape.heads"),
        ({"shape": {"head_size": 0}}, "shape.head_size 0: must be a whole number"),
        ({"most_flops": 1}, "most_flops 1: every run takes more"),
        ({"budget": 3}, "unknown key budget"),
    ],
)
def test_refused_files(content: dict, tmp_path: Path, capsys, changes: dict, words: str) -> None:
    assert main(["scale", str(write(tmp_path, content, **changes)), "--out", str(tmp_path)]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and "growth.yaml" in line and words in line


def test_grids_that_change_are_refused(content: dict, tmp_path: Path, capsys) -> None:
    kan = content["families"][1]
    growing = kan | {"overrides": kan["overrides"] | {"grid.update_every": 6}}
    file = write(tmp_path, content, families=[growing])
    assert main(["scale", str(file), "--out", str(tmp_path)]) == 2
    assert "family kan: its grids change" in capsys.readouterr().err


def test_a_file_that_is_none(tmp_path: Path, capsys) -> None:
    assert main(["scale", str(tmp_path / "no.yaml")]) == 1
    assert main(["scale", "study.txt"]) == 2
    assert main(["scale", str(tmp_path / "no.yaml"), "--ray_address", "auto"]) == 2
    assert "add --launcher ray" in capsys.readouterr().err


@pytest.fixture(scope="module")
def found():
    """The findings of planted points; grids have as many coefficients as they have intervals."""
    measured = []
    for point in planted(0, ("plain", "hat2", "hat8")):
        grid = GRIDS.get(point.family)
        edges = round(point.parameters / (1 + (grid or 0)))
        flops = int(7 * point.parameters * point.tokens)
        shape = (point.family, short(point.parameters), int(point.parameters), edges, grid)
        run = SimpleNamespace(name=point.family)
        cell = Cell(*shape, point.seed, int(point.tokens), flops, run)  # pyright: ignore
        measured.append(Measured(cell, float(point.loss), flops / 5e10))
    with pytest.MonkeyPatch.context() as patch:
        few_draws = partial(fit, draws=60)
        patch.setattr("nanogpkant.comparison.scaling.findings.fit", few_draws)
        return find(measured, {"hat2-1.6M seed 1 16M tokens": "diverged"})


def test_held_out_cells_and_gamma(found) -> None:
    assert [each.point.parameters for each in found.held_out] == [1.6e6] * 3
    assert sum(each.is_inside for each in found.held_out) >= 2
    assert found.gamma_of_weights == pytest.approx(1, abs=0.01)
    low, high = found.gridded.interval(lambda law: law.gamma)
    assert low - 0.1 <= 0.7 <= high + 0.1  # planted: 0.3 below that of weights
    assert set(found.freed) == {"plain", "hat2", "hat8"}


@pytest.mark.parametrize("key", ["parameters", "tokens"])
def test_a_trend_of_residuals(found, key: str) -> None:
    """Planted in the losses of a law, it is found; the other number shows less than half of it."""
    law, points = found.shared.law, found.shared.points
    logs = np.log([getattr(point, key) for point in points])
    shares = (logs - logs.min()) / np.ptp(logs)
    losses = np.array([law.loss(p.family, p.parameters, p.tokens) for p in points])
    pairs = zip(points, losses * np.exp(-0.03 * shares), strict=True)
    bent = [replace(point, loss=float(loss)) for point, loss in pairs]
    assert Fit(law, [], bent).trend(key) == pytest.approx(-0.03)
    other = {"parameters": "tokens", "tokens": "parameters"}[key]
    assert abs(Fit(law, [], bent).trend(other)) < 0.015


def test_the_answer_names_a_trend(found) -> None:
    assert any(line.endswith("no trend.") for line in answer(found))
    points = [replace(p, loss=p.loss * (p.tokens / 1e6) ** 0.01) for p in found.shared.points]
    bent = replace(found, shared=replace(found.shared, points=points))
    assert any(line.endswith("the law does not hold.") for line in answer(bent))


def test_the_report_is_whole_and_a_plan_uses_its_fit(found, tmp_path: Path, capsys) -> None:
    study = Study("planted", "a test", [], None, 0.2, 1, 1, {}, {}, "families: ...")  # pyright: ignore
    said = write_report(tmp_path, found, study, "nanogpkant scale planted.yaml")
    assert any("held-out losses lie in their interval" in line for line in said)
    assert "diverged" in said[-1]
    names = {"report.html", "report.md", "cells.csv", "fit.json"}
    assert {path.name for path in tmp_path.iterdir()} == names | {
        "losses.png", "law.png", "worths.png"
    }  # fmt: skip
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    flags = ["--fit", str(tmp_path / "fit.json"), "--flops_rate", "0.1"]
    assert main(["plan", "quickstart_gpt", *flags, "--family", "hat2", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    law = found.shared.law
    expected = law.loss("hat2", plan["parameters"], plan["tokens"])
    assert plan["expected"]["loss"] == pytest.approx(expected)
    assert plan["expected"]["best_loss"] <= expected + 1e-9
    assert main(["plan", "quickstart_gpt", *flags]) == 0
    assert "by the law of plain" in capsys.readouterr().out
    assert main(["plan", "quickstart_gpt", *flags, "--family", "hut2"]) == 2
    assert "did you mean hat2?" in capsys.readouterr().err
    assert main(["plan", "quickstart_gpt", "--family", "plain"]) == 2
    (tmp_path / "fit.json").write_text("{}", encoding="utf-8")
    assert main(["plan", "quickstart_gpt", *flags]) == 1
    assert "is no fit of nanogpkant scale" in capsys.readouterr().err


def test_the_commands_of_its_pages_work(found, tmp_path: Path, monkeypatch) -> None:
    """Those of docs/scaling.md and docs/clusters.md; where they would train, their flags alone."""
    pages = [(ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in PAGES]
    lines = re.findall(r"^nanogpkant (.*)$", "\n".join(pages), re.MULTILINE)
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)
    base = Path("experiments/scaling/base.yaml")
    text = base.read_text(encoding="utf-8").replace("enwik8", "shakespeare_char")
    base.write_text(text, encoding="utf-8")
    fit = Path("runs/scaling_tiny/report/fit.json")
    fit.parent.mkdir(parents=True)
    save_fit(found, "planted", fit)
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] in ("scale", "experiment") and "--dry_run" not in words:
            with pytest.raises(SystemExit, match="0"):
                main([*words, "--print_config"])
            continue
        assert main(words) == 0, line
    assert len(lines) == 5


def test_a_fit_is_saved_as_it_is(found, tmp_path: Path) -> None:
    save_fit(found, "planted", tmp_path / "fit.json")
    saved = json.loads((tmp_path / "fit.json").read_text(encoding="utf-8"))
    assert saved["alpha"] == found.shared.law.alpha
    low, high = saved["families"]["hat8"]["kappa_interval"]
    assert low < saved["families"]["hat8"]["kappa"] < high


@pytest.mark.parametrize("name", ["scaling.yaml", "scaling_tiny.yaml", "scaling_rates.yaml"])
def test_the_studies_that_come_along_are_read(name: str) -> None:
    from nanogpkant.comparison.experiment import load_experiment

    file = ROOT / "experiments" / name
    if name == "scaling_rates.yaml":
        assert len(load_experiment(file).variants) >= 6
        return
    study = load_study(file)
    assert study.families[0].name == "plain"
    assert replace(study, text="") != study
