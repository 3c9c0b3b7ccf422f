"""Verdicts on the comparisons that an experiment declared before its runs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from nanogpkant.comparison.experiment import Experiment
from nanogpkant.comparison.findings import SAME_BUDGET, SIGNIFICANT
from nanogpkant.comparison.runs import Run
from nanogpkant.comparison.statistics import (
    Difference,
    bootstrap_interval,
    holm,
    p_not_above,
    paired_difference,
)

COSTS = {"parameters": "parameters", "flops_per_token": "FLOPs", "seconds": "seconds"}


@dataclass(frozen=True)
class Verdict:
    """The first of two variants against the second, seed by seed, at the last evaluation."""

    first: str
    second: str
    seeds: list[int]
    declared_seeds: int
    judged_on: str
    """the part of the validation split whose loss counts: all, first_half or second_half"""
    margin: float
    """difference of losses, nats per token, that does not matter"""
    difference: Difference
    bootstrap: tuple[float, float] | None
    """95% interval over seeds and parts of the text; None where runs have no losses of parts"""
    p_corrected: float | None
    """of the two-sided paired t-test; corrected by Holm's method, as the next two are"""
    p_not_worse: float | None
    p_equal: float | None
    costs: dict[str, float]
    """of the first in units of the second's: parameters, FLOPs per token and seconds"""

    @property
    def kind(self) -> str:
        """below, above, equal, no worse, undecided, or too few seeds."""
        if len(self.seeds) < self.declared_seeds:
            return "too few seeds"
        if self.p_corrected is not None and self.p_corrected < SIGNIFICANT:
            return "below" if self.difference.mean < 0 else "above"
        if self.p_equal is not None and self.p_equal < SIGNIFICANT:
            return "equal"
        if self.p_not_worse is not None and self.p_not_worse < SIGNIFICANT:
            return "no worse"
        return "undecided"

    @property
    def at_cost(self) -> str:
        """The three costs, in words."""
        equal = [COSTS[key] for key, ratio in self.costs.items() if abs(ratio - 1) <= SAME_BUDGET]
        other = [
            f"{ratio:.2f} times the {COSTS[key]}"
            for key, ratio in self.costs.items()
            if abs(ratio - 1) > SAME_BUDGET
        ]
        return " and ".join([*([f"equal {', '.join(equal)}"] if equal else []), *other])

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"kind": self.kind, "words": self.words()}

    def words(self) -> str:
        """The verdict as one sentence."""
        size = f"{abs(self.difference.mean):.4f}"
        p = "" if self.p_corrected is None else f" (corrected p {self.p_corrected:.2g})"
        said = {
            "below": f"{self.first} is below {self.second} by {size} nats{p}",
            "above": f"{self.first} is above {self.second} by {size} nats{p}",
            "equal": f"{self.first} and {self.second} are within {self.margin} nats",
            "no worse": f"{self.first} is no worse than {self.second} by {self.margin} nats",
            "undecided": f"{self.first} and {self.second} are undecided: {size} nats apart{p}",
            "too few seeds": f"no conclusion on {self.first} and {self.second}: "
            f"{len(self.seeds)} of {self.declared_seeds} declared seeds have finished",
        }
        return f"{said[self.kind]}, at {self.at_cost}."


def verdicts(experiment: Experiment, variants: Mapping[str, list[Run]]) -> list[Verdict]:
    """A verdict on every declared comparison of which both variants have a finished run."""
    found = []
    for first, second in experiment.comparisons:
        judge = experiment.judged_on
        runs = {name: _finished(variants.get(name, []), judge) for name in (first, second)}
        seeds = sorted(runs[first].keys() & runs[second].keys() & set(experiment.seeds))
        if seeds:
            pairs = [(runs[first][seed], runs[second][seed]) for seed in seeds]
            found.append(_verdict(first, second, pairs, experiment))
    missing = [1.0] * (len(experiment.comparisons) - len(found))  # they count too
    for key in ("p_corrected", "p_not_worse", "p_equal"):
        known = [getattr(verdict, key) for verdict in found]
        corrected = holm([*(1.0 if p is None else p for p in known), *missing])
        found = [
            verdict if old is None else replace(verdict, **{key: new})
            for verdict, old, new in zip(found, known, corrected, strict=False)
        ]
    return found


def _finished(runs: list[Run], judge: str) -> dict[int, Run]:
    """By seed; older runs have no losses of halves."""
    finished = [run for run in runs if run.finished]
    return {run.seed: run for run in finished if judge == "all" or run.curve.halves is not None}


def _verdict(
    first: str, second: str, pairs: list[tuple[Run, Run]], experiment: Experiment
) -> Verdict:
    judge, margin = experiment.judged_on, experiment.margin
    ours, theirs = [a.last_loss(judge) for a, _ in pairs], [b.last_loss(judge) for _, b in pairs]
    not_worse, not_better = p_not_above(ours, theirs, margin), p_not_above(theirs, ours, margin)
    parts = [(a.last_parts(judge), b.last_parts(judge)) for a, b in pairs]
    gaps = [np.subtract(a, b) for a, b in parts if a is not None and b is not None]
    has_parts = len(gaps) == len(pairs) > 1
    rows, difference = [(a.row(), b.row()) for a, b in pairs], paired_difference(ours, theirs)
    return Verdict(
        first=first,
        second=second,
        seeds=[a.seed for a, _ in pairs],
        declared_seeds=len(experiment.seeds),
        judged_on=judge,
        margin=margin,
        difference=difference,
        bootstrap=bootstrap_interval(np.array(gaps)) if has_parts else None,
        p_corrected=difference.p,
        p_not_worse=not_worse,
        p_equal=None if not_worse is None or not_better is None else max(not_worse, not_better),
        costs={key: sum(a[key] for a, _ in rows) / sum(b[key] for _, b in rows) for key in COSTS},
    )
