"""Verdicts on declared comparisons."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from nanogpkant.base.errors import UsageError
from nanogpkant.base.files import read_json
from nanogpkant.comparison.declared import verdicts
from nanogpkant.comparison.experiment import load_experiment
from nanogpkant.comparison.findings import find
from nanogpkant.comparison.report import write_report
from nanogpkant.comparison.statistics import holm

SEEDS = [1, 2, 3, 4, 5]


@pytest.fixture
def experiment(tmp_path):
    def make(text: str = ""):
        names = "".join(f"  - {{name: {name}, preset: quickstart_gpt}}\n" for name in "abc")
        file = tmp_path / "file.yaml"
        body = f"variants:\n{names}seeds: {SEEDS}\nbudget: {{iterations: 4}}\n"
        file.write_text(f"{body}comparisons: [[a, b], [a, c]]\n{text}", "utf-8")
        return load_experiment(file)

    return make


@pytest.fixture
def variants(loaded):
    """Runs of a, b and c with given last losses, one a seed."""

    def make(**losses: list[float]):
        return {
            name: [
                loaded(f"{name}{seed}", [4.0, loss], seed=seed, second_halves=[4.0, loss + 0.1])
                for seed, loss in zip(SEEDS, each, strict=False)
            ]
            for name, each in losses.items()
        }

    return make


NOISE = np.array([0.0, 0.001, -0.001, 0.0005, -0.0005])
B = 1.5 + np.array([0.01, -0.01, 0.02, 0.0, -0.02])


@pytest.mark.parametrize(
    ("shift", "spread", "kind"),
    [
        (-0.01, 1, "below"),
        (0.01, 1, "above"),
        (0.0, 1, "equal"),
        (-0.004, 6, "no worse"),
        (0.002, 20, "undecided"),
    ],
)
def test_kinds(experiment, variants, shift: float, spread: float, kind: str) -> None:
    a = B + shift + spread * NOISE
    first, second = verdicts(experiment(), variants(a=a, b=B, c=a + 0.5 + NOISE))
    assert first.kind == kind
    assert second.kind == "below"
    tests = [stats.ttest_rel(a, B).pvalue, stats.ttest_rel(a, a + 0.5 + NOISE).pvalue]
    assert [first.p_corrected, second.p_corrected] == pytest.approx(holm(tests))
    assert first.difference.mean == pytest.approx(shift, abs=1e-12)
    low, high = first.bootstrap
    assert low <= first.difference.mean <= high
    assert "equal parameters, FLOPs, seconds" in first.words()


def test_fewer_seeds_than_declared_conclude_nothing(experiment, variants) -> None:
    (only,) = verdicts(experiment(), variants(a=B[:4] - 1, b=B))
    assert only.kind == "too few seeds"
    assert "4 of 5 declared seeds" in only.words()
    assert verdicts(experiment(), variants(c=B)) == []


def test_comparisons_without_runs_count_in_the_correction(experiment, variants) -> None:
    a = B - 0.01 + NOISE
    (only,) = verdicts(experiment("margin: 1e-3\n"), variants(a=a, b=B))
    assert only.p_corrected == pytest.approx(2 * stats.ttest_rel(a, B).pvalue)
    assert only.margin == 0.001  # which PyYAML reads as text


def test_every_question_is_corrected(experiment, variants) -> None:
    """With one comparison of two, p of no difference beyond the margin doubles."""
    runs = {"a": B + 0.0001 + 3.6 * NOISE, "b": B}
    (only,) = verdicts(experiment("margin: 0.003\n"), variants(**runs))
    lower = stats.ttest_rel(runs["a"], B + 0.003, alternative="less").pvalue
    upper = stats.ttest_rel(B, runs["a"] + 0.003, alternative="less").pvalue
    assert 0.025 < upper < lower < 0.05
    assert only.p_equal == pytest.approx(2 * lower)
    assert only.p_not_worse == pytest.approx(2 * lower)
    assert only.kind == "undecided"


def test_older_runs_are_not_judged_by_halves(experiment, variants, loaded) -> None:
    older = [loaded(f"o{n}", [4.0, loss], seed=n) for n, loss in enumerate(B, 1)]
    runs = {**variants(b=B), "a": older}
    assert verdicts(experiment("judged_on: second_half\n"), runs) == []
    assert len(verdicts(experiment(), runs)) == 1


def test_equal_losses_are_equal(experiment, variants) -> None:
    assert verdicts(experiment(), variants(a=B, b=B))[0].kind == "equal"


def test_the_half_that_judges(experiment, variants, loaded) -> None:
    runs = variants(a=B - 0.01 + NOISE, b=B)
    whole = verdicts(experiment(), runs)[0]
    assert runs["a"][0].last_loss("second_half") == pytest.approx(B[0] - 0.01 + 0.1)
    half = verdicts(experiment("judged_on: second_half\nmargin: 0.01\n"), runs)[0]
    assert (half.judged_on, half.margin) == ("second_half", 0.01)
    assert half.difference.mean == pytest.approx(whole.difference.mean)


def test_costs_are_told(experiment, variants, loaded) -> None:
    slow = [
        loaded(f"s{n}", [4.0, loss], seed=n, seconds_per_step=1.0) for n, loss in enumerate(B, 1)
    ]
    found = verdicts(experiment(), variants(b=B) | {"a": slow})[0]
    assert found.costs["seconds"] == pytest.approx(2)
    assert found.at_cost == "equal parameters, FLOPs and 2.00 times the seconds"
    assert found.bootstrap is None  # these runs know no parts


@pytest.mark.parametrize(
    "text",
    [
        "margin: 0\n",
        "margin: true\n",
        "margin: 1\n",
        "judged_on: third\n",
        "comparisons: [[a, d]]\n",
        "comparisons: [[a, a]]\n",
        "comparisons: [a]\n",
        "comparisons: [[a, b], [b, a]]\n",
        "comparisons: 7\n",
    ],
)
def test_declarations_that_cannot_be(experiment, tmp_path, text: str) -> None:
    key = text.partition(":")[0]
    file = tmp_path / "file.yaml"
    experiment()
    kept = [line for line in file.read_text("utf-8").splitlines() if not line.startswith(key)]
    file.write_text("\n".join(kept) + "\n" + text, "utf-8")
    with pytest.raises(UsageError, match=rf"file\.yaml: {key}"):
        load_experiment(file)


def test_the_report_has_them_apart(experiment, variants, tmp_path) -> None:
    declared, runs = experiment(), variants(a=B - 0.01 + NOISE, b=B, c=B + 1)
    verdict = verdicts(declared, runs)
    write_report(tmp_path / "report", find(runs), [], "title", "command", declared, verdict)
    found = read_json(tmp_path / "report" / "report.json")
    assert [each["kind"] for each in found["declared"]] == ["below", "below"]
    text = (tmp_path / "report" / "report.md").read_text("utf-8")
    assert verdict[0].words() in text
    assert "Looked at afterwards" in text
    write_report(tmp_path / "other", find(runs), [], "title", "command", None, [])
    assert "afterwards" not in (tmp_path / "other" / "report.md").read_text("utf-8")


def test_a_variant_that_diverged_has_a_report(loaded, tmp_path) -> None:
    found = find({"a": [loaded("a", [4.0, 5000.0])]})  # whose e to the power is no float
    write_report(tmp_path / "report", found, [], "title", "command", None, [])


def test_runs_that_may_not_be_ranked_get_no_verdict(experiment, variants, tmp_path, capsys) -> None:
    from nanogpkant.verbs.compare import _report

    runs = variants(a=B - 0.1 + NOISE, b=B, c=B + NOISE)
    assert "a is below b" in _report(tmp_path / "r", runs, "t", None, [], experiment()).text
    other = {"data_fingerprint": "0" * 64}
    runs["b"] = [replace(run, environment=run.environment | other) for run in runs["b"]]
    text = _report(tmp_path / "r", runs, "t", None, [], experiment()).text
    assert "below" not in text
    assert "different data" in text
