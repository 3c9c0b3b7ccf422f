"""What runs say together: figures that can be worked out by hand, and what must not be claimed."""

import json

import pytest

from nanogpkant.cli import main
from nanogpkant.comparison.findings import answer, find
from nanogpkant.comparison.runs import load_run


@pytest.fixture
def two_variants(loaded):
    """A good and a bad variant, three seeds each, with the same budget but for seconds."""
    good = [[4, 2.5, 2.0], [4, 2.6, 2.1], [4, 2.4, 1.9]]
    bad = [[4, 3.5, 2.4], [4, 3.6, 2.6], [4, 3.4, 2.2]]
    variants = {"bad": [], "good": []}
    for seed in (1, 2, 3):
        run = loaded(f"good-{seed}", good[seed - 1], seed=seed)
        variants["good"].append(run)
        slow = {"seconds_per_step": 2.0, "model.bias": True}
        variants["bad"].append(loaded(f"bad-{seed}", bad[seed - 1], seed=seed, **slow))
    return variants


def test_variants_are_ranked_with_intervals_and_a_paired_test(two_variants):
    found = find(two_variants)
    assert [variant.name for variant in found.variants] == ["good", "bad"]
    good, bad = found.variants
    assert (good.best.mean, bad.best.mean) == (pytest.approx(2.0), pytest.approx(2.4))
    assert good.best.sd == pytest.approx(0.1)
    pair = found.pairs[0]
    assert (pair.first, pair.second, pair.at, pair.seeds) == ("good", "bad", "best", [1, 2, 3])
    assert pair.difference.mean == pytest.approx(-0.4)
    assert pair.difference.effect_size == pytest.approx(-4.0)  # differences -0.4, -0.5, -0.3
    assert pair.is_significant
    words = " ".join(answer(found))
    assert "good has the lowest validation loss, 2.0000 (95% interval" in words
    assert "bad is 0.4000 above it over 3 paired seeds" in words
    assert "Equal in all runs: iterations, training tokens" in words
    assert "Not equal: seconds of training" in words


def test_areas_targets_and_equal_budgets_are_read_off_the_curves(two_variants):
    found = find(two_variants, target=3.0)
    good, bad = found.variants
    assert found.common["steps"] == (0, 8)
    assert found.common["seconds"] == (0, 4)  # the fast runs end there, the slow ones at step 2
    assert bad.at_common["seconds"].mean == pytest.approx((4 + 3.5) / 2)
    assert good.area["steps"].mean == pytest.approx(((4 + 2.5) / 2 + (2.5 + 2.0) / 2) / 2)
    assert good.to_reach["steps"].mean == pytest.approx(4 * (1 / 1.5 + 1 / 1.4 + 1 / 1.6) / 3)
    assert bad.to_reach["seconds"].n == 3
    assert find(two_variants, target=2.0).variants[1].to_reach["steps"] is None


def test_without_a_target_it_is_what_every_run_reached(two_variants):
    found = find(two_variants)
    assert found.target == 2.6
    assert all(v.to_reach[axis] is not None for v in found.variants for axis in found.common)


def test_a_difference_that_seeds_do_not_show_is_not_claimed(loaded):
    first = [loaded(f"a-{s}", [4, loss], seed=s) for s, loss in ((1, 2.0), (2, 3.0))]
    second = [
        loaded(f"b-{s}", [4, loss], seed=s, **{"model.bias": True})
        for s, loss in ((1, 2.3), (2, 2.8))
    ]
    found = find({"a": first, "b": second})
    assert not any(pair.is_significant for pair in found.pairs)
    assert "not significant over these seeds" in answer(found)[1]


def test_one_seed_has_no_interval_and_that_is_said(loaded):
    found = find({"a": [loaded("a", [4, 2])], "b": [loaded("b", [4, 3], **{"model.bias": True})]})
    assert found.variants[0].best.low is None
    assert any("One seed, so no interval and no test: a, b" in note for note in found.notes)
    assert "b is 1.0000 above it, in 1 seed: not tested." in answer(found)


def test_variants_without_a_seed_in_common_are_not_tested(loaded):
    other = loaded("b", [4, 3], seed=2, **{"model.bias": True})
    found = find({"a": [loaded("a", [4, 2])], "b": [other]})
    assert found.pairs == []
    assert "they share no seed" in answer(found)[1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fingerprint": "0" * 64}, "different data"),
        ({"tokens": 50}, "different splits: 100 predictions, 50 predictions"),
        ({"tokens": None}, "different splits: 0 predictions, 100 predictions"),
        ({"model.block_size": 32}, "different contexts: 16 tokens, 32 tokens"),
    ],
)
def test_what_cannot_be_compared_is_not_ranked(settings, words, loaded):
    found = find({"z": [loaded("z", [4, 3])], "a": [loaded("a", [4, 2], **settings)]})
    assert words in found.refusals[0]
    assert found.pairs == []
    assert [variant.name for variant in found.variants] == ["z", "a"]  # as given
    assert answer(found)[-1] == "So nothing is ranked here."


def test_runs_of_different_lengths_are_compared_where_the_shortest_ends(loaded):
    short = loaded("short", [4, 3, 2.5], **{"model.bias": True}, seconds_per_step=3.0)
    found = find({"long": [loaded("long", [4, 3.5, 3, 2.5, 2])], "short": [short]})
    notes = " ".join(found.notes)
    assert "The runs differ in length: 8 to 16 iterations." in notes
    assert "No common budget" in notes
    assert "the best of 2 to 4 evaluations" in notes
    at_common = {variant.name: variant.at_common["steps"].mean for variant in found.variants}
    assert at_common == {"long": 3, "short": 2.5}


def test_a_missing_evaluation_is_bridged(loaded):
    whole, gap = loaded("whole", [4, 3, 2]), loaded("gap", [4, 3, 2], seed=2)
    rows = (gap.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (gap.path / "metrics.jsonl").write_text(rows[0] + rows[2], encoding="utf-8")
    found = find({"a": [whole, load_run(gap.path)]})
    assert found.variants[0].area["steps"].mean == pytest.approx(3)
    assert any("the best of 1 to 2 evaluations" in note for note in found.notes)


def test_an_unfinished_run_is_left_out_where_there_are_finished_ones(loaded):
    crashed = loaded("crashed", [4, 1], seed=2, **{"train.max_iters": 100})
    found = find({"a": [loaded("a", [4, 3]), crashed]})
    assert found.variants[0].best.mean == 3
    assert "crashed is not finished (4 of 100 iterations): left out." in found.notes
    assert [run.name for run in found.runs] == ["a", "crashed"]
    alone = find({"a": [crashed]})
    assert alone.variants[0].best.mean == 1
    assert "because no finished one exists" in alone.notes[0]


def test_a_repeat_of_the_same_seed_counts_once(loaded):
    found = find({"a": [loaded("first", [4, 3]), loaded("copy", [4, 3])]})
    assert found.variants[0].best.n == 1
    assert "copy repeats first with the same seed: counted once." in found.notes


def test_the_start_of_a_run_is_never_its_best(loaded):
    found = find({"a": [loaded("a", [2, 4, 3])]})
    assert found.variants[0].best.mean == 3


def test_the_luck_of_the_best_checkpoint(loaded):
    # By halves: (4, 4), then (2.2, 1.8) and (1.9, 2.1): the first half chooses the last evaluation,
    # which is 2.1 on the second; the second half chooses the one before, which is 2.2 on the first.
    run = loaded("a", [4, 2.0, 2.0], second_halves=[4, 1.8, 2.1])
    variant = find({"a": [run]}).variants[0]
    assert variant.honest.mean == pytest.approx((2.1 + 2.2) / 2)
    assert variant.luck == pytest.approx(0.15)


def test_other_machines_and_dtypes_are_said(loaded):
    first, second = loaded("a", [4, 3]), loaded("b", [4, 2], **{"train.dtype": "bfloat16"})
    second.environment["device_name"] = "Some GPU"
    notes = " ".join(find({"a": [first], "b": [second]}).notes)
    assert "different machines" in notes
    assert "different dtypes: bfloat16, float32" in notes


def test_the_command_refuses_to_rank_and_says_why(make_run, tmp_path, capsys):
    runs = [str(make_run("a", [4, 3])), str(make_run("b", [4, 2], fingerprint="0" * 64))]
    assert main(["compare", *runs, "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["ranked"]
    assert "different data" in found["refusals"][0]
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8")) == found
    page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "nothing is ranked" in page
    assert "At equal budgets" not in page


def test_seeds_of_both_may_say_the_opposite_of_all(loaded):
    """In an experiment that was interrupted."""
    first = [loaded(f"a-{seed}", [4, loss], seed=seed) for seed, loss in ((1, 2.0), (2, 2.6))]
    second = [loaded("b-1", [4, 1.9], seed=1, **{"model.bias": True})]
    third = [loaded(f"b-{seed}", [4, 2.9], seed=seed, **{"model.bias": True}) for seed in (3, 4)]
    words = " ".join(answer(find({"a": first, "b": second + third})))
    assert "a has the lowest validation loss" in words
    assert "b is 0.1000 below it, in 1 seed: not tested" in words
