"""scale: a scaling law of families of models, planned, trained, fitted and reported."""

from pathlib import Path

from nanogpkant.base.answer import command_line
from nanogpkant.base.console import note, warn
from nanogpkant.base.errors import prefixed
from nanogpkant.verbs.compare import Compared, Where


def scale(
    file: str,
    *,
    out: str = "runs",
    jobs: int = 1,
    launcher: Where = "local",
    ray_address: str | None = None,
    dry_run: bool = False,
    report: str | None = None,
) -> Compared:
    """Train the models of a scaling study that are missing, and fit a law to all of them.

    Args:
        file: YAML file of the study: families of models, sizes, training tokens and seeds.
        out: folder for the study's own folder.
        jobs: runs trained at the same time.
        launcher: processes of this machine, or tasks of Ray.
        ray_address: cluster to train on, such as auto; without it, Ray starts here.
        dry_run: say what would be trained and what it would cost, and stop.
        report: folder for the report; the study's own unless given.

    Raises:
        UserError: a study that cannot be read or was stopped, or whose runs have other data.
        UsageError: settings that cannot work.

    Examples:
        >>> import nanogpkant as ng
        >>> ng.scale("experiments/scaling_tiny.yaml", jobs=2)  # doctest: +SKIP
    """
    from nanogpkant.comparison.launch import Launcher
    from nanogpkant.comparison.scaling.cells import costs_of_study, costs_table, plan_study
    from nanogpkant.comparison.scaling.findings import find, measure, why_of_cells
    from nanogpkant.comparison.scaling.study import load_study

    where = Launcher(jobs, launcher, ray_address)
    study = load_study(Path(file))
    with prefixed(file):
        cells, runs = plan_study(study, Path(out))
    if why := why_of_cells(cells):
        warn(f"{file}: there will be no fit: {why}")
    if dry_run:
        rows = costs_of_study(cells, runs)
        return Compared(rows, costs_table(rows, jobs))

    from nanogpkant.comparison.scaling.report import write_report
    from nanogpkant.comparison.training import train_missing

    folder = Path(out) / study.name
    failed = train_missing(runs, folder, where)
    with prefixed(file):
        found = find(*measure(cells, failed))
    to = Path(report or folder / "report")
    said = write_report(to, found, study, command_line())
    note(f"the report is in {to / 'report.html'}")
    again = "the same command tries them again"
    failure = f"{len(failed)} of {len(runs)} runs failed; {again}" if failed else None
    return Compared(found.rows(), "\n".join(said), failure)
