"""nanogpkant compare: runs, or an experiment, as tables, a plot and a report."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from nanogpkant.base.console import note
from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.comparison.plots import plot_curves
from nanogpkant.comparison.runs import Run, load_runs, variants_of
from nanogpkant.comparison.table import compare_runs, table

# What needs more than the table does (scipy, jinja2) is imported where it is asked for.


@dataclass(frozen=True)
class Result:
    """What the command found."""

    value: Any
    """for --json"""
    words: str
    """for a person"""
    failed: str = ""
    """what went wrong although there is a result"""


def compare(options: Namespace) -> Result:
    """``nanogpkant compare``.

    Raises:
        UsageError: flags that cannot work, or that do not go together.
        UserError: runs that cannot be read, or an experiment that was stopped.
    """
    check(options)
    if options.experiment is not None:
        return _of_experiment(options)
    runs = load_runs(Path(run) for run in options.runs)
    if options.report is None:
        rows = compare_runs(runs)
        result = Result(rows, table(rows))
    else:
        found = _report(options, variants_of(runs), Path(options.report), "Runs compared")
        result = Result(found, _in_words(found))
    _plot(options, runs)
    return result


def check(options: Namespace) -> None:
    """Refuse flags that do not go together, before anything is read."""
    if bool(options.runs) == (options.experiment is not None):
        raise UsageError("compare: give run folders or --experiment FILE, one of the two")
    if options.jobs < 1:
        raise UsageError(f"--jobs {options.jobs}: must be at least 1")
    if options.dry_run and options.experiment is None:
        raise UsageError("--dry_run: only an --experiment has something to run")
    for name in ("target", "reference", "csv"):
        if getattr(options, name) and not (options.report or options.experiment):
            raise UsageError(f"--{name}: is for the report; add --report DIR")


def _plot(options: Namespace, runs: list[Run]) -> None:
    if options.plot is not None:
        plot_curves(runs, Path(options.plot))
        note(f"the learning curves are in {options.plot}")


def _report(
    options: Namespace,
    variants: dict[str, list[Run]],
    folder: Path,
    title: str,
    about: str = "",
    experiment: str = "",
    failures: list[str] | None = None,
) -> dict[str, Any]:
    """Write the report of these runs; returns what report.json holds."""
    from nanogpkant.comparison.findings import find
    from nanogpkant.comparison.references import original_curves, wandb_curves
    from nanogpkant.comparison.report import Report

    references = [curve for file in options.csv for curve in wandb_curves(Path(file))]
    if options.reference == "original":
        datasets = {run.config.data.dataset for runs in variants.values() for run in runs}
        references = original_curves(datasets) + references
    findings = find(variants, options.target, failures or [])
    command = shlex.join(["nanogpkant", *sys.argv[1:]])
    report = Report(title, about, findings, references, command, experiment)
    report.save(folder)
    note(f"the report is in {folder / 'report.html'}")
    return report.as_dict()


def _in_words(found: dict[str, Any]) -> str:
    """A report for the terminal: the means of every variant, and the answer."""
    rows = [variant["figures"] | {"run": variant["name"]} for variant in found["variants"]]
    return "\n".join([table(rows), "", *found["answer"], *found["notes"]])


def _of_experiment(options: Namespace) -> Result:
    """Train what an experiment lacks, and report on all of it; or say what that would cost."""
    from nanogpkant.comparison.experiment import load_experiment
    from nanogpkant.comparison.planning import costs, costs_table, plan

    path, out = Path(options.experiment), Path(options.out)
    experiment = load_experiment(path)
    try:
        planned = plan(experiment, out)
    except UserError as error:
        raise type(error)(f"{path}: {error}") from error
    if options.dry_run:
        rows = costs(planned)
        return Result(rows, costs_table(rows))

    import nanogpkant.comparison.report  # noqa: F401  what it lacks shows before hours of training
    from nanogpkant.comparison.training import load_trained, train_missing

    folder = out / experiment.name
    failed = train_missing(planned, folder, options.jobs)
    failures = [f"{name} failed: {why}." for name, why in failed.items()]
    variants = load_trained(planned)
    if not variants:
        raise UserError(f"{path}: no run has an evaluation; {failures[0]}")
    report = Path(options.report or folder / "report")
    found = _report(
        options, variants, report, experiment.name, experiment.about, experiment.text, failures
    )
    _plot(options, [run for runs in variants.values() for run in runs])
    words = f"{len(failed)} of {len(planned)} runs failed; the same command tries them again"
    return Result(found, _in_words(found), words if failed else "")
