"""The loss with edges replaced, against models whose weights are changed instead."""

import copy

import pytest
import torch
import torch.nn.functional as F

from nanogpkant.interpretation.judge.evaluator import SwapEvaluator, measure
from nanogpkant.interpretation.judge.replacements import (
    REPLACEMENTS,
    SHARES,
    Replaceable,
    first_share,
    partial_replacements,
    random_ranks,
    total_replacements,
)
from nanogpkant.kan import kan_layers


@pytest.fixture
def judged(looked_at, text):
    model, layers, observed = looked_at
    made = {name: Replaceable.of(layer, observed[name]) for name, layer in layers.items()}
    made = {name: each.with_curves(formula=each.curves["spline"]) for name, each in made.items()}
    return SwapEvaluator(model, text), made


def test_the_judge_says_torchs_cross_entropy(looked_at, text):
    model, _, _ = looked_at
    score = SwapEvaluator(model, text).original
    with torch.no_grad():
        full = torch.from_numpy(text[:2993].astype("int64"))
        rows = model(full[:-1].view(-1, 16))
        last = torch.from_numpy(text[2992:].astype("int64"))
        logits = torch.cat([rows.flatten(0, 1), model(last[None, :-1])[0]])
        targets = torch.cat([full[1:], last[1:]])
        expected = F.cross_entropy(logits, targets).item()
    assert score.tokens == len(text) - 1
    assert score.loss == pytest.approx(expected, abs=1e-5)
    assert score.kl == 0


def test_nothing_in_the_place_of_edges_is_a_model_without_them(judged, text):
    evaluator, layers = judged
    without = copy.deepcopy(evaluator.model)
    with torch.no_grad():
        for layer in kan_layers(without).values():
            layer.weight.zero_()
    found = evaluator.score({name: each.replaced("zero") for name, each in layers.items()})
    assert found.loss == pytest.approx(SwapEvaluator(without, text).original.loss, abs=1e-5)
    with torch.no_grad():
        x = evaluator.batches[0][0]
        before, after = (m(x).log_softmax(-1) for m in (evaluator.model, without))
        expected = F.kl_div(after, before, reduction="none", log_target=True).sum(-1).mean()
    one = SwapEvaluator(evaluator.model, text[: x.numel() + 1])
    kl = one.score({name: each.replaced("zero") for name, each in layers.items()}).kl
    assert kl == pytest.approx(expected.item(), abs=1e-5)


def test_rows_of_every_kind(judged):
    evaluator, layers = judged
    orders = {"random": random_ranks({n: e.means() for n, e in layers.items()}, 1)}
    known = {}

    def remember(name, find):
        known[name] = known.get(name) or find()
        return known[name]

    interventions, seen = partial_replacements(layers, orders), []
    rows = measure(
        evaluator, interventions, remember, lambda done, total: seen.append((done, total))
    )
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    assert len(rows) == len(REPLACEMENTS) * (1 + len(layers)) + 4 * len(SHARES)
    added = {(r["layers"], r["replacement"], r["share"]): r["added"] for r in rows}
    kl = {(r["layers"], r["replacement"], r["share"]): r["kl"] for r in rows}
    assert kl["all", "formula", 1.0] == pytest.approx(kl["all", "spline", 1.0], abs=1e-7)
    assert kl["all", "spline", 1.0] < 0.05 * kl["all", "mean", 1.0]
    assert kl["all", "mean", 0.1] < kl["all", "mean", 0.9]
    assert all(r["added"] == pytest.approx(r["loss"] - evaluator.original.loss) for r in rows)
    assert added["all", "zero", 1.0] != 0
    assert measure(evaluator, interventions, lambda name, _: known[name]) == rows


def test_totals_leave_edges_that_no_formula_fits(judged):
    evaluator, layers = judged
    wrong = {n: e.with_curves(formula=e.curves["zero"]) for n, e in layers.items()}
    none = {name: torch.zeros_like(each.means(), dtype=torch.bool) for name, each in layers.items()}
    found = measure(evaluator, total_replacements(wrong, none), lambda _, find: find())
    rows = {r["replacement"]: r for r in found}
    assert list(rows) == ["original", *REPLACEMENTS, "formula where it fits"]
    assert rows["original"]["kl"] == 0
    assert rows["formula where it fits"]["loss"] == pytest.approx(rows["spline"]["loss"], abs=1e-6)
    assert rows["formula"]["loss"] == pytest.approx(rows["zero"]["loss"], abs=1e-6)


def test_the_first_of_all_layers_together():
    ranks = {"a": torch.tensor([[5.0, 1.0], [2.0, 9.0]]), "b": torch.tensor([[7.0, 3.0, 0.0]])}
    found = first_share(ranks, 3 / 7)
    assert found["a"].tolist() == [[True, False], [False, True]]
    assert found["b"].tolist() == [[True, False, False]]
    assert not any(mask.any() for mask in first_share(ranks, 0.0).values())
    assert all(mask.all() for mask in first_share(ranks, 1.0).values())
