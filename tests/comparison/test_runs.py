"""Runs as figures: what was spent by when, which runs belong together, and damaged ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.cli import main
from nanogpkant.comparison.runs import is_finished, load_run, load_runs, short_names, variants_of
from nanogpkant.config import load_config, with_changes
from nanogpkant.model.counting import count
from nanogpkant.run.folder import open_run
from nanogpkant.run.load import load_model
from nanogpkant.run.metrics import read_metrics, write_metrics
from nanogpkant.verbs.runs import progress


def test_a_curve_holds_every_evaluation_and_what_was_spent_by_then(tiny_run):
    run = load_run(tiny_run)
    rows = [row for row in read_metrics(tiny_run / "metrics.jsonl") if row["split"] == "val"]
    assert run.curve.steps.tolist() == [0, 4, 8, 12]
    assert run.curve.losses.tolist() == [row["loss"] for row in rows]
    assert run.curve.tokens.tolist() == [0, 4 * 64, 8 * 64, 12 * 64]
    flops = count(run.config.model, 20).flops_per_token
    assert run.curve.flops == pytest.approx(run.curve.tokens * flops)
    assert run.curve.halves.mean(axis=0) == pytest.approx(run.curve.losses, rel=1e-3)
    assert run.finished
    assert len(run.sample) == 21


def test_only_evaluations_of_the_last_text_count(make_run):
    """A run that resumes with other ``train.eval_tokens`` has losses that cannot be compared."""
    run = open_run(make_run("a", [4.0, 1.0, 3.0, 3.5]))
    rows = read_metrics(run.metrics_file)
    write_metrics(
        run.metrics_file, [{**row, "tokens": 7 if i < 2 else 9} for i, row in enumerate(rows)]
    )
    found = load_run(run.path)
    assert found.curve.steps.tolist() == [8, 12]
    assert found.row()["best_val_loss"] == progress(run)["best_val_loss"] == 3.0
    assert progress(open_run(make_run("b", [1.0])))["best_val_loss"] is None  # no checkpoint is


def test_grids_that_grew_make_the_steps_after_that_dearer(tiny_experiment, tmp_path):
    flags = ["--grid.refine_at", "{8: 4}", "--train.sample_tokens", "0"]
    assert main(["train", str(tiny_experiment), "--out", str(tmp_path / "r"), *flags]) == 0
    run = load_run(tmp_path / "r")
    counted = count(run.config.model, 20)
    added = sum(p.numel() for p in load_model(tmp_path / "r", "last").model.parameters())
    added -= counted.parameters - 2 * 2 * 16 * 64  # spline scales are folded when it is loaded
    before = counted.flops_per_token * 64
    after = before + 3 * 2 * added * 64  # a coefficient more is a multiply and an add, three times
    assert added > 0
    assert np.diff(run.curve.flops) == pytest.approx([4 * before, 4 * before, 4 * after])
    assert run.row()["flops_per_token"] == after / 64


def test_repeats_of_a_run_are_one_variant_however_they_are_called(make_run):
    paths = [make_run(f"kan/seed-{seed}", [4, 3], seed=seed) for seed in (1, 2)]
    paths += [
        make_run(f"gpt_s{seed}", [4, 3], seed=seed, **{"model.n_layer": 1}) for seed in (1, 2)
    ]
    paths += [make_run("alone/seed-7", [4, 3], **{"model.dropout": 0.0})]
    paths += [make_run("one", [4, 3], **{"model.bias": True})]
    paths += [make_run("two", [4, 3], seed=2, **{"model.bias": True})]
    groups = variants_of(load_runs(paths))
    assert {name: [run.name for run in group] for name, group in groups.items()} == {
        "kan": ["seed-1", "seed-2"],
        "gpt": ["gpt_s1", "gpt_s2"],
        "alone": ["seed-7"],
        "one": ["one", "two"],
    }


def test_settings_that_change_nothing_do_not_split_a_variant(make_run):
    changes = {"train.log_interval": 7, "about": "other words", "tracking.project": "mine"}
    paths = [make_run("a", [4, 3]), make_run("b", [4, 3], seed=2, **changes)]
    assert len(variants_of(load_runs(paths))) == 1
    paths.append(make_run("c", [4, 3], seed=3, **{"train.eval_interval": 5}))
    assert len(variants_of(load_runs(paths))) == 2


def test_two_runs_of_one_name_are_told_apart(make_run, capsys):
    first, second = make_run("old/kan", [4, 3]), make_run("new/kan", [4, 2])
    assert main(["compare", str(first), str(second), "--json"]) == 0
    assert [row["run"] for row in json.loads(capsys.readouterr().out)] == ["old/kan", "new/kan"]
    assert short_names([Path("/a/x/r"), Path("/b/x/r"), Path("/s")]) == ["a/x/r", "b/x/r", "s"]


def test_variants_of_one_folder_keep_their_own_names(make_run):
    one = make_run("kan/seed-1", [4, 3])
    other = make_run("kan/seed-2", [4, 3], seed=2, **{"model.bias": True})
    assert list(variants_of(load_runs([one, other]))) == ["seed-1", "seed-2"]


def test_a_run_given_twice_is_refused(tiny_run, capsys):
    with pytest.raises(UsageError, match="given twice"):
        load_runs([tiny_run, tiny_run / ".." / tiny_run.name])


@pytest.mark.parametrize(
    ("key", "words"),
    [("loss", "line 2 is not a row"), ("seconds", "evaluation at step 4 has no seconds")],
)
def test_an_evaluation_that_lacks_a_figure_is_named(key, words, make_run):
    folder = make_run("r", [4, 3])
    rows = read_metrics(folder / "metrics.jsonl")
    del rows[1][key]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        load_run(folder)


def test_a_run_is_finished_when_its_last_step_is_saved(tiny_run, tmp_path):
    folder = tmp_path / "r"
    shutil.copytree(tiny_run, folder)
    run, options = open_run(folder), load_config(folder / "config.yaml").train
    assert is_finished(run, options)
    assert not is_finished(run, with_changes(options, max_iters=13))
    assert is_finished(run, with_changes(options, max_iters=10**9, max_seconds=1e-4))
    assert not is_finished(run, with_changes(options, max_iters=10**9, max_seconds=1e4))
    run.index_file.write_text('{"best": "step-000008", "last": "step-000008"}', encoding="utf-8")
    assert not is_finished(run, options)  # killed between its evaluation and its checkpoint


def test_an_exported_run_is_as_finished_as_the_run(tiny_run, tmp_path):
    assert main(["export", str(tiny_run), "--out", str(tmp_path / "exported")]) == 0
    assert load_run(tmp_path / "exported").finished
    longer = with_changes(load_config(tiny_run / "config.yaml"), **{"train.max_iters": 13})
    assert not is_finished(open_run(tmp_path / "exported"), longer.train)


def test_a_pruned_run_counts_the_edges_that_it_has(tiny_run, tmp_path, capsys):
    shutil.copytree(tiny_run, tmp_path / "run")
    command = ["prune", str(tmp_path / "run"), "--share", "0.5", "--out", str(tmp_path / "p")]
    assert main(command) == 0
    whole, pruned = load_run(tiny_run), load_run(tmp_path / "p")
    scales = 2 * 2 * 16 * 64  # multiplied into the weights when a run is loaded
    left = sum(p.numel() for p in load_model(tmp_path / "p").model.parameters())
    removed = pruned.row()["parameters"] - whole.row()["parameters"]
    assert left == pruned.row()["parameters"] < whole.row()["parameters"] - scales
    expected = whole.row()["flops_per_token"] + 6 * (removed + scales)
    assert pruned.row()["flops_per_token"] == expected
    capsys.readouterr()
    assert main(["info", str(tmp_path / "p"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"] == pruned.row()["parameters"]
    assert facts["FLOPs per token"] == pruned.row()["flops_per_token"]


EDGES, SHARED = ["--model.position", "alibi"], ["--model.kan.share", "input"]


@pytest.fixture(params=[EDGES, SHARED], ids=["edges", "shared"])
def refined(request, tiny_experiment, tmp_path) -> Path:
    """A run whose grids become four times as fine after a third of its steps."""
    flags = [*request.param, "--model.kan.backend", "reference", "--grid.refine_at", "{4: 8}"]
    flags += ["--model.kan.spline_scale", "false", "--out", str(tmp_path / "refined")]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    return tmp_path / "refined"


def test_a_refined_run_counts_what_it_learns_and_computes(refined, capsys):
    run, model = load_run(refined), load_model(refined, "last").model.eval()
    assert run.parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(3, 16, dtype=torch.int64))
    assert run.flops_per_token == 3 * counter.get_total_flops() / (3 * 16)
    assert run.parameters > run.counted.parameters
    capsys.readouterr()
    assert main(["info", str(refined), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"] == run.parameters
    assert facts["FLOPs per token"] == run.flops_per_token


def test_a_pruned_run_has_spent_what_its_source_had(refined, tmp_path):
    flags = ["--share", "0.5", "--unit", "inputs", "--finetune", "4"]
    out = tmp_path / "pruned"
    assert main(["prune", str(refined), "--out", str(out), *flags]) == 0
    source, pruned = load_run(refined), load_run(out)
    here = pruned.curve.steps.tolist().index(12)
    assert pruned.curve.flops[here] == pytest.approx(source.curve.flops[-1])
    spent = pruned.curve.flops[-1] - pruned.curve.flops[here]
    assert spent == pytest.approx(4 * 4 * 16 * pruned.flops_per_token)


def test_a_grid_that_changed_after_the_last_evaluation_costs_nothing_yet(tiny_run, tmp_path):
    """As in a run that was killed in between."""
    shutil.copytree(tiny_run, tmp_path / "run")
    with open(tmp_path / "run" / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 14, "split": "grid_change", "parameters": 10, "layers": {}}\n')
    run = load_run(tmp_path / "run")
    assert run.curve.flops == pytest.approx(load_run(tiny_run).curve.flops)
