"""Grids in training: the schedule, exact resumption, what is saved, logged and warned of."""

import json
import re
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from nanogpkant.base.errors import UsageError
from nanogpkant.base.files import sha256_of
from nanogpkant.cli import main
from nanogpkant.comparison.runs import load_run
from nanogpkant.comparison.table import compare_runs
from nanogpkant.config import (
    GridConfig,
    KANConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    load_config,
)
from nanogpkant.kan import BSpline, KANLinear
from nanogpkant.kan.grid import spline_of
from nanogpkant.run.checkpoint import FEATURES, load_checkpoint
from nanogpkant.run.folder import WEIGHTS, open_run
from nanogpkant.run.load import load_model
from nanogpkant.run.metrics import read_metrics
from nanogpkant.training import loop as train_module
from nanogpkant.training.grids import ROWS, change_grids, grid_health, grid_layers, layer_inputs
from nanogpkant.training.optim import make_optimizer
from nanogpkant.training.tracking import numbers_in

TIMES = ("seconds", "tokens_per_second", "memory_bytes")
NO_GRID = "--model.kan.sites", "[]", "--model.position", "learned"
SCHEDULE = ["--grid.update_every", "4", "--grid.until", "8", "--grid.refine_at", "{6: 4, 999: 8}"]
SITES = ("mlp_in", "mlp_out")


def rows(run: Path, split: str) -> list[dict]:
    return [row for row in read_metrics(run / "metrics.jsonl") if row["split"] == split]


def assert_same_run(run: Path, other: Path) -> None:
    """The same metrics, weights, grids and optimiser state, bit for bit."""
    ours, theirs = (
        [
            {k: v for k, v in row.items() if k not in TIMES}
            for row in read_metrics(p / "metrics.jsonl")
        ]
        for p in (run, other)
    )
    assert ours == theirs
    ours, theirs = (load_checkpoint(open_run(path), "last") for path in (run, other))
    assert (ours.step, ours.features()) == (theirs.step, theirs.features())
    torch.testing.assert_close(ours.weights(), theirs.weights(), rtol=0, atol=0)
    a, b = (c.training()["optimizer"]["state"] for c in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.fixture(scope="module")
def changed_run(tiny_experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 12 steps whose grids changed after 4, 6 and 8. Not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "changed"
    assert main(["train", str(tiny_experiment), *SCHEDULE, "--out", str(out)]) == 0
    return out


def test_the_schedule() -> None:
    grid = GridConfig(update_every=200, until=1000, refine_at={3000: 20, 1000: 10})
    assert list(grid.refine_at) == [1000, 3000]  # in order, however they were written
    assert [s for s in range(2000) if grid.updates_at(s)] == [200, 400, 600, 800, 1000]
    assert [s for s in range(5000) if grid.changes_at(s) and not grid.updates_at(s)] == [3000]
    assert [grid.parts_at(s, 5) for s in (999, 1000, 2000, 3000)] == [1, 2, 1, 4]
    assert not any(GridConfig().changes_at(s) for s in range(100))
    assert GridConfig(update_every=10).updates_at(10_000)


def test_a_schedule_comes_from_flags_and_goes_to_yaml_and_back(tmp_path, capsys) -> None:
    flags = ["--grid.update_every", "200", "--grid.refine_at", "{1000: 4, 2000: 8}"]
    assert main(["train", "shakespeare_mini_kan", *flags, "--print_config"]) == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    config = load_config(tmp_path / "config.yaml")
    assert config.grid == GridConfig(update_every=200, refine_at={1000: 4, 2000: 8})
    assert main(["train", str(tmp_path / "config.yaml"), "--print_config"]) == 0
    (tmp_path / "again.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert load_config(tmp_path / "again.yaml") == config


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--grid.update_every", "-1"], "update_every -1: must be at least 0"),
        (["--grid.until", "-5"], "until -5: must be at least 0"),
        (["--grid.max_size", "0"], "max_size 0: must be at least 1"),
        (["--grid.refine_at", "{0: 4}"], "step 0 must be at least 1"),
        (["--grid.refine_at", "{10: 5}"], "5 must be a multiple of the 2 before it, such as 4"),
        (["--grid.refine_at", "{10: 2}"], "2 must be a multiple of the 2 before it, such as 4"),
        (["--grid.refine_at", "{20: 4, 10: 8}"], "4 must be a multiple of the 8 before it"),
        (["--grid.refine_at", "{a: 4}"], "refine_at"),
        (["--grid.refine_at", "{10: many}"], "refine_at"),
        (["--grid.refine_at", "7"], "refine_at"),
        (["--grid.refine_at", "{10: 4}", *NO_GRID], "without --model.kan.sites"),
        (["--grid.update_every", "3", *NO_GRID], "without --model.kan.sites"),
        (["--grid.update_evry", "3"], "did you mean"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused_in_one_line(flags, words, capsys) -> None:
    assert main(["train", "shakespeare_mini_kan", "--print_config", *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(words, line)
    assert "--grid." in line


def test_a_basis_without_a_grid_has_no_schedule() -> None:
    kan = KANConfig(sites=["mlp_in"], basis="hat")
    RunConfig(model=ModelConfig(kan=kan), grid=GridConfig(update_every=5))  # hats are splines
    kan = KANConfig(sites=["mlp_in"], basis="fourier")
    with pytest.raises(UsageError, match="fourier has no grid"):
        RunConfig(model=ModelConfig(kan=kan), grid=GridConfig(update_every=5))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize(
    "kan",
    [{}, {"kan.basis": "hat", "kan.outside": "linear"}, {"kan.share": "group:2"}],
    ids=["cubic", "hat", "shared"],
)
def test_a_changed_grid_changes_no_prediction(tiny_gpt, kan, kind) -> None:
    model = tiny_gpt(SITES, **kan)
    config = RunConfig(
        model=model.config,
        optim=OptimConfig(name=kind),
        grid=GridConfig(update_every=5, refine_at={10: 6}, max_size=200),
    )
    optimizer = make_optimizer(model, config.optim)
    x = torch.randint(11, (4, 8))
    model(x, x).backward()
    optimizer.step()
    with torch.no_grad():
        before = model(x)
    for step in (5, 10):
        row = change_grids(model, optimizer, x, config, step)
        assert set(row["layers"]) == {
            f"blocks.{i}.mlp.{part}" for i in (0, 1) for part in ("into", "out")
        }
        assert all(layer["change"] < 1e-6 for layer in row["layers"].values())
        assert row["parameters"] == sum(p.numel() for p in model.parameters())
        for name, layer in grid_layers(model).items():
            assert row["layers"][name]["grid_size"] == spline_of(layer).grid_size > 3
    with torch.no_grad():
        torch.testing.assert_close(model(x), before)
    model(x, x).backward()
    optimizer.step()


def test_inputs_are_those_that_the_functions_see(tiny_gpt) -> None:
    model = tiny_gpt(SITES, **{"kan.prenorm": "rms"}).train()
    x = torch.randint(11, (4, 8))
    inputs = layer_inputs(model, x)
    assert model.training
    assert {name: tuple(z.shape) for name, z in inputs.items()} == {
        name: (32, layer.in_features) for name, layer in grid_layers(model).items()
    }
    for z in inputs.values():
        torch.testing.assert_close(
            z.square().mean(-1), torch.ones(32, dtype=z.dtype), atol=1e-3, rtol=0
        )
    many = layer_inputs(model, torch.randint(11, (ROWS // 8 + 1, 8)))
    assert {len(z) for z in many.values()} == {ROWS}
    assert layer_inputs(tiny_gpt(), x) == {}
    assert grid_health(tiny_gpt(), x) == {}


def test_changes_are_logged_and_the_run_goes_on(changed_run: Path, capsys) -> None:
    changes = rows(changed_run, "grid_change")
    assert [row["step"] for row in changes] == [4, 6, 8]
    updated, refined, last = ({n: r["layers"][n] for n in r["layers"]} for r in changes)
    for name, layer in updated.items():
        assert layer["change"] < 1e-4
        split = refined[name]  # what reaches 3 intervals beyond the grid gets fine knots there too
        assert split["grid_size"] == 2 * (layer["grid_size"] + 6) - 6
        assert split["change"] < 1e-4
    assert updated["blocks.0.mlp.into"]["grid_size"] > 2
    trained = load_model(changed_run, "last")
    for name, layer in grid_layers(trained.model).items():
        assert spline_of(layer).grid_size == last[name]["grid_size"]
        assert spline_of(layer).grid_range == (last[name]["low"], last[name]["high"])
    losses = [row["loss"] for row in rows(changed_run, "train")]
    assert max(losses[4:]) < losses[0]
    assert main(["eval", str(changed_run), "--checkpoint", "last", "--json"]) == 0
    loss = json.loads(capsys.readouterr().out)["loss"]
    assert loss == pytest.approx(rows(changed_run, "val")[-1]["loss"], rel=1e-5)
    assert main(["sample", str(changed_run), "--tokens", "5"]) == 0


@pytest.mark.parametrize(
    ("where", "step"),
    [("adapt_grids", 4), ("adapt_grids", 8), ("train_step", 7), ("train_step", 9)],
)
def test_a_killed_run_resumes_exactly(
    changed_run, tiny_experiment, tmp_path, monkeypatch, where: str, step: int
) -> None:
    """Killed right after a change, before it was saved, and later: always the same run."""
    out, function = tmp_path / "killed", getattr(train_module, where)

    def killed(s, *args):
        result = function(s, *args)
        if s.state.step == step:
            raise InterruptedError("killed")
        return result

    monkeypatch.setattr(train_module, where, killed)
    assert main(["train", str(tiny_experiment), *SCHEDULE, "--out", str(out)]) == 1
    monkeypatch.undo()
    assert main(["train", str(tiny_experiment), "--resume", "--out", str(out)]) == 0
    assert_same_run(changed_run, out)


def test_a_run_can_start_from_one_with_other_grids(
    changed_run, tiny_experiment, tmp_path, capsys
) -> None:
    flags = ["--train.init_from", str(changed_run), "--train.eval_only", "true", "--json"]
    assert main(["train", str(tiny_experiment), *flags, "--out", str(tmp_path / "x")]) == 0
    best = min(row["loss"] for row in rows(changed_run, "val"))
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(best, rel=1e-5)
    other = ["--model.kan.grid_size", "3", "--out", str(tmp_path / "x")]
    assert main(["train", str(tiny_experiment), *flags, *other]) == 1
    assert "--model.kan" in capsys.readouterr().err
    flags = ["--train.init_from", str(changed_run), "--grid.refine_at", "{1: 4, 2: 8}"]
    assert main(["train", str(tiny_experiment), *flags, "--out", str(tmp_path / "y")]) == 0
    same, split = rows(tmp_path / "y", "grid_change")  # by 1: its 2 intervals became 4 already
    assert {layer["reason"][:8] for layer in same["layers"].values()} == {"the grid"}
    for name, layer in split["layers"].items():
        assert layer["grid_size"] == 2 * (same["layers"][name]["grid_size"] + 6) - 6


def rewritten(run: Path, out: Path, metadata: dict[str, str]) -> Path:
    """A copy of a run whose weights carry other metadata, with a manifest that agrees."""
    shutil.copytree(run, out)
    for manifest in out.glob("checkpoints/*/manifest.json"):
        weights = manifest.parent / WEIGHTS
        safetensors.torch.save_file(safetensors.torch.load_file(weights), weights, metadata)
        content = json.loads(manifest.read_text(encoding="utf-8"))
        content["sha256"][WEIGHTS] = sha256_of(weights)
        manifest.write_text(json.dumps(content), encoding="utf-8")
    return out


def test_checkpoints_from_before_grids_could_change_still_load(tiny_run, tmp_path, capsys) -> None:
    old = rewritten(tiny_run, tmp_path / "old", {"format": "pt"})
    assert main(["eval", str(old), "--json"]) == 0
    best = min(row["loss"] for row in rows(tiny_run, "val"))
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"blocks.0.mlp.into": "{}"}', '{"blocks.0.mlp.into": 3}']
)
def test_metadata_that_describes_no_layers_is_named(tiny_run, tmp_path, text, capsys) -> None:
    bad = rewritten(tiny_run, tmp_path / "bad", {"format": "pt", FEATURES: text})
    assert main(["eval", str(bad)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"{FEATURES} in " in line


def test_functions_of_another_kind_than_the_configuration_are_named(tiny_run, tmp_path, capsys):
    shared = KANLinear(16, 64, basis=BSpline(2, 3), share="group:2").features.spec
    text = json.dumps({"blocks.0.mlp.into": shared})
    bad = rewritten(tiny_run, tmp_path / "bad", {"format": "pt", FEATURES: text})
    assert main(["eval", str(bad)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "blocks.0.mlp.into" in line
    assert "config.yaml describes another model" in line


def test_inputs_that_are_not_finite_stop_the_run(tiny_experiment, tmp_path, monkeypatch, capsys):
    """On a GPU, where not every step is looked at, a change of grids may be the first to see."""
    monkeypatch.setattr(train_module, "check_finite", lambda *_: None)
    flags = ["--optim.learning_rate", "1e18", "--optim.min_lr", "0", "--out", str(tmp_path / "r")]
    assert main(["train", str(tiny_experiment), *SCHEDULE, *flags]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "not finite" in line
    assert "first in" in line


def test_every_evaluation_says_how_the_grids_fit(tiny_run: Path) -> None:
    logged = rows(tiny_run, "grid")
    assert [row["step"] for row in logged] == [row["step"] for row in rows(tiny_run, "val")]
    for row in logged:
        for key in ("out_of_range", "unseen", "dead"):
            assert row[key] == max(layer[key] for layer in row["layers"].values())
        assert row["knot_use"] == min(layer["knot_use"] for layer in row["layers"].values())
    into = logged[0]["layers"]["blocks.0.mlp.into"]  # behind LayerNorm: about N(0, 1)
    assert 0.2 < into["out_of_range"] < 0.45


def test_compare_counts_what_a_changed_run_became(changed_run, tiny_run) -> None:
    changed, plain = compare_runs([load_run(changed_run), load_run(tiny_run)])
    weights = load_checkpoint(open_run(changed_run), "last").weights()
    assert changed["parameters"] == sum(tensor.numel() for tensor in weights.values())
    added = changed["parameters"] - plain["parameters"]
    assert changed["flops_per_token"] - plain["flops_per_token"] == 6 * added > 0


def test_a_grid_that_misses_its_inputs_is_warned_of_once(tiny_experiment, tmp_path, capsys) -> None:
    flags = ["--model.kan.grid_range", "[30, 31]", "--model.kan.init", "original"]
    assert main(["train", str(tiny_experiment), *flags, "--out", str(tmp_path / "r")]) == 0
    errors = capsys.readouterr().err
    assert errors.count("inputs beyond every spline in blocks.") == 1
    assert errors.count("splines see no input in blocks.") == 1
    assert "100%" in errors
    assert "4 KAN layers" in errors
    assert "--grid.update_every" in errors


def test_trackers_get_numbers() -> None:
    row = {"dead": 0.5, "layers": {"a.b": {"dead": 0.25, "reason": "text"}}}
    assert numbers_in(row, "grid") == {"grid/dead": 0.5, "grid/layers/a.b/dead": 0.25}


@pytest.mark.parametrize("basis", ["hat", "bspline"])
def test_curves_of_distance_are_refined(tiny_experiment, tmp_path, basis) -> None:
    """Where they are the only KAN functions, by their own sizes; the values stay."""
    flags = ["--model.kan.sites", "[]", "--model.position", "curve", "--model.curve.basis", basis]
    flags += ["--model.conv", "curve", "--model.curve.knots", "5", "--train.max_iters", "8"]
    flags += ["--grid.refine_at", "{4: 8}", "--optim.function_weight_decay", "0.1"]
    outs = [tmp_path / "whole", tmp_path / "resumed"]
    assert main(["train", str(tiny_experiment), *flags, "--out", str(outs[0])]) == 0
    half = ["train", str(tiny_experiment), *flags, "--out", str(outs[1]), "--train.max_iters", "6"]
    half += ["--optim.lr_decay_iters", "8"]
    assert main(half) == 0
    rest = ["--resume", "--train.max_iters", "8", "--out", str(outs[1])]
    assert main(["train", str(tiny_experiment), *rest]) == 0
    weights = [load_checkpoint(open_run(out), "last").weights() for out in outs]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    (row,) = rows(outs[0], "grid_change")
    assert list(row["layers"]) == ["blocks.0.attention.bias", "blocks.1.attention.bias"]
    for change in row["layers"].values():  # the 4 lags of the convolution have a knot each
        assert change["grid_size"] == 8
        assert change["change"] < 1e-5
    assert load_model(outs[0]).config.grid_size == 4


def test_weight_decay_draws_curves_towards_zero(tiny_gpt) -> None:
    model = tiny_gpt(position="curve", **{"curve.knots": 4})
    options = OptimConfig(learning_rate=0.1, function_weight_decay=0.5, weight_decay=0.0)
    optimizer, before = (
        make_optimizer(model, options),
        model.blocks[0].attention.bias.weight.clone(),
    )
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.blocks[0].attention.bias.weight, 0.95 * before)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model.curve.basis", "fourier"], "basis fourier has no grid"),
        (["--model.curve.scale", "buckets"], "a number for every bucket"),
        (["--model.curve.scale", "linear", "--model.curve.knots", "16"], "for every distance"),
        (["--model.curve.knots", "9"], "8: 8 must be a multiple of the 8 before it"),
        (["--model.curve.knots", "5", "--grid.refine_at", "{2: 16}"], "fewer intervals than that"),
        (["--grid.update_every", "4"], "cover all distances already"),
        (["--model.position", "rope"], "without --model.kan.sites or --model.position curve"),
    ],
)
def test_curves_that_cannot_be_refined(tiny_experiment, tmp_path, capsys, flags, words) -> None:
    given = ["--model.kan.sites", "[]", "--model.position", "curve", "--grid.refine_at", "{2: 8}"]
    assert main(["train", str(tiny_experiment), *given, *flags, "--out", str(tmp_path / "x")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line.replace("}: ", ": ")
