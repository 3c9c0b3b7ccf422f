"""The sections of a comparison's report: words, tables, charts and texts."""

import math

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
METHOD = (
    "A variant is one configuration; its runs differ in their seed, which determines the initial "
    "weights, the batches and the dropout. Every loss is the mean over the whole validation split, "
    "in nats per token, each token predicted once.",
    "Best is the evaluation with the lowest loss, final the last one. Differences are paired by "
    "seed (two-sided paired t-test); p is corrected by Holm's method for all comparisons at that "
    "checkpoint; d_z is the mean difference divided by its standard deviation.",
    "FLOPs count the matrix products of training, from the configuration. Seconds count training "
    "steps, without evaluating, saving and loading.",
)


def sections_of(
    findings: Findings, references: list[Reference], command: str, experiment: str
) -> list[Section]:
    """The sections of the report, in order; empty ones are left out.

    Args:
        command: the command that made the report.
        experiment: text of the experiment's file; may be empty.
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
        "Means over the seeds, with bands of one standard deviation; the steep start is cut off. "
        "Axes are logarithmic if budgets are far apart."
    )
    words = [words]
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
        words.append("Not ranked: these losses cannot be compared.")
    head = ["variant", "seeds", "parameters", "FLOPs/token", "best loss", "final loss"]
    head += ["perplexity", "bits/char", "seconds", "tokens/s", "peak memory"]
    rows = [_variant_row(variant) for variant in findings.variants]
    return Section("Size, quality and cost", words, head, rows)


def _variant_row(variant: VariantResult) -> list[Cell]:
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
        "Intervals are 95% confidence intervals of the mean, by Student's t over the seeds.",
        "The minimum over many evaluations is biased low, because the same text selects and "
        "evaluates the checkpoint. So a checkpoint is also selected on one half of the validation "
        "split and evaluated on the other, both ways round; the difference to the plain best is "
        "the selection bias.",
    ]
    head = ["variant", "seeds", "best loss", "95% interval", "final loss", "95% interval"]
    head += ["evaluations", "selected on the other half", "selection bias"]
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


def _amount(value: float, axis: str) -> str:
    """A number of iterations, seconds, tokens or FLOPs, in words."""
    if axis == "flops":
        return f"{value:.3g} FLOPs"
    return f"{value:,.0f} {'seconds' if axis == 'seconds' else AXES[axis].split()[-1]}"


def _equal_budgets(findings: Findings) -> Section | None:
    axes = [axis for axis, (low, high) in findings.common.items() if low < high]
    if findings.refusals or len(findings.variants) < 2 or not axes:
        return None
    words = (
        "The loss at the end of the shortest run on each axis, interpolated; in brackets, the mean "
        "loss until there (area under the curve, divided by its width)."
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
    words = "Cost until the validation loss first reached it, interpolated."
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
    words = "Loss of the first minus loss of the second, over their common seeds."
    head = ["first", "second", "at", "seeds", "difference", "95% interval", "p", "d_z"]
    return Section("Seed by seed", [words], head, [_pair_row(pair) for pair in findings.pairs])


def _pair_row(pair: Pair) -> list[Cell]:
    of = pair.difference
    return [
        Cell(pair.first, pair.first),
        Cell(pair.second, pair.second),
        Cell(pair.at, pair.at),
        _number(of.n),
        _number(of.mean, "{:+.4f}"),
        _interval(of, "+.4f"),
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
    words = "Beginning of the sample of each variant's first run, from its best checkpoint."
    return Section("Samples", [words], texts=texts) if texts else None


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
