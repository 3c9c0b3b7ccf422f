"""The sections of a comparison's report: words, tables, charts and texts."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from nanogpkant.comparison.charts import grid_charts, has_curves, loss_charts
from nanogpkant.comparison.declared import COSTS, Verdict
from nanogpkant.comparison.findings import Findings, Pair, VariantResult, answer, hardware
from nanogpkant.comparison.references import Reference
from nanogpkant.comparison.runs import AXES, Run
from nanogpkant.comparison.statistics import Summary
from nanogpkant.report.charts import dashes_of
from nanogpkant.report.section import Cell, Column, Section

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
Columns = list[tuple[Column, Callable[[Any], Cell]]]
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


def _interval(of: tuple[float, float] | None, form: str = ".4f", none: str = "one seed") -> Cell:
    return Cell(none) if of is None else Cell(f"{of[0]:{form}} to {of[1]:{form}}", of[1] - of[0])


def _figure(key: str, form: str = "{:,.0f}", scale: float = 1.0) -> Callable[[VariantResult], Cell]:
    """The mean over the seeds of a value of ``Run.row``."""
    return lambda variant: _number(variant.mean_row()[key], form, scale)


SEEDS = Column("seeds", "How many runs there are of it, each with a seed of its own.")
BEST = Column(
    "best loss",
    "Validation loss of the evaluation with the lowest one, in nats per token; ± standard "
    "deviation over the seeds.",
    "lowest",
)
FINAL = Column("final loss", "Validation loss of the last evaluation, likewise.", "lowest")
INTERVAL = Column("95% interval", "Confidence interval of the mean before it, over the seeds.")
P = Column(
    "p", "How likely so large a difference would be if there were none; Holm's correction is in it."
)
FIRST, SECOND = Column("first"), Column("second")
DIFFERENCE = Column(
    "difference", "Mean loss of the first minus that of the second, nats per token, seed by seed."
)
NAMED: Columns = [
    (Column("variant", "One configuration."), lambda variant: _text(variant.name)),
    (SEEDS, lambda variant: _number(len(variant.runs))),
]
COST: Columns = [
    *NAMED,
    (
        Column("parameters", "Learned numbers, in millions.", "lowest"),
        _figure("parameters", "{:.2f} M", 1e-6),
    ),
    (
        Column("FLOPs/token", "Of the matrix products of training, in millions.", "lowest"),
        _figure("flops_per_token", "{:.1f} M", 1e-6),
    ),
    (BEST, lambda variant: _mean(variant.best)),
    (FINAL, lambda variant: _mean(variant.final)),
    (
        Column("perplexity", "e to the power of the best loss.", "lowest"),
        _figure("perplexity", "{:.2f}"),
    ),
    (
        Column("bits/token", "The best loss in bits: divided by the logarithm of 2.", "lowest"),
        lambda variant: _number(variant.best.mean / math.log(2), "{:.3f}"),
    ),
    (Column("seconds", "Spent in training steps.", "lowest"), _figure("seconds")),
    (Column("tokens/s", "Trained on in a second.", "highest"), _figure("tokens_per_second")),
    (
        Column("peak memory", "Most memory that training held at once.", "lowest"),
        _figure("peak_memory_bytes", "{:.2f} GB", 1e-9),
    ),
]
CERTAINTY: Columns = [
    *NAMED,
    (BEST, lambda variant: _mean(variant.best)),
    (INTERVAL, lambda variant: _interval(variant.best.interval)),
    (FINAL, lambda variant: _mean(variant.final)),
    (INTERVAL, lambda variant: _interval(variant.final.interval)),
    (
        Column("evaluations", "Among which the best one was chosen."),
        lambda v: _number(max(int(run.curve.trained().sum()) for run in v.runs)),
    ),
    (
        Column(
            "selected on the other half",
            "Loss on one half of the text of the checkpoint that is best on the other half.",
            "lowest",
        ),
        lambda variant: _mean(variant.honest),
    ),
    (
        Column("selection bias", "How much lower the best loss is than that."),
        lambda variant: _number(variant.luck, "{:.4f}"),
    ),
]
PAIRED: Columns = [
    (FIRST, lambda pair: _text(pair.first)),
    (SECOND, lambda pair: _text(pair.second)),
    (Column("at", "The best evaluation, or the final one."), lambda pair: _text(pair.at)),
    (Column("seeds", "That both have."), lambda pair: _number(pair.difference.n)),
    (DIFFERENCE, lambda pair: _number(pair.difference.mean, "{:+.4f}")),
    (INTERVAL, lambda pair: _interval(pair.difference.interval, "+.4f")),
    (P, lambda pair: _number(pair.p_corrected, "{:.2g}")),
    (
        Column("d_z", "The mean difference, in its standard deviations."),
        lambda pair: _number(pair.difference.effect_size, "{:+.1f}"),
    ),
]
DECLARED: Columns = [
    *(column for column in PAIRED if column[0].name not in ("at", "d_z")),
    (
        Column("bootstrap", "95% interval of the difference, seeds and parts of the text anew."),
        lambda verdict: _interval(verdict.bootstrap, "+.4f", "-"),
    ),
    (
        Column("p no worse", "Of the first being worse by the margin or more."),
        lambda verdict: _number(verdict.p_not_worse, "{:.2g}"),
    ),
    (
        Column("p equal", "Of the two being apart by the margin or more."),
        lambda verdict: _number(verdict.p_equal, "{:.2g}"),
    ),
    *(
        (
            Column(words, f"{words[0].upper()}{words[1:]} of the first, divided by the second's."),
            lambda verdict, key=key: _number(verdict.costs[key], "{:.3f}"),
        )
        for key, words in COSTS.items()
    ),
]
RUNS: Columns = [
    (Column("run"), lambda run: _text(run.name)),
    (Column("seed"), lambda run: _number(run.seed, "{:.0f}")),
    (Column("iterations", "Optimizer steps."), lambda run: _iterations(run)),
    (BEST, lambda run: _number(run.row()["best_val_loss"], "{:.4f}")),
    (FINAL, lambda run: _number(run.row()["val_loss"], "{:.4f}")),
    (Column("seconds", "Spent in training steps."), lambda run: _number(run.row()["seconds"])),
    (Column("trained on", "The machine."), lambda run: _text(hardware(run))),
    (
        Column("revision", "Of the code, where git knew it."),
        lambda run: _text(run.environment.get("git_revision") or "-"),
    ),
]


def _iterations(run: Run) -> Cell:
    step = run.row()["step"]
    return Cell(f"{step:,}{'' if run.finished else ' (not finished)'}", step)


def _section(
    title: str,
    words: list[str],
    columns: Columns,
    items: Iterable[VariantResult | Pair | Run | Verdict],
    **more: Any,
) -> Section:
    """A section with a table."""
    rows = [[make(item) for _, make in columns] for item in items]
    return Section(title, words, [head for head, _ in columns], rows, is_searched=True, **more)


def sections_of(
    findings: Findings,
    references: list[Reference],
    command: str,
    experiment: str,
    declared: list[Verdict],
) -> list[Section]:
    """The sections of the report, in order; empty ones are left out.

    Args:
        command: the command that made the report.
        experiment: text of the experiment's file; may be empty.
        declared: verdicts on its declared comparisons.
    """
    sections = [
        Section("The answer", answer(findings) + findings.notes),
        _declared(declared),
        _curves(findings, references),
        _cost(findings),
        _certainty(findings),
        _equal_budgets(findings),
        _until_target(findings),
        _pairs(findings, bool(declared)),
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
        if has_curves(findings, references)
        else "At the end of training, the only evaluation: a dot for each seed, a bar for the mean."
    )
    return Section(
        "Validation loss",
        [words, *sorted({f"Dashed: {reference.source}." for reference in references})],
        charts=loss_charts(findings, references),
        picture="curves.png",
        lines={variant.name: variant.number for variant in findings.variants},
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
    columns = [
        (Column(f"at {amount(axis, high)}", "", "lowest"), loss(axis))
        for axis, high in ends.items()
    ]
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
    columns = [
        (Column(words, "", "lowest"), cost(axis, forms.get(axis, "{:,.0f}")))
        for axis, words in AXES.items()
    ]
    words = "Cost until the validation loss first reached it, interpolated."
    title = f"Until a loss of {findings.target:.4f}"
    return _section(title, [words], [*NAMED[:1], *columns], findings.variants)


def _declared(declared: list[Verdict]) -> Section | None:
    if not declared:
        return None
    judged, margin = declared[0].judged_on.replace("_", " "), declared[0].margin
    method = (
        f"Named before the runs, with {declared[0].declared_seeds} seeds. Losses of the last "
        f"evaluation ({judged} of the validation split), first minus second, paired by seed; each "
        "column of p is corrected by Holm's method over these comparisons alone. Within "
        f"{margin} nats two models count as equal, by two one-sided tests. The bootstrap draws "
        "seeds and parts of the text anew. Costs are the first's in units of the second's."
    )
    words = [*(verdict.words() for verdict in declared), method]
    return _section("Declared comparisons", words, DECLARED, declared)


def _pairs(findings: Findings, are_afterthoughts: bool) -> Section | None:
    words = ["Loss of the first minus loss of the second, over their common seeds."]
    if are_afterthoughts:
        words.append("Looked at afterwards: what was declared is above.")
    pairs = findings.pairs
    return _section("Seed by seed", words, PAIRED, pairs) if pairs else None


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

    gridded = [v for v in findings.variants if any(run.grid_rows for run in v.runs)]
    lines = {variant.name: variant.number for variant in gridded}
    columns = [*NAMED[:1], *((Column(words), share(key)) for key, words in GRID_COLUMNS.items())]
    more = {"charts": charts, "picture": "grids.png", "lines": lines}
    return _section("Grids of the KAN layers", [words], columns, gridded, **more)


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
