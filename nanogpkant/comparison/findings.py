"""Results of a set of runs, as numbers and as sentences.

A variant is a configuration; its runs differ only in their seed. Variants are ranked only if all
losses are of the same text, split and evaluation.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from nanogpkant.comparison.runs import AXES, Run
from nanogpkant.comparison.statistics import (
    Difference,
    Summary,
    first_reach,
    holm,
    honest_best,
    mean_height,
    paired_difference,
    summary,
)

# Relative difference below which budgets count as equal.
SAME_BUDGET = 0.02
SIGNIFICANT = 0.05

# Loss of a run, by checkpoint.
LOSSES: dict[str, Callable[[Run], float]] = {
    "best": lambda run: run.curve.best_loss(),
    "final": lambda run: float(run.curve.losses[-1]),
}


@dataclass(frozen=True)
class VariantResult:
    """A configuration, and the results over its seeds."""

    name: str
    number: int  # in the order in which variants were given: its colour's
    runs: list[Run]  # one for each seed; finished ones if there are any
    best: Summary
    final: Summary
    honest: Summary | None
    """best checkpoint selected on one half of the text and evaluated on the other; None if a run
    has no losses of the halves"""
    area: dict[str, Summary]  # mean loss over the common range of each axis
    at_common: dict[str, Summary]  # loss at the end of the shortest run, on each axis
    to_reach: dict[str, Summary | None]
    """cost until the target loss, on each axis; None if a run never reached it"""

    @property
    def luck(self) -> float | None:
        """Selection bias of the best checkpoint."""
        return None if self.honest is None else self.honest.mean - self.best.mean

    def mean_row(self) -> dict[str, float]:
        """The row of the table, means over the seeds."""
        rows = [run.row() for run in self.runs]
        numbers = [key for key, value in rows[0].items() if not isinstance(value, str)]
        return {key: float(np.mean([row[key] for row in rows])) for key in numbers}

    def as_dict(self) -> dict[str, Any]:
        runs = {"runs": [run.name for run in self.runs], "seeds": [run.seed for run in self.runs]}
        more = {"figures": self.mean_row(), "luck": self.luck}
        return asdict(replace(self, runs=[])) | runs | more


@dataclass(frozen=True)
class Pair:
    """Two variants compared seed by seed, at one checkpoint."""

    first: str
    second: str
    at: str
    seeds: list[int]
    difference: Difference
    p_corrected: float | None  # corrected for all comparisons at this checkpoint, by Holm's method

    @property
    def is_significant(self) -> bool:
        return self.p_corrected is not None and self.p_corrected < SIGNIFICANT


@dataclass(frozen=True)
class Findings:
    """Results of all runs. Variants are in the order of their best loss, if they may be ranked."""

    variants: list[VariantResult]
    pairs: list[Pair]  # none if nothing may be ranked
    refusals: list[str]  # reasons for ranking nothing; empty if variants are ranked
    notes: list[str]  # caveats for the reader
    common: dict[str, tuple[float, float]]  # range of all runs on each axis
    shared: list[str]  # axes on which all runs have the same budget
    target: float  # loss whose reaching is timed
    runs: list[Run]  # every run, also those left out

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data, for report.json."""
        return {
            "ranked": not self.refusals,
            "refusals": self.refusals,
            "notes": self.notes,
            "answer": answer(self),
            "budgets": {
                axis: {"from": low, "to": high, "same": axis in self.shared}
                for axis, (low, high) in self.common.items()
            },
            "target_loss": self.target,
            "variants": [variant.as_dict() for variant in self.variants],
            "pairs": [asdict(pair) for pair in self.pairs],
            "runs": [run.as_dict() for run in self.runs],
        }


def find(
    variants: dict[str, list[Run]], target: float | None = None, failures: Iterable[str] = ()
) -> Findings:
    """Evaluate runs.

    Args:
        variants: runs by the name of their variant.
        target: loss whose reaching is timed; the lowest that every run reached if None.
        failures: notes on missing runs.
    """
    notes = list(failures)
    counting = {name: _one_a_seed(runs, notes) for name, runs in variants.items()}
    counted = [run for runs in counting.values() for run in runs]
    refusals = reasons_not_to_rank(counted)
    axes = {axis: [getattr(run.curve, axis) for run in counted] for axis in AXES}
    starts = {axis: [float(x[0]) for x in of] for axis, of in axes.items()}
    ends = {axis: [float(x[-1]) for x in of] for axis, of in axes.items()}
    common = {axis: (max(starts[axis]), min(ends[axis])) for axis in AXES}
    shared = [axis for axis in AXES if max(ends[axis]) <= (1 + SAME_BUDGET) * min(ends[axis])]
    if target is None:
        target = max(run.curve.best_loss() for run in counted)
    found = [
        _variant(name, number, runs, common, target)
        for number, (name, runs) in enumerate(counting.items())
    ]
    if not refusals:
        found.sort(key=lambda variant: variant.best.mean)
    pairs = [] if refusals else [pair for at in LOSSES for pair in _pairs(found, at)]
    notes += _notes(found, counted, shared)
    everything = [run for runs in variants.values() for run in runs]
    return Findings(found, pairs, refusals, notes, common, shared, target, everything)


def _one_a_seed(runs: list[Run], notes: list[str]) -> list[Run]:
    """One run for each seed, finished ones if there are any; notes those left out."""
    finished = [run for run in runs if run.finished]
    for run in runs:
        if not run.finished:
            left = "left out" if finished else "used, because no finished one exists"
            notes.append(f"{run.name} is not finished ({run.reached}): {left}.")
    by_seed: dict[int, Run] = {}
    for run in finished or runs:
        first = by_seed.setdefault(run.seed, run)
        if first is not run:
            notes.append(f"{run.name} repeats {first.name} with the same seed: counted once.")
    return list(by_seed.values())


def reasons_not_to_rank(runs: list[Run]) -> list[str]:
    """Reasons against ranking the losses of these runs; empty if they can be ranked."""
    reasons = []
    if len({run.fingerprint for run in runs}) > 1:
        texts = _listed({f"{run.config.data.dataset} ({run.fingerprint[:8]})" for run in runs})
        reasons.append(f"The runs were trained on different data: {texts}.")
    elif len({run.evaluated_tokens for run in runs}) > 1:
        sizes = _listed({f"{run.evaluated_tokens or 0:,} predictions" for run in runs})
        reasons.append(f"The runs were evaluated on different splits: {sizes}.")
    if len({run.config.model.block_size for run in runs}) > 1:
        blocks = _listed({f"{run.config.model.block_size} tokens" for run in runs})
        reasons.append(
            f"The runs were evaluated with different contexts: {blocks} (model.block_size); a "
            "longer context makes a token easier to predict."
        )
    return reasons


def _listed(words: set[str]) -> str:
    return ", ".join(sorted(words))


def _variant(
    name: str, number: int, runs: list[Run], common: dict[str, tuple[float, float]], target: float
) -> VariantResult:
    area, at_common, to_reach = {}, {}, {}
    for axis, (low, high) in common.items():
        curves = [(getattr(run.curve, axis), run.curve.losses) for run in runs]
        at_common[axis] = summary([float(np.interp(high, x, y)) for x, y in curves])
        if low < high:
            area[axis] = summary([mean_height(x, y, low, high) for x, y in curves])
        reached = [at for x, y in curves if (at := first_reach(x, y, target)) is not None]
        to_reach[axis] = summary(reached) if len(reached) == len(runs) else None
    evaluated = [run.curve for run in runs]
    halves = [curve.halves[:, curve.trained()] for curve in evaluated if curve.halves is not None]
    honest = summary(list(map(honest_best, halves))) if len(halves) == len(runs) else None
    best, final = (summary([loss(run) for run in runs]) for loss in LOSSES.values())
    return VariantResult(name, number, runs, best, final, honest, area, at_common, to_reach)


def _pairs(variants: list[VariantResult], at: str) -> list[Pair]:
    """Every two variants at one checkpoint, over their common seeds."""
    found = []
    for first, second in combinations(variants, 2):
        ours, theirs = ({run.seed: LOSSES[at](run) for run in v.runs} for v in (first, second))
        if seeds := sorted(ours.keys() & theirs.keys()):
            pairs = ([losses[seed] for seed in seeds] for losses in (ours, theirs))
            found.append((first.name, second.name, seeds, paired_difference(*pairs)))
    tested = [difference.p for *_, difference in found if difference.p is not None]
    corrected = iter(holm(tested))
    return [
        Pair(first, second, at, seeds, of, None if of.p is None else next(corrected))
        for first, second, seeds, of in found
    ]


def _notes(variants: list[VariantResult], runs: list[Run], shared: list[str]) -> list[str]:
    """Caveats about these runs."""
    notes = []
    if alone := [variant.name for variant in variants if len(variant.runs) == 1]:
        notes.append(f"One seed, so no interval and no test: {', '.join(alone)}.")
    if len(variants) > 1 and not shared:
        notes.append(
            "No common budget: iterations, seconds, tokens and FLOPs all differ; compare the "
            "losses at the end of the shortest run on each axis, not the final ones."
        )
    steps = sorted({int(run.curve.steps[-1]) for run in runs})
    if len(steps) > 1:
        notes.append(f"The runs differ in length: {steps[0]:,} to {steps[-1]:,} iterations.")
    counts = sorted({int(run.curve.trained().sum()) for run in runs})
    if len(counts) > 1:
        notes.append(
            f"Best checkpoints are the best of {counts[0]} to {counts[-1]} evaluations: more "
            "evaluations bias the best loss low."
        )
    if any(variant.honest is None for variant in variants):
        notes.append("Runs of an earlier version have no losses on the halves of the text.")
    machines = {hardware(run) for run in runs}
    if len(machines) > 1:
        notes.append(f"Seconds are from different machines: {_listed(machines)}.")
    dtypes = {run.config.train.dtype for run in runs}
    if len(dtypes) > 1:
        notes.append(f"The runs used different dtypes: {_listed(dtypes)}.")
    return notes


def hardware(run: Run) -> str:
    """The machine that a run was trained on."""
    environment = run.environment
    name = environment.get("device_name") or environment.get("device", "an unknown device")
    threads = environment.get("threads") if environment.get("device") == "cpu" else None
    return f"{name}, {threads} threads" if threads else name


def answer(findings: Findings) -> list[str]:
    """The best variant, in sentences that claim no more than the seeds show."""
    if findings.refusals:
        return [*findings.refusals, "So nothing is ranked here."]
    first, *others = findings.variants
    if not others:
        return [f"{first.name}: validation loss {_spread(first.best)} at its best checkpoint."]
    said = [f"{first.name} has the lowest validation loss, {_spread(first.best)}, at its best."]
    pairs = {(p.first, p.second): p for p in findings.pairs if p.at == "best"}
    said += [_against(first, other, pairs.get((first.name, other.name))) for other in others]
    budgets = [AXES[axis] for axis in findings.shared]
    differing = [AXES[axis] for axis in AXES if axis not in findings.shared]
    if budgets:
        said.append(f"Equal in all runs: {', '.join(budgets)}.")
    if differing:
        said.append(f"Not equal: {', '.join(differing)}; equal budgets are in the report.")
    return said


def _spread(of: Summary) -> str:
    if of.low is None:
        return f"{of.mean:.4f} (one seed)"
    return f"{of.mean:.4f} (95% interval {of.low:.4f} to {of.high:.4f}, {of.n} seeds)"


def _against(first: VariantResult, other: VariantResult, pair: Pair | None) -> str:
    """Difference of another variant to the best, and its significance."""
    if pair is None:
        gap = other.best.mean - first.best.mean
        return f"{other.name} is {gap:.4f} above it, but they share no seed: not tested."
    difference = pair.difference
    side = "above" if difference.mean <= 0 else "below"  # on the seeds of both
    behind = f"{other.name} is {abs(difference.mean):.4f} {side} it"
    if difference.p is None or difference.interval is None or difference.effect_size is None:
        return f"{behind}, in {difference.n} seed{'s' * (difference.n > 1)}: not tested."
    low, high = difference.interval
    words = (
        f"over {difference.n} paired seeds (95% interval {-high:.4f} to "
        f"{-low:.4f}, p = {pair.p_corrected:.2g}, d_z = {-difference.effect_size:.1f})"
    )
    doubt = "" if pair.is_significant else ": not significant over these seeds"
    return f"{behind} {words}{doubt}."
