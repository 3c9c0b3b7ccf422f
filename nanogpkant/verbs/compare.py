"""compare, experiment and search: runs side by side, and the runs that an answer needs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nanogpkant.base.answer import Answer, command_line
from nanogpkant.base.console import note
from nanogpkant.base.errors import UsageError, UserError, from_extra, prefixed
from nanogpkant.base.lock import only_writer

if TYPE_CHECKING:
    from nanogpkant.comparison.experiment import Experiment
    from nanogpkant.comparison.planning import Planned
    from nanogpkant.comparison.references import Reference as Curve
    from nanogpkant.comparison.runs import Run

Reference = Literal["original"]
Where = Literal["local", "ray"]


@dataclass(frozen=True)
class Compared(Answer):
    """Runs side by side."""

    found: Any
    """a row for each run, or the content of report.json"""
    text: str
    failure: str | None = None

    def as_dict(self) -> Any:
        return self.found

    def words(self) -> str:
        return self.text


def compare(
    runs: list[str],
    *,
    out: str | None = None,
    plot: str | None = None,
    target: float | None = None,
    reference: Reference | None = None,
    csv: list[str] | None = None,
) -> Compared:
    """Set runs side by side: a table, learning curves, or a report with statistics.

    Args:
        runs: names or folders of runs.
        out: folder for a report: report.html, .md, .json and pictures.
        plot: PNG file for the learning curves.
        target: loss to reach in the report, nats; what all runs reached unless given.
        reference: draw the original author's curves in the report.
        csv: W&B exports whose curves are drawn in the report.

    Raises:
        UserError: runs that cannot be read.
        UsageError: flags of the report without ``out``.

    Examples:
        >>> import nanogpkant as ng
        >>> rows = ng.compare(["quickstart_kan", "quickstart_gpt"]).as_dict()
        >>> [row["run"] for row in rows]
        ['quickstart_kan', 'quickstart_gpt']
    """
    for name, value in (("target", target), ("reference", reference), ("csv", csv)):
        if value and out is None:
            raise UsageError(f"--{name}: is for the report; add --out DIR")
    _check_plot(plot)
    if plot is not None or out is not None:
        _import_charts()
    from nanogpkant.comparison.findings import answer, find
    from nanogpkant.comparison.runs import load_runs, variants_of
    from nanogpkant.comparison.table import compare_runs, table

    loaded = load_runs(runs)
    _plot(plot, loaded)
    if out is None:
        rows, variants = compare_runs(loaded), variants_of(loaded)
        colours = [n for run in loaded for n, of in enumerate(variants.values()) if run in of]
        found = find(variants)
        return Compared(rows, "\n".join([table(rows, colours), "", *answer(found), *found.notes]))
    references = _references(reference, csv, loaded)
    return _report(Path(out), variants_of(loaded), "Runs compared", target, references)


def experiment(
    file: str,
    *,
    out: str = "runs",
    jobs: int = 1,
    launcher: Where = "local",
    ray_address: str | None = None,
    dry_run: bool = False,
    report: str | None = None,
    plot: str | None = None,
    target: float | None = None,
    reference: Reference | None = None,
    csv: list[str] | None = None,
) -> Compared:
    """Train the runs that an experiment lacks, then report on all of it.

    Args:
        file: YAML file of the experiment: variants, seeds and a budget.
        out: folder for the experiment's own folder.
        jobs: runs trained at the same time.
        launcher: processes of this machine, or tasks of Ray.
        ray_address: cluster to train on, such as auto; without it, Ray starts here.
        dry_run: say what would be trained and what it would cost, and stop.
        report: folder for the report; the experiment's own unless given.
        plot: PNG file for the learning curves.
        target: loss to reach in the report, nats; what all runs reached unless given.
        reference: draw the original author's curves in the report.
        csv: W&B exports whose curves are drawn in the report.

    Raises:
        UserError: an experiment that cannot be read or was stopped, or of which no run succeeded.
        UsageError: settings that cannot work.

    Examples:
        >>> import nanogpkant as ng
        >>> ng.experiment("experiments/quickstart.yaml", jobs=2)  # doctest: +SKIP
    """
    _check_plot(plot)
    from nanogpkant.comparison.experiment import load_experiment
    from nanogpkant.comparison.launch import Launcher
    from nanogpkant.comparison.planning import costs, costs_table, plan

    where = Launcher(jobs, launcher, ray_address)
    loaded = load_experiment(Path(file))
    with prefixed(file):
        planned = plan(loaded, Path(out))
    if dry_run:
        rows = costs(planned)
        return Compared(rows, costs_table(rows))

    _import_charts()
    references = _references(reference, csv, planned)  # before hours of training
    from nanogpkant.comparison.training import load_trained, train_missing

    folder = Path(out) / loaded.name
    failed = train_missing(planned, folder, where)
    failures = [f"{name} failed: {why}." for name, why in failed.items()]
    variants = load_trained(planned)
    if not variants:
        raise UserError(f"{file}: no run has an evaluation; {failures[0]}")
    _plot(plot, [run for runs in variants.values() for run in runs])
    to = Path(report or folder / "report")
    answer = _report(to, variants, loaded.name, target, references, loaded, failures)
    if failed:
        again = "the same command tries them again"
        answer = replace(answer, failure=f"{len(failed)} of {len(planned)} runs failed; {again}")
    return answer


def _check_plot(file: str | None) -> None:
    """Before hours of training."""
    if file is not None and Path(file).suffix != ".png":
        raise UsageError(f"--plot {file}: name a file that ends in .png")


def _import_charts() -> None:
    """Before hours of training."""
    with from_extra("compare", "a report or chart"):
        import nanogpkant.comparison.report  # noqa: F401


def _plot(file: str | None, runs: "list[Run]") -> None:
    if file is not None:
        from nanogpkant.comparison.charts import plot_curves

        plot_curves(runs, Path(file))
        note(f"the learning curves are in {file}")


def _references(
    reference: Reference | None, csv: list[str] | None, runs: "Sequence[Run | Planned]"
) -> "list[Curve]":
    """The curves of others that a report draws."""
    from nanogpkant.comparison.references import original_curves, wandb_curves

    original = original_curves({run.config.data.dataset for run in runs}) if reference else []
    return original + [curve for file in csv or () for curve in wandb_curves(Path(file))]


def _report(
    folder: Path,
    variants: "dict[str, list[Run]]",
    title: str,
    target: float | None,
    references: "list[Curve]",
    experiment: "Experiment | None" = None,
    failures: Sequence[str] = (),
) -> Compared:
    """Write the report of these runs; the answer has the means of every variant in words."""
    from nanogpkant.comparison.declared import verdicts
    from nanogpkant.comparison.findings import find
    from nanogpkant.comparison.report import write_report
    from nanogpkant.comparison.table import table

    findings = find(variants, target, list(failures))
    declared = verdicts(experiment, variants) if experiment and not findings.refusals else []
    with only_writer(folder, wait=True):
        found = write_report(
            folder, findings, references, title, command_line(), experiment, declared
        )
    note(f"the report is in {folder / 'report.html'}")
    rows = [variant["figures"] | {"run": variant["name"]} for variant in found["variants"]]
    said = [verdict.words() for verdict in declared] or found["answer"]
    colours = [variant["number"] for variant in found["variants"]]
    text = "\n".join([table(rows, colours), "", *said, *found["notes"]])
    return Compared(found, text)


def search(
    file: str,
    *,
    out: str = "runs",
    jobs: int = 1,
    launcher: Where = "local",
    ray_address: str | None = None,
    storage: str | None = None,
) -> Compared:
    """Find the best settings of several kinds of model, with as many trials for each.

    Args:
        file: YAML file: kinds of model, what may be chosen for each, and how many trials.
        out: folder for the search's own folder.
        jobs: runs trained at the same time.
        launcher: processes of this machine, or tasks of Ray.
        ray_address: cluster to train on, such as auto; without it, Ray starts here.
        storage: URL of a database for Optuna's trials, such as sqlite:///trials.db; without it,
            they are in optuna.log in the search's folder. optuna-dashboard shows either.

    Raises:
        UserError: a search that cannot be read or was stopped.
        UsageError: settings that cannot work.

    Examples:
        >>> import nanogpkant as ng
        >>> ng.search("experiments/search/gpkant_search.yaml", jobs=2)  # doctest: +SKIP
    """
    from nanogpkant.comparison.launch import Launcher
    from nanogpkant.comparison.search import search as run_search

    where = Launcher(jobs, launcher, ray_address)
    return Compared(*run_search(Path(file), Path(out), where, storage))
