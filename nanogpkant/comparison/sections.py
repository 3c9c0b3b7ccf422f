"""The sections of a comparison's report: words, tables, charts and texts."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from nanogpkant.comparison.charts import grid_charts, loss_charts
from nanogpkant.comparison.findings import Findings, Pair, VariantResult, answer, hardware
from nanogpkant.comparison.references import Reference
from nanogpkant.comparison.runs import AXES, Run
from nanogpkant.comparison.statistics import Summary
from nanogpkant.report.charts import dashes_of
from nanogpkant.report.section import Cell, Section

SAMPLE_CHARACTERS = 500
GRID_COLUMNS = {
    "out_of_range": "inputs outside the grid",
    "unseen": "inputs that no spline sees",
    "dead": "splines that see no input",
    "knot_use": "intervals in use",
}
METHOD = [
    "A variant is one configuration; its runs differ in their seed, which determines the initial "
    "weights, the batches and the dropout. Every loss is the mean over the whole validation split, "
    "in nats per token, each token predicted once.",
    "Best is the evaluation with the lowest loss, final the last one. Differences are paired by "
    "seed (two-sided paired t-test); p is corrected by Holm's method for all comparisons at that "
    "checkpoint; d_z is the mean difference divided by its standard deviation.",
    "FLOPs count the matrix products of training, from the configuration. Seconds count training "
    "steps, without evaluating, saving and loading.",
]
Columns = list[tuple[str, Callable[[Any], Cell]]]
"""of a table: heading, and the cell of a row's variant, pair or run"""


def _text(value: str) -> Cell:
    return Cell(value, value)


def _number(value: float | None, form: str = "{:,.0f}", scale: float = 1.0) -> Cell:
    return Cell("-") if value is None else Cell(form.format(scale * value), value)


def _mean(of: Summary | None, form: str = "{:.4f}") -> Cell:
    """A mean, with its standard deviation if there is one."""
    if of is None:
        return Cell("-")
    spread = "" if of.sd is None else " ± " + form.format(of.sd)
    return Cell(form.format(of.mean) + spread, of.mean)


def _interval(of: Summary, form: str = ".4f") -> Cell:
    if of.interval is None:
        return Cell("one seed")
    low, high = of.interval
    return Cell(f"{low:{form}} to {high:{form}}", high - low)


def _figure(key: str, form: str = "{:,.0f}", scale: float = 1.0) -> Callable[[VariantResult], Cell]:
    """The mean over the seeds of a value of ``Run.row``."""
    return lambda variant: _number(variant.mean_row()[key], form, scale)


NAMED: Columns = [
    ("variant", lambda variant: _text(variant.name)),
    ("seeds", lambda variant: _number(len(variant.runs))),
]
COST: Columns = [
    *NAMED,
    ("parameters", _figure("parameters", "{:.2f} M", 1e-6)),
    ("FLOPs/token", _figure("flops_per_token", "{:.1f} M", 1e-6)),
    ("best loss", lambda variant: _mean(variant.best)),
    ("final loss", lambda variant: _mean(variant.final)),
    ("perplexity", lambda variant: _number(math.exp(variant.best.mean), "{:.2f}")),
    ("bits/char", lambda variant: _number(variant.best.mean / math.log(2), "{:.3f}")),
    ("seconds", _figure("seconds")),
    ("tokens/s", _figure("tokens_per_second")),
    ("peak memory", _figure("peak_memory_bytes", "{:.2f} GB", 1e-9)),
]
CERTAINTY: Columns = [
    *NAMED,
    ("best loss", lambda variant: _mean(variant.best)),
    ("95% interval", lambda variant: _interval(variant.best)),
    ("final loss", lambda variant: _mean(variant.final)),
    ("95% interval", lambda variant: _interval(variant.final)),
    ("evaluations", lambda v: _number(max(int(run.curve.trained().sum()) for run in v.runs))),
    ("selected on the other half", lambda variant: _mean(variant.honest)),
    ("selection bias", lambda variant: _number(variant.luck, "{:.4f}")),
]
PAIRED: Columns = [
    ("first", lambda pair: _text(pair.first)),
    ("second", lambda pair: _text(pair.second)),
    ("at", lambda pair: _text(pair.at)),
    ("seeds", lambda pair: _number(pair.difference.n)),
    ("difference", lambda pair: _number(pair.difference.mean, "{:+.4f}")),
    ("95% interval", lambda pair: _interval(pair.difference, "+.4f")),
    ("p", lambda pair: _number(pair.p_corrected, "{:.2g}")),
    ("d_z", lambda pair: _number(pair.difference.effect_size, "{:+.1f}")),
]
RUNS: Columns = [
    ("run", lambda run: _text(run.name)),
    ("seed", lambda run: _number(run.seed, "{:.0f}")),
    ("iterations", lambda run: _iterations(run)),
    ("best loss", lambda run: _number(run.row()["best_val_loss"], "{:.4f}")),
    ("final loss", lambda run: _number(run.row()["val_loss"], "{:.4f}")),
    ("seconds", lambda run: _number(run.row()["seconds"])),
    ("trained on", lambda run: _text(hardware(run))),
    ("revision", lambda run: _text(run.environment.get("git_revision") or "-")),
]


def _iterations(run: Run) -> Cell:
    step = run.row()["step"]
    return Cell(f"{step:,}{'' if run.finished else ' (not finished)'}", step)


def _section(
    title: str,
    words: list[str],
    columns: Columns,
    items: Iterable[VariantResult | Pair | Run],
    **more: Any,
) -> Section:
    """A section with a table."""
    rows = [[make(item) for _, make in columns] for item in items]
    return Section(title, words, [heading for heading, _ in columns], rows, **more)


def sections_of(
    findings: Findings, references: list[Reference], command: str, experiment: str
) -> list[Section]:
    """The sections of the report, in order; empty ones are left out.

    Args:
        command: the command that made the report.
        experiment: text of the experiment's file; may be empty.
    """
    sections = [
        Section("The answer", answer(findings) + findings.notes),
        _curves(findings, references),
        _cost(findings),
        _certainty(findings),
        _equal_budgets(findings),
        _until_target(findings),
        _pairs(findings),
        _grids(findings),
        _samples(findings),
        _runs(findings.runs),
        _repeating(findings.runs, command, experiment),
        Section("How to read this", METHOD),
    ]
    return [section for section in sections if section is not None]


def _curves(findings: Findings, references: list[Reference]) -> Section:
    words = (
        "Means over the seeds, with bands of one standard deviation; the steep start is cut off. "
        "Axes are logarithmic if budgets are far apart."
    )
    return Section(
        "Validation loss",
        [words, *sorted({f"Dashed: {reference.source}." for reference in references})],
        charts=loss_charts(findings, references),
        picture="curves.png",
        lines={variant.name: number for number, variant in enumerate(findings.variants)},
        dashed={reference.name: dashes_of(n) for n, reference in enumerate(references)},
    )


def _cost(findings: Findings) -> Section:
    words = ["Means over the seeds, ± their standard deviation."]
    if findings.refusals:
        words.append("Not ranked: these losses cannot be compared.")
    return _section("Size, quality and cost", words, COST, findings.variants)


def _certainty(findings: Findings) -> Section:
    words = [
        "Intervals are 95% confidence intervals of the mean, by Student's t over the seeds.",
        "The minimum over many evaluations is biased low, because the same text selects and "
        "evaluates the checkpoint. So a checkpoint is also selected on one half of the validation "
        "split and evaluated on the other, both ways round; the difference to the plain best is "
        "the selection bias.",
    ]
    return _section("How sure the losses are", words, CERTAINTY, findings.variants)


def _equal_budgets(findings: Findings) -> Section | None:
    ends = {axis: high for axis, (low, high) in findings.common.items() if low < high}
    if findings.refusals or len(findings.variants) < 2 or not ends:
        return None

    def loss(axis: str) -> Callable[[VariantResult], Cell]:
        def cell(variant: VariantResult) -> Cell:
            at_end = _mean(variant.at_common[axis])
            return Cell(f"{at_end.text} ({variant.area[axis].mean:.4f})", at_end.value)

        return cell

    def amount(axis: str, value: float) -> str:
        if axis == "flops":
            return f"{value:.3g} FLOPs"
        return f"{value:,.0f} {'seconds' if axis == 'seconds' else AXES[axis].split()[-1]}"

    words = (
        "The loss at the end of the shortest run on each axis, interpolated; in brackets, the mean "
        "loss until there (area under the curve, divided by its width)."
    )
    columns = [(f"at {amount(axis, high)}", loss(axis)) for axis, high in ends.items()]
    return _section("At equal budgets", [words], [*NAMED[:1], *columns], findings.variants)


def _until_target(findings: Findings) -> Section | None:
    if findings.refusals:
        return None

    def cost(axis: str, form: str) -> Callable[[VariantResult], Cell]:
        def cell(variant: VariantResult) -> Cell:
            reached = variant.to_reach[axis]
            return _mean(reached, form) if reached else Cell("not reached")

        return cell

    forms = {"seconds": "{:,.1f}", "flops": "{:.3g}"}
    columns = [(words, cost(axis, forms.get(axis, "{:,.0f}"))) for axis, words in AXES.items()]
    words = "Cost until the validation loss first reached it, interpolated."
    title = f"Until a loss of {findings.target:.4f}"
    return _section(title, [words], [*NAMED[:1], *columns], findings.variants)


def _pairs(findings: Findings) -> Section | None:
    words = "Loss of the first minus loss of the second, over their common seeds."
    pairs = findings.pairs
    return _section("Seed by seed", [words], PAIRED, pairs) if pairs else None


def _grids(findings: Findings) -> Section | None:
    charts = grid_charts(findings)
    if not charts:
        return None
    words = "Shares on a batch of the validation split, in the worst layer, at the end of training."

    def share(key: str) -> Callable[[VariantResult], Cell]:
        def cell(variant: VariantResult) -> Cell:
            last = [run.grid_rows[-1][key] for run in variant.runs if run.grid_rows]
            return Cell(f"{sum(last) / len(last):.1%}", sum(last) / len(last))

        return cell

    lines = {
        variant.name: number
        for number, variant in enumerate(findings.variants)
        if any(run.grid_rows for run in variant.runs)
    }
    columns = [*NAMED[:1], *((words, share(key)) for key, words in GRID_COLUMNS.items())]
    shown = [variant for variant in findings.variants if variant.name in lines]
    more = {"charts": charts, "picture": "grids.png", "lines": lines}
    return _section("Grids of the KAN layers", [words], columns, shown, **more)


def _samples(findings: Findings) -> Section | None:
    texts = {variant.name: variant.runs[0].sample for variant in findings.variants}
    texts = {name: text[:SAMPLE_CHARACTERS] for name, text in texts.items() if text}
    words = "Beginning of the sample of each variant's first run, from its best checkpoint."
    return Section("Samples", [words], texts=texts) if texts else None


def _runs(runs: list[Run]) -> Section:
    machines = set()
    for run in runs:
        versions = (run.environment.get("versions") or {}).items()
        named = ", ".join(f"{name} {version}" for name, version in versions if version)
        platform = run.environment.get("platform", "unknown")
        machines.add(f"Trained with {named or 'unknown versions'}, on {platform}.")
    return _section("All runs", sorted(machines), RUNS, runs)


def _repeating(runs: list[Run], command: str, experiment: str) -> Section:
    commands = "\n".join(str(run.environment.get("command", "unknown")) for run in runs)
    texts = {"Each run": commands, "This report": command, "The experiment": experiment}
    return Section("The commands", texts={title: text for title, text in texts.items() if text})
