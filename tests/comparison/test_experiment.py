"""Experiments: read, resolved, trained where they lack something, continued, and refused."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from nanogpkant.cli import main
from nanogpkant.comparison import training
from nanogpkant.comparison.experiment import load_experiment
from nanogpkant.comparison.planning import dtype_of, plan
from nanogpkant.comparison.runs import load_run
from nanogpkant.comparison.training import _alone
from nanogpkant.config import RunConfig, load_config, save_config, with_changes
from nanogpkant.model.counting import count
from nanogpkant.run.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def content(tiny_experiment: Path) -> dict:
    """An experiment that trains in seconds: a KAN and the plain GPT of the same shape."""
    preset = str(tiny_experiment)
    return {
        "about": "a test",
        "variants": [
            {"name": "kan", "preset": preset},
            {"name": "gpt", "preset": preset, "overrides": {"model.kan.sites": []}},
        ],
        "seeds": [1, 2],
        "budget": {"iterations": 10},
        "overrides": {"train.eval_interval": 2},
    }


def write(folder: Path, content: dict, **changes: object) -> Path:
    file = folder / "trial.yaml"
    file.write_text(yaml.safe_dump(content | changes), encoding="utf-8")
    return file


def planned(folder: Path, content: dict, **changes: object) -> list:
    return plan(load_experiment(write(folder, content, **changes)), folder / "runs")


@pytest.fixture(scope="module")
def trained(content: dict, training_here, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which that experiment was trained. Not to be changed."""
    folder = tmp_path_factory.mktemp("experiment")
    command = ["experiment", str(write(folder, content)), "--out", str(folder / "runs")]
    with training_here():
        assert main(command) == 0
    return folder


def test_every_run_is_trained_into_its_folder_and_reported_on(trained):
    folder = trained / "runs" / "trial"
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"kan", "gpt", "report"}
    for variant, sites in (("kan", ["mlp_in", "mlp_out"]), ("gpt", [])):
        for seed in (1, 2):
            run = load_run(folder / variant / f"seed-{seed}")
            assert run.finished
            assert run.curve.steps.tolist() == [0, 2, 4, 6, 8, 10]
            assert (run.seed, run.config.model.kan.sites) == (seed, sites)
    found = json.loads((folder / "report" / "report.json").read_text(encoding="utf-8"))
    assert found["ranked"]
    assert {variant["name"]: variant["seeds"] for variant in found["variants"]} == {
        "kan": [1, 2],
        "gpt": [1, 2],
    }
    assert found["pairs"][0]["seeds"] == [1, 2]
    assert found["experiment"] == (trained / "trial.yaml").read_text(encoding="utf-8")
    assert all(variant["luck"] >= -1e-9 for variant in found["variants"])


def test_the_runs_are_what_was_planned(trained):
    for run in plan(load_experiment(trained / "trial.yaml"), trained / "runs"):
        assert (run.state, run.step) == ("finished", 10)
        config = load_config(run.path / "config.yaml")
        assert config == run.config


def test_what_is_finished_is_not_trained_again(trained, capsys):
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*seed*/**/*") if p.is_file()}
    command = ["experiment", str(trained / "trial.yaml"), "--out"]
    assert main([*command, str(trained / "runs"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "trial"
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_dry_run_says_what_is_left_and_trains_nothing(trained, content, tmp_path, capsys):
    shutil.copytree(trained / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "trial" / "gpt" / "seed-2")
    file = write(tmp_path, content)
    command = ["experiment", str(file), "--out", str(tmp_path / "runs"), "--dry_run"]
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    states = {(row["variant"], row["seed"]): row["state"] for row in rows}
    assert states[("gpt", 2)] == "missing"
    assert list(states.values()).count("finished") == 3
    assert [row["seconds_left"] > 0 for row in rows] == [False, False, False, True]
    config = load_config(tmp_path / "runs" / "trial" / "kan" / "seed-1" / "config.yaml")
    assert rows[0]["flops"] == 10 * 4 * 16 * count(config.model, 20).flops_per_token
    assert not (tmp_path / "runs" / "trial" / "gpt" / "seed-2").exists()
    assert main(command) == 0
    assert "missing" in capsys.readouterr().out


def test_ctrl_c_saves_the_same_command_goes_on_and_a_failure_stops_no_other(
    content, training_here, tmp_path, capsys
):
    """The second variant's rate is far too high: its run fails, and is named at the end."""
    first, second = content["variants"]
    mad = second | {"name": "mad", "overrides": {"optim.learning_rate": 1e18}}
    overrides = {"train.eval_interval": 100, "train.log_interval": 1}
    changes = {"seeds": [1], "overrides": overrides, "budget": {"iterations": 200}}
    file = write(tmp_path, content, variants=[first, mad], **changes)
    out = tmp_path / "runs"
    command = ["experiment", str(file), "--out", str(out)]
    arguments = [sys.executable, "-m", "nanogpkant.cli", *command]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, encoding="utf-8")
    metrics = out / "trial" / "kan" / "seed-1" / "metrics.jsonl"
    deadline = time.monotonic() + 100
    while not (metrics.exists() and len(read_metrics(metrics)) > 3):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "stopped with 0 of 2 runs finished; the same command continues" in errors
    assert [run.state for run in plan(load_experiment(file), out)] == ["interrupted", "missing"]

    with training_here():
        assert main(command) == 1
    captured = capsys.readouterr()
    assert captured.err.strip().endswith("1 of 2 runs failed; the same command tries them again")
    assert "mad seed 1 failed" in captured.out
    log = (out / "trial" / "kan" / "seed-1.log").read_text(encoding="utf-8")
    assert "resuming" in log
    run = load_run(out / "trial" / "kan" / "seed-1")
    assert run.finished
    assert "--train.seed" in run.environment["command"]
    assert "error: step" in (out / "trial" / "mad" / "seed-1.log").read_text(encoding="utf-8")
    notes = json.loads((out / "trial/report/report.json").read_text(encoding="utf-8"))["notes"]
    assert any("mad seed 1 failed: step" in note for note in notes)


def test_an_experiment_is_trained_by_one_process_alone(content, tmp_path, capsys):
    file, out = write(tmp_path, content), tmp_path / "runs"
    with _alone(out / "trial"):
        assert main(["experiment", str(file), "--out", str(out)]) == 1
    assert "is being trained by another process" in capsys.readouterr().err
    assert [path.name for path in out.glob("*/*")] == [".lock"]


def test_equal_flops_are_different_iterations(content, tmp_path):
    runs = planned(tmp_path, content, budget={"flops": 1e9, "evaluations": 5})
    for run in runs:
        per_step = count(run.config.model, 20).flops_per_token * 4 * 16
        assert run.iterations == 1e9 // per_step
        assert -(-run.iterations // run.config.train.eval_interval) == 5
    assert runs[-1].iterations > 2 * runs[0].iterations  # the plain GPT's steps are cheaper


def test_seconds_stop_by_the_clock(content, tmp_path):
    for run in planned(tmp_path, content, budget={"seconds": 2.5}):
        assert run.config.train.max_seconds == 2.5
        assert run.iterations is None


def test_all_runs_have_one_dtype_also_those_of_another_day(trained, content, tmp_path, monkeypatch):
    """What auto finds is measured, and a busy machine may measure something else."""
    variants = [
        variant | {"overrides": variant.get("overrides", {}) | {"train.dtype": "auto"}}
        for variant in content["variants"]
    ]
    monkeypatch.setattr("nanogpkant.comparison.planning.resolve_dtype", lambda *_: "bfloat16")
    runs = planned(tmp_path, content, variants=variants)
    assert {run.config.train.dtype for run in runs} == {"bfloat16"}
    shutil.copytree(trained / "runs", tmp_path / "runs")
    runs = planned(tmp_path, content, variants=variants)
    assert {run.config.train.dtype for run in runs} == {"float32"}
    assert {run.state for run in runs} == {"finished"}


def test_a_preset_file_lies_beside_the_experiment(content, tiny_experiment, tmp_path):
    shutil.copy(tiny_experiment, tmp_path / "mine.yaml")
    (run,) = planned(tmp_path, content, variants=[{"preset": "mine.yaml"}], seeds=[3])
    assert (run.variant, run.seed) == ("mine", 3)


def test_a_folder_with_another_run_is_not_taken_over(trained, content, tmp_path, capsys):
    shutil.copytree(trained / "runs", tmp_path / "runs")
    file = write(tmp_path, content, budget={"iterations": 20})
    command = ["experiment", str(file), "--out", str(tmp_path / "runs")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "seed-1 was trained with train.max_iters 10 instead of 20" in error
    file = write(tmp_path, content)
    environment = tmp_path / "runs" / "trial" / "kan" / "seed-1" / "environment.json"
    text = environment.read_text(encoding="utf-8")
    fingerprint = json.loads(text)["data_fingerprint"]
    environment.write_text(text.replace(fingerprint, "0" * 64), encoding="utf-8")
    assert main(command) == 2
    assert "was trained on other data" in capsys.readouterr().err


BAD_FILES = [
    ({"variant": []}, "unknown key variant: did you mean variants?"),
    ({"variants": []}, "variants []: must be a list of models, and not empty"),
    ({"variants": [{"name": "a"}]}, "variants, number 1: preset None"),
    ({"variants": [{"preset": "quickstart-kan"}]}, "did you mean quickstart_kan?"),
    ({"variants": [{"preset": "nowhere.yaml"}]}, "does not exist"),
    (
        {"variants": [{"preset": "quickstart_kan"} for _ in range(2)]},
        "stands there twice; give each its own name",
    ),
    ({"variants": [{"preset": "quickstart_kan", "name": "../a"}]}, "that a folder can be called"),
    ({"variants": [{"preset": "quickstart_kan", "overides": {}}]}, "did you mean overrides?"),
    (
        {"variants": [{"preset": "quickstart_kan", "overrides": {"model.n_lyer": 2}}]},
        "model.n_layer",
    ),
    (
        {"variants": [{"preset": "quickstart_kan", "overrides": {"model": 2}}]},
        "model must hold keys",
    ),
    (
        {"variants": [{"preset": "quickstart_kan", "overrides": {"model.n_layer": "x"}}]},
        "must be a whole number",
    ),
    ({"variants": "kan"}, "must be a list of models"),
    ({"seeds": []}, "seeds []: must be a list of whole numbers, and not empty"),
    ({"seeds": [1, 1]}, "name each once"),
    ({"seeds": [1.5]}, "--seeds 1.5: must be a whole number"),
    ({"seeds": [-1]}, "--seeds -1"),
    ({"budget": {}}, "budget {}: must name just one of iterations, flops, seconds"),
    ({"budget": {"iterations": 5, "seconds": 5}}, "must name just one of"),
    ({"budget": {"iterations": 0}}, "budget.iterations 0: must be a whole number above 0"),
    ({"budget": {"iterations": 1.5}}, "must be a whole number above 0"),
    ({"budget": {"hours": 5}}, "unknown key budget.hours: known are iterations"),
    ({"budget": {"seconds": 5, "evaluations": 5}}, "set train.eval_interval instead"),
    ({"budget": {"flops": 1}}, "one step takes"),
    ({"overrides": {"train.seed": 5}}, "train.seed is decided by seeds"),
    ({"overrides": {"train.max_iters": 5}}, "train.max_iters is decided by budget"),
    ({"overrides": [1]}, "overrides must hold dotted keys"),
    ({"data": {"datset": "x"}}, "unknown key data.datset: did you mean dataset?"),
    ({"data": {"dataset": "nothing", "file": None}}, "unknown dataset"),
    ({"name": "a/b"}, "name 'a/b'"),
]


@pytest.mark.parametrize(("changes", "words"), BAD_FILES, ids=lambda value: str(value)[:50])
def test_a_bad_file_is_refused_before_anything_is_trained(
    changes, words, content, tmp_path, capsys
):
    file = write(tmp_path, content, **changes)
    out = tmp_path / "runs"
    assert main(["experiment", str(file), "--out", str(out)]) in (1, 2)
    captured = capsys.readouterr()
    assert words in captured.err
    assert "trial.yaml" in captured.err
    assert captured.err.count("\n") == 1
    assert not out.exists()


def test_grids_that_change_have_no_flops_budget(content, tmp_path, capsys):
    overrides = {"grid.refine_at": {2: 4}}
    variants = [content["variants"][0] | {"overrides": overrides}]
    file = write(tmp_path, content, variants=variants, budget={"flops": 1e12})
    assert main(["experiment", str(file), "--out", str(tmp_path)]) == 2
    assert "its grids change" in capsys.readouterr().err


def test_variants_that_are_the_same_are_refused(content, tmp_path, capsys):
    first = content["variants"][0]
    file = write(tmp_path, content, variants=[first, first | {"name": "other"}])
    assert main(["experiment", str(file), "--out", str(tmp_path)]) == 2
    assert "variants kan and other are the same" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare"], "runs"),
        (["compare", "some_run", "--experiment", "x.yaml"], "unknown flag --experiment"),
        (["compare", "some_run", "--dry_run"], "--dry_run"),
        (["compare", "some_run", "--target", "2"], "--target: is for the report"),
        (["compare", "some_run", "--csv", "x.csv"], "--csv: is for the report"),
        (["experiment", "x.yaml", "--jobs", "0"], "--jobs 0"),
        (["experiment", "x.txt"], "ends in .yaml"),
        (["experiment", "x.yaml"], "cannot read x.yaml"),
    ],
)
def test_flags_that_do_not_go_together(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) in (1, 2)
    assert words in capsys.readouterr().err


FILES = sorted((ROOT / "experiments").glob("*.yaml"))
STUDIES = [file for file in FILES if file.stem.startswith("scaling")]  # see test_scale.py
RATES = [ROOT / "experiments" / "scaling_rates.yaml"]


@pytest.mark.parametrize("file", sorted({*FILES} - {*STUDIES} | {*RATES}), ids=lambda f: f.stem)
def test_the_projects_own_experiments_can_be_planned(file, tmp_path, monkeypatch):
    """As they stand, but for their text, which would have to be downloaded."""
    experiment = load_experiment(file)
    monkeypatch.chdir(ROOT)
    if experiment.data:
        experiment.data["dataset"] = "shakespeare_char"
    runs = plan(experiment, tmp_path / "runs")
    assert len(runs) == len(experiment.variants) * len(experiment.seeds)
    assert {run.state for run in runs} == {"missing"}


def test_what_a_report_lacks_is_told_before_training(content, tmp_path, capsys):
    command = ["experiment", str(write(tmp_path, content)), "--out", str(tmp_path / "runs")]
    for flags, words in (
        (["--csv", "nowhere.csv"], "nowhere.csv"),
        (["--reference", "original"], "its curves are of"),
    ):
        assert main([*command, *flags]) != 0
        assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_log_that_a_kill_has_cut_within_a_character(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_is_done", lambda run: False)
    (tmp_path / "seed-1.log").write_bytes("error: café".encode()[:-1])
    run = SimpleNamespace(path=tmp_path / "seed-1", name="kan seed 1")
    assert training._report_end(run, "1 of 1", 1) == "caf\N{REPLACEMENT CHARACTER}"


def test_automatic_dtypes_stay_what_a_variants_own_runs_have(tmp_path, monkeypatch):
    config = with_changes(RunConfig(), **{"train.dtype": "auto"})
    for variant, dtype in (("a", "float32"), ("b", "bfloat16")):
        folder = tmp_path / variant / "seed-1"
        folder.mkdir(parents=True)
        save_config(with_changes(config, **{"train.dtype": dtype}), folder / "config.yaml")
    found = {own: dtype_of(config, tmp_path, own) for own in ("a", "b", "c")}
    assert found == {"a": "float32", "b": "bfloat16", "c": "float32"}
    assert dtype_of(config, tmp_path, "c", fixed={"a"}) == "bfloat16"
