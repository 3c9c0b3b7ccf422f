"""search: the best settings of several kinds of model, each given the same number of trials.

A search's file names families of models, the choices of each, and rungs: how many trials of how
many iterations. Optuna proposes all trials of the first rung; the best of a family enter the next
rung, whose runs start anew with a schedule of their own length, and so on.

The same file always proposes the same trials, and a finished run is read where it lies: an
interrupted search resumes, and a finished one is only reported again. Optuna's storage, a journal
in the search's folder or a database, is for optuna-dashboard: it keeps trials but not the state of
the sampler, so that a study loaded from it would propose others than one that was never
interrupted. Every start therefore writes it anew. Trials of all families are trained
together, a few at a time: hence Optuna's ask and tell, rather than its ``optimize``.

Source: successive halving (Jamieson & Talwalkar, arXiv 1502.07943); Optuna's tree-structured Parzen
estimator.
"""

import itertools
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nanogpkant.base.errors import (
    UsageError,
    UserError,
    check_seed,
    from_extra,
    one_line,
    prefixed,
)
from nanogpkant.base.files import write_atomic, writing
from nanogpkant.base.lock import only_writer
from nanogpkant.comparison.experiment import DECIDED, Experiment, Variant
from nanogpkant.comparison.file import (
    check_different,
    check_keys,
    data_in,
    list_in,
    name_in,
    overrides_in,
    positive,
    preset_in,
    reading,
)
from nanogpkant.comparison.launch import Launcher
from nanogpkant.comparison.planning import Planned, plan
from nanogpkant.comparison.runs import load_run, recipe
from nanogpkant.comparison.training import train_missing
from nanogpkant.config import load_preset, to_yaml, with_changes, with_settings
from nanogpkant.model.counting import count
from nanogpkant.report.table import Row, as_csv

with from_extra("compare", "a search"):
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

AT_ONCE = 2  # trials of a family that are proposed together, whatever --jobs is
ATTEMPTS = 100  # at a proposal that was not tried before
STARTUP = 6  # random trials of a family before the estimator


@dataclass(frozen=True)
class ModelFamily:
    """A kind of model, and its search space."""

    name: str
    preset: str  # name of a preset, or path to a .yaml file
    overrides: dict[str, Any]  # settings that differ from the preset's, with dotted keys
    space: dict[str, list[Any]]
    """choices by dotted key, or by a free name if each choice is several settings"""

    def settings(self, name: str, number: int) -> dict[str, Any]:
        """The settings of one choice."""
        choice = self.space[name][number]
        return choice if isinstance(choice, dict) else {name: choice}

    def words(self, name: str, number: int) -> str:
        """One choice in words."""
        settings = self.settings(name, number)
        if name in settings:
            return str(settings[name])
        return ", ".join(f"{key.split('.')[-1]} {value}" for key, value in settings.items())


@dataclass(frozen=True)
class Rung:
    """One round of trials."""

    iterations: int
    trials: int  # of each family


@dataclass(frozen=True)
class Search:
    """The content of a search's file."""

    name: str  # of its folder
    about: str
    families: list[ModelFamily]
    rungs: list[Rung]
    seed: int  # of the proposals, and of every run
    evaluations: int  # of a run, evenly spaced; the lowest loss counts
    data: dict[str, Any]
    overrides: dict[str, Any]  # settings of all families, with dotted keys


@dataclass
class SearchTrial:
    """One choice of settings for a family, and what came of it at every rung."""

    family: ModelFamily
    number: int  # from 1, within the family
    choices: dict[str, int]  # numbers of the choices, by their names in the space
    asked: optuna.Trial
    runs: list[Planned] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # infinite if the run failed

    @property
    def variant(self) -> Variant:
        overrides = dict(self.family.overrides)
        for name, number in self.choices.items():
            overrides |= self.family.settings(name, number)
        return Variant(f"{self.family.name}-{self.number:02d}", self.family.preset, overrides)

    def row(self, failed: str) -> Row:
        """What came of it at the last rung."""
        run = self.runs[-1]
        return {
            "family": self.family.name,
            "trial": self.number,
            "iterations": run.iterations,
            "loss": None if math.isinf(self.losses[-1]) else self.losses[-1],
            "parameters": count(run.config.model, run.vocab_size).parameters,
            "flops": (run.iterations or 0) * run.flops_per_step,
            "failed": failed,
            "choices": {name: self.family.words(name, n) for name, n in self.choices.items()},
        }


def load_search(path: Path) -> Search:
    """Read a search's file; raises as ``reading`` does."""
    with reading(path) as values:
        return _search(path, values)


def _search(path: Path, values: Any) -> Search:
    check_keys(values, Search)
    seed = values.get("seed", 1337)
    check_seed(seed)
    given = list_in(values, "families", "models")
    search = Search(
        name=name_in(values, path.stem),
        about=str(values.get("about") or ""),
        families=[_family(n, v, path.parent) for n, v in enumerate(given, start=1)],
        rungs=_rungs(list_in(values, "rungs", "rounds of trials")),
        seed=seed,
        evaluations=_whole("evaluations", values.get("evaluations", 5)),
        data=data_in(values),
        overrides=overrides_in(values, DECIDED),
    )
    names = [family.name for family in search.families]
    check_different("families", names, "give each its own name")
    wanted = search.rungs[0].trials
    common = {f"data.{key}": value for key, value in search.data.items()} | search.overrides
    for family in search.families:
        if math.prod(map(len, family.space.values())) < wanted:
            problem = f"{family.name} has fewer than {wanted} different settings"
            raise UsageError(f"families: {problem}; offer more choices, or ask for fewer trials")
        _check_space(family, common)
    return search


def _whole(key: str, value: Any) -> int:
    return int(positive(key, value, whole=True))


def _family(number: int, values: Any, folder: Path) -> ModelFamily:
    prefix = f"families, number {number}: "
    check_keys(values, ModelFamily, prefix)
    name, preset = name_in(values, None, prefix), preset_in(values, folder, prefix)
    space = values.get("space")
    if not isinstance(space, dict) or not space:
        raise UsageError(f"{prefix}space {space!r}: must hold names, and a list of choices of each")
    for key in space:
        list_in(space, key, "choices")
    return ModelFamily(name, preset, overrides_in(values, DECIDED, prefix), space)


def _rungs(values: list[Any]) -> list[Rung]:
    rungs = []
    for value in values:
        check_keys(value, Rung, "rungs.")
        numbers = (_whole(f"rungs.{f.name}", value.get(f.name)) for f in fields(Rung))
        rungs.append(Rung(*numbers))
    for before, after in itertools.pairwise(rungs):
        if after.trials > before.trials or after.iterations <= before.iterations:
            problem = "each must have more iterations than the one before, and no more trials"
            raise UsageError(f"rungs: {problem}")
    return rungs


def _check_space(family: ModelFamily, common: dict[str, Any]) -> None:
    """Try every choice with the first of all others: a typo shows before hours of training."""
    base = load_preset(family.preset)[1]
    settings = common | family.overrides
    for name in family.space:
        settings |= family.settings(name, 0)
    for name, choices in family.space.items():
        tried: dict[str, int] = {}
        for number in range(1, len(choices) + 1):
            choice = family.settings(name, number - 1)
            with prefixed(f"families, {family.name}, {name}"):
                given = settings | overrides_in({"overrides": choice}, DECIDED)
                twin = tried.setdefault(recipe(with_settings(base, given)), number)
                if twin != number:
                    raise UsageError(f"choices {twin} and {number} are the same; leave one out")


def search(file: Path, out: Path, launcher: Launcher, storage: str | None) -> tuple[list[Row], str]:
    """Run a search, or the part of it that is missing.

    Args:
        file: the search's YAML file.
        out: parent of the search's folder.
        launcher: where its runs are trained.
        storage: URL of a database for the trials; without it, a journal in the search's folder.

    Returns:
        a row for each trial at each rung, and the result in words.

    Raises:
        UsageError: an invalid file.
        UserError: the search was stopped, another process is at work on it, or no run of a family
            could be trained.
    """
    search = load_search(file)
    with only_writer(out / search.name):
        rounds = _Rounds(search, out / search.name, launcher, storage)
        first, *later = search.rungs
        trials = _first_trials(search, rounds, first)
        for rung in later:
            trials = {name: _best(of)[: rung.trials] for name, of in trials.items()}
            rounds.train(list(itertools.chain(*trials.values())), rung)
        lines = []
        for name, of in trials.items():
            winner = _best(of)[0]
            if math.isinf(winner.losses[-1]):
                raise UserError(f"{name}: no trial could be trained; see {rounds.table}")
            best = rounds.folder / f"{name}.yaml"
            about = f"{name}: the best of {first.trials} trials"
            write_atomic(best, to_yaml(with_changes(winner.runs[-1].config, about=about)))
            choices = winner.row("")["choices"].items()
            chosen = ", ".join(f"{key} {value}" for key, value in choices)
            lines.append(f"{name:<12} {winner.losses[-1]:.4f} in {best}: {chosen}")
        lines.append(f"every trial is in {rounds.table}")
        return rounds.rows, "\n".join(lines)


def _storage(folder: Path, url: str | None) -> optuna.storages.BaseStorage:
    """Where Optuna keeps trials: a database, or else a journal in the search's folder.

    Raises:
        UsageError: the database cannot be opened.
    """
    if url is None:
        file = folder / "optuna.log"
        with writing(file):
            folder.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
            backend = JournalFileBackend(str(file))
        return optuna.storages.JournalStorage(backend)
    try:
        return optuna.storages.RDBStorage(url)
    except Exception as error:  # of SQLAlchemy's or the database's many
        remedy = "name a database such as sqlite:///trials.db"
        raise UsageError(f"--storage {url}: {one_line(error)[:200]}; {remedy}") from error


def _study(
    search: Search, family: ModelFamily, storage: optuna.storages.BaseStorage
) -> optuna.Study:
    """A family's study, empty."""
    sampler = optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=STARTUP)
    name = f"{search.name}/{family.name}"
    if name in optuna.get_all_study_names(storage):
        optuna.delete_study(study_name=name, storage=storage)
    return optuna.create_study(storage=storage, sampler=sampler, study_name=name)


def _first_trials(search: Search, rounds: "_Rounds", rung: Rung) -> dict[str, list[SearchTrial]]:
    """The trials that Optuna proposes, a few of each family at a time, trained."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = _storage(rounds.folder, rounds.storage)
    studies = {family.name: _study(search, family, storage) for family in search.families}
    trials: dict[str, list[SearchTrial]] = {name: [] for name in studies}
    for done in range(0, rung.trials, AT_ONCE):
        new = []
        for family in search.families:
            for _ in range(min(AT_ONCE, rung.trials - done)):
                new.append(_propose(studies[family.name], family, trials[family.name]))
                trials[family.name].append(new[-1])
        rounds.train(new, rung)
        for trial in new:
            loss, study = trial.losses[-1], studies[trial.family.name]
            if math.isinf(loss):
                study.tell(trial.asked, state=TrialState.FAIL)
            else:
                study.tell(trial.asked, loss)
    return trials


def _propose(study: optuna.Study, family: ModelFamily, tried: list[SearchTrial]) -> SearchTrial:
    """A trial with settings that were not tried before."""
    attempts = itertools.count()
    while True:
        if next(attempts) == ATTEMPTS:  # the estimator repeats itself
            every = itertools.product(*(range(len(of)) for of in family.space.values()))
            free = (dict(zip(family.space, each, strict=True)) for each in every)
            study.enqueue_trial(next(c for c in free if all(t.choices != c for t in tried)))
        asked = study.ask()
        choices = {
            name: asked.suggest_categorical(name, range(len(of)))
            for name, of in family.space.items()
        }
        if all(trial.choices != choices for trial in tried):
            return SearchTrial(family, len(tried) + 1, choices, asked)
        study.tell(asked, state=TrialState.FAIL)


def _best(trials: list[SearchTrial]) -> list[SearchTrial]:
    """In the order of their losses at the last rung."""
    return sorted(trials, key=lambda trial: trial.losses[-1])


class _Rounds:
    """Trains trials and keeps their table."""

    def __init__(
        self, search: Search, folder: Path, launcher: Launcher, storage: str | None
    ) -> None:
        self.search, self.folder, self.launcher, self.storage = search, folder, launcher, storage
        self.table = folder / "trials.csv"
        self.rows: list[Row] = []

    def train(self, trials: list[SearchTrial], rung: Rung) -> None:
        """Add the run and the loss of every trial after a rung's iterations."""
        search = self.search
        experiment = Experiment(
            name=f"{rung.iterations}-iterations",
            about=search.about,
            variants=[trial.variant for trial in trials],
            seeds=[search.seed],
            budget={"iterations": rung.iterations, "evaluations": search.evaluations},
            data=search.data,
            overrides=search.overrides,
            text="",
        )
        planned = plan(experiment, self.folder)
        failed = train_missing(planned, self.folder / experiment.name, self.launcher)
        for trial, run in zip(trials, planned, strict=True):
            why = failed.get(run.name, "")
            trial.runs.append(run)
            trial.losses.append(math.inf if why else load_run(run.path).curve.best_loss())
            self.rows.append(trial.row(why))
        rows = [row | row["choices"] for row in self.rows]
        columns = dict.fromkeys(key for row in rows for key in row if key != "choices")
        write_atomic(self.table, as_csv(rows, columns))
