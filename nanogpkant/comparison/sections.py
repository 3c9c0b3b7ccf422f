"""The parts of a report, as words, tables, charts and texts: what is said, not how it looks."""

import math

from nanogpkant.comparison.charts import grid_charts, loss_charts
from nanogpkant.comparison.findings import Findings, Pair, Variant, answer, hardware
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
METHOD = (
    "A variant is one configuration; its runs differ in their seed, which decides the initial "
    "weights, the batches and the dropout. Every loss is the mean over the whole validation split, "
    "in nats per token, each token predicted once.",
    "Best is the evaluation with the lowest loss, final the last one. Differences are taken seed "
    "by seed (paired t-test, two-sided); p is corrected by Holm's method for all comparisons at "
    "that checkpoint; d_z is the mean difference in units of its standard deviation.",
    "FLOPs are those of the matrix products of training, counted from the configuration. Seconds "
    "are those of training steps: evaluating, saving and loading are left out.",
)


def sections_of(
    findings: Findings, references: list[Reference], command: str, experiment: str
) -> list[Section]:
    """The report's parts, in order; those with nothing to say are left out.

    Args:
        command: that made the report.
        experiment: the text of the experiment's file, or nothing.
    """
    sections = [
        _answer(findings),
        _curves(findings, references),
        _variants(findings),
        _certainty(findings),
        _equal_budgets(findings),
        _until_target(findings),
        _pairs(findings),
        _grids(findings),
        _samples(findings),
        _runs(findings.runs),
        _repeating(findings.runs, command, experiment),
        Section("How to read this", list(METHOD)),
    ]
    return [section for section in sections if section is not None]


def _answer(findings: Findings) -> Section:
    return Section("The answer", answer(findings) + findings.notes)


def _curves(findings: Findings, references: list[Reference]) -> Section:
    words = (
        "Means over the seeds, with bands of one standard deviation; the fall at the very start "
    )
    words = [words + "is cut off. Axes are logarithmic where budgets are far apart."]
    words += sorted({f"Dashed: {reference.source}." for reference in references})
    charts = loss_charts(findings, references)
    dashed = {reference.name: dashes_of(n) for n, reference in enumerate(references)}
    lines = {variant.name: number for number, variant in enumerate(findings.variants)}
    return Section(
        "Validation loss",
        words,
        charts=charts,
        picture="curves.png",
        lines=lines,
        dashed=dashed,
    )


def _variants(findings: Findings) -> Section:
    words = ["Means over the seeds, ± their standard deviation."]
    if findings.refusals:
        words.append("In no order: these losses cannot be ranked.")
    head = ["variant", "seeds", "parameters", "FLOPs/token", "best loss", "final loss"]
    head += ["perplexity", "bits/char", "seconds", "tokens/s", "peak memory"]
    rows = [_variant_row(variant) for variant in findings.variants]
    return Section("Size, quality and cost", words, head, rows)


def _variant_row(variant: Variant) -> list[Cell]:
    figures, loss = variant.mean_row(), variant.best.mean
    return [
        Cell(variant.name, variant.name),
        _number(len(variant.runs)),
        _number(figures["parameters"], "{:.2f} M", 1e-6),
        _number(figures["flops_per_token"], "{:.1f} M", 1e-6),
        _mean(variant.best),
        _mean(variant.final),
        _number(math.exp(loss), "{:.2f}"),
        _number(loss / math.log(2), "{:.3f}"),
        _number(figures["seconds"]),
        _number(figures["tokens_per_second"]),
        _number(figures["peak_memory_bytes"], "{:.2f} GB", 1e-9),
    ]


def _certainty(findings: Findings) -> Section:
    words = [
        "Intervals hold the mean with 95% confidence, by Student's t over the seeds.",
        "The best of many evaluations is partly lucky on the very text that it was chosen by. So a "
        "checkpoint is also chosen by one half of the validation split and judged by the other, "
        "both ways round; what that is above the plain best is its luck.",
    ]
    head = ["variant", "seeds", "best loss", "95% interval", "final loss", "95% interval"]
    head += ["evaluations", "chosen by the other half", "luck"]
    rows = [
        [
            Cell(variant.name, variant.name),
            _number(len(variant.runs)),
            _mean(variant.best),
            _interval(variant.best),
            _mean(variant.final),
            _interval(variant.final),
            _number(max(int(run.curve.trained().sum()) for run in variant.runs)),
            _mean(variant.honest),
            _number(variant.luck, "{:.4f}"),
        ]
        for variant in findings.variants
    ]
    return Section("How sure the losses are", words, head, rows)


def _number(value: float | None, form: str = "{:,.0f}", scale: float = 1.0) -> Cell:
    return Cell("-") if value is None else Cell(form.format(scale * value), value)


def _mean(of: Summary | None, form: str = "{:.4f}") -> Cell:
    """A mean, and its spread where there is one."""
    if of is None:
        return Cell("-")
    spread = "" if of.sd is None else " ± " + form.format(of.sd)
    return Cell(form.format(of.mean) + spread, of.mean)


def _interval(of: Summary) -> Cell:
    if of.low is None:
        return Cell("one seed")
    return Cell(f"{of.low:.4f} to {of.high:.4f}", of.high - of.low)


def _amount(value: float, axis: str) -> str:
    """So many iterations, seconds, tokens or FLOPs, in words."""
    if axis == "flops":
        return f"{value:.3g} FLOPs"
    return f"{value:,.0f} {'seconds' if axis == 'seconds' else AXES[axis].split()[-1]}"


def _equal_budgets(findings: Findings) -> Section | None:
    axes = [axis for axis, (low, high) in findings.common.items() if low < high]
    if findings.refusals or len(findings.variants) < 2 or not axes:
        return None
    words = (
        "The loss where the shortest run ends on each axis, read off the curves; and, in brackets, "
        "the mean loss on the way there (the area under the curve, divided by its width)."
    )
    head = ["variant", *(f"at {_amount(findings.common[axis][1], axis)}" for axis in axes)]
    rows = [
        [
            Cell(variant.name, variant.name),
            *(
                Cell(
                    f"{_mean(variant.at_common[axis]).text} ({variant.area[axis].mean:.4f})",
                    variant.at_common[axis].mean,
                )
                for axis in axes
            ),
        ]
        for variant in findings.variants
    ]
    return Section("At equal budgets", [words], head, rows)


def _until_target(findings: Findings) -> Section | None:
    if findings.refusals:
        return None
    words = "What was spent until the validation loss first came down to it, read off the curves."
    head = ["variant", *AXES.values()]
    forms = {"steps": "{:,.0f}", "seconds": "{:,.1f}", "tokens": "{:,.0f}", "flops": "{:.3g}"}
    rows = [
        [
            Cell(variant.name, variant.name),
            *(
                _mean(reached, forms[axis]) if reached else Cell("not reached")
                for axis, reached in variant.to_reach.items()
            ),
        ]
        for variant in findings.variants
    ]
    return Section(f"Until a loss of {findings.target:.4f}", [words], head, rows)


def _pairs(findings: Findings) -> Section | None:
    if not findings.pairs:
        return None
    words = (
        "Loss of the first minus loss of the second, over the seeds that both were trained with."
    )
    head = ["first", "second", "at", "seeds", "difference", "95% interval", "p", "d_z"]
    return Section("Seed by seed", [words], head, [_pair_row(pair) for pair in findings.pairs])


def _pair_row(pair: Pair) -> list[Cell]:
    of = pair.difference
    interval = "one seed" if of.low is None else f"{of.low:+.4f} to {of.high:+.4f}"
    return [
        Cell(pair.first, pair.first),
        Cell(pair.second, pair.second),
        Cell(pair.at, pair.at),
        _number(of.n),
        _number(of.mean, "{:+.4f}"),
        Cell(interval, math.inf if of.low is None else of.high - of.low),
        _number(pair.p_corrected, "{:.2g}"),
        _number(of.effect_size, "{:+.1f}"),
    ]


def _grids(findings: Findings) -> Section | None:
    charts = grid_charts(findings)
    if not charts:
        return None
    words = "Shares on a batch of the validation split, in the worst layer, at the end of training."
    head, rows, lines = ["variant", *GRID_COLUMNS.values()], [], {}
    for number, variant in enumerate(findings.variants):
        last = [run.grid_rows[-1] for run in variant.runs if run.grid_rows]
        if last:
            means = [sum(row[key] for row in last) / len(last) for key in GRID_COLUMNS]
            cells = (Cell(f"{mean:.1%}", mean) for mean in means)
            rows.append([Cell(variant.name, variant.name), *cells])
            lines[variant.name] = number
    return Section("Grids of the KAN layers", [words], head, rows, charts, "grids.png", lines)


def _samples(findings: Findings) -> Section | None:
    texts = {variant.name: variant.runs[0].sample for variant in findings.variants}
    texts = {name: text[:SAMPLE_CHARACTERS] for name, text in texts.items() if text}
    words = (
        "The beginning of what each variant's first run wrote by itself, by its best checkpoint."
    )
    return Section("What they write", [words], texts=texts) if texts else None


def _runs(runs: list[Run]) -> Section:
    head = [
        "run",
        "seed",
        "iterations",
        "best loss",
        "final loss",
        "seconds",
        "trained on",
        "revision",
    ]
    rows = [_run_row(run) for run in runs]
    versions = sorted({_versions(run) for run in runs})
    return Section("All runs", [f"Trained with {each}." for each in versions], head, rows)


def _run_row(run: Run) -> list[Cell]:
    row, unfinished = run.row(), "" if run.finished else " (not finished)"
    machine, revision = hardware(run), run.environment.get("git_revision") or "-"
    return [
        Cell(run.name, run.name),
        _number(run.seed, "{:.0f}"),
        Cell(f"{row['step']:,}{unfinished}", row["step"]),
        _number(row["best_val_loss"], "{:.4f}"),
        _number(row["val_loss"], "{:.4f}"),
        _number(row["seconds"]),
        Cell(machine, machine),
        Cell(revision, revision),
    ]


def _versions(run: Run) -> str:
    versions = run.environment.get("versions") or {}
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return f"{named or 'unknown versions'}, on {run.environment.get('platform', 'unknown')}"


def _repeating(runs: list[Run], command: str, experiment: str) -> Section:
    lines = [str(run.environment.get("command", "unknown")) for run in runs]
    texts = {"Each run": "\n".join(lines), "This report": command}
    if experiment:
        texts["The experiment"] = experiment
    return Section("The commands", texts=texts)
