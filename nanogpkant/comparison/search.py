"""search: the best settings that each of several kinds of model has, each given the same trials.

A search's file names families of models, what may be chosen for each, and rungs: how many trials of
how many iterations. All trials of the first rung are proposed by Optuna, the best of a family go on
to the next rung, whose runs start anew with a schedule of their own length, and so on.

The same file always proposes the same trials, and a trained run is found where it lies: a search
that was interrupted goes on, and one that is finished only says again what it found.

Source: successive halving (Jamieson & Talwalkar, arXiv 1502.07943); the proposals are those of
Optuna's tree-structured Parzen estimator.
"""

import csv
import io
import itertools
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import TrialState

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.base.files import read_text, write_atomic
from nanogpkant.comparison.experiment import (
    Experiment,
    Variant,
    check_keys,
    check_name,
    check_overrides,
)
from nanogpkant.comparison.planning import Planned, changed, plan
from nanogpkant.comparison.runs import load_run
from nanogpkant.comparison.training import train_missing
from nanogpkant.config import check_seed, load_preset, to_yaml, with_changes
from nanogpkant.model.counting import count

AT_ONCE = 2  # trials of a family that are proposed together, whatever --jobs is
ATTEMPTS = 100  # at a proposal that was not tried before
STARTUP = 6  # trials of a family that are drawn at random, before the estimator knows anything


@dataclass(frozen=True)
class Family:
    """A kind of model, and what may be chosen for it."""

    name: str
    preset: str
    """name of a preset, or path to a .yaml file"""
    overrides: dict[str, Any]
    """settings that differ from the preset's, with dotted keys"""
    space: dict[str, list[Any]]
    """choices by a dotted key, or by a name of their own where each is several settings"""

    def settings(self, name: str, number: int) -> dict[str, Any]:
        """What one choice sets."""
        choice = self.space[name][number]
        return choice if isinstance(choice, dict) else {name: choice}


@dataclass(frozen=True)
class Rung:
    """One round of trials."""

    iterations: int
    trials: int
    """of each family"""


@dataclass(frozen=True)
class Search:
    """The content of a search's file."""

    name: str
    """of its folder"""
    about: str
    families: list[Family]
    rungs: list[Rung]
    seed: int
    """of the proposals, and of every run"""
    evaluations: int
    """that every run makes, evenly apart; the lowest loss counts"""
    data: dict[str, Any]
    overrides: dict[str, Any]
    """settings of all families, with dotted keys"""


@dataclass
class Trial:
    """One choice of settings for a family."""

    family: Family
    number: int
    """from 1, within the family"""
    choices: dict[str, int]
    """number of the choice, by the name of what is chosen"""
    losses: dict[int, float] = field(default_factory=dict)
    """by iterations; infinite where the run failed"""

    @property
    def name(self) -> str:
        return f"{self.family.name}-{self.number:02d}"

    @property
    def variant(self) -> Variant:
        overrides = dict(self.family.overrides)
        for name, number in self.choices.items():
            overrides |= self.family.settings(name, number)
        return Variant(self.name, self.family.preset, overrides)


@dataclass(frozen=True)
class Found:
    """What a search found."""

    rows: list[dict[str, Any]]
    """a row for each trial at each rung"""
    best: dict[str, Path]
    """the file with the winner's configuration, by family"""
    table: Path

    @property
    def words(self) -> str:
        lines = []
        for family, file in self.best.items():
            last = [row for row in self.rows if row["family"] == family]
            last = [row for row in last if row["iterations"] == last[-1]["iterations"]]
            row = min(last, key=lambda row: row["loss"])
            chosen = ", ".join(f"{name} {value}" for name, value in row["choices"].items())
            lines.append(f"{family:<12} {row['loss']:.4f} in {file}: {chosen}")
        return "\n".join([*lines, f"every trial is in {self.table}"])


def load_search(path: Path) -> Search:
    """Read a search's file.

    Raises:
        UserError: it cannot be read.
        UsageError: it is not YAML, has an unknown key, lacks one or holds a value that cannot work.
    """
    text = read_text(path)
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    try:
        return _search(path, values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _search(path: Path, values: Any) -> Search:
    check_keys(values, [f.name for f in fields(Search)], "")
    name, seed = values.get("name", path.stem), values.get("seed", 1337)
    check_name(name, "name")
    if type(seed) is not int:
        raise UsageError(f"seed {seed!r}: must be a whole number")
    check_seed(seed)
    evaluations = values.get("evaluations", 5)
    if type(evaluations) is not int or evaluations < 1:
        raise UsageError(f"evaluations {evaluations!r}: must be a whole number above 0")
    data, overrides = values.get("data") or {}, values.get("overrides") or {}
    check_overrides(overrides, "")
    families = [_family(n, v, path.parent) for n, v in enumerate(_list(values, "families"), 1)]
    if len({family.name for family in families}) < len(families):
        raise UsageError("families: two have the same name; give each its own")
    rungs = _rungs(_list(values, "rungs"))
    for family in families:
        if math.prod(map(len, family.space.values())) < rungs[0].trials:
            problem = f"{family.name} has fewer than {rungs[0].trials} different settings"
            raise UsageError(f"families: {problem}; offer more choices, or ask for fewer trials")
        _check_space(family, {f"data.{key}": value for key, value in data.items()} | overrides)
    about = str(values.get("about", ""))
    return Search(name, about, families, rungs, seed, evaluations, data, overrides)


def _list(values: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(values.get(key), list) or not values[key]:
        raise UsageError(f"{key} {values.get(key)!r}: must be a list, and not empty")
    return values[key]


def _family(number: int, values: Any, folder: Path) -> Family:
    prefix = f"families, number {number}: "
    check_keys(values, [f.name for f in fields(Family)], prefix)
    name, preset = values.get("name"), values.get("preset")
    check_name(name, f"{prefix}name")
    if not isinstance(preset, str):
        raise UsageError(f"{prefix}preset {preset!r}: must be a preset's name or a path to a file")
    if preset.endswith((".yaml", ".yml")):
        preset = str(folder / preset)
    overrides, space = values.get("overrides") or {}, values.get("space")
    check_overrides(overrides, prefix)
    if not isinstance(space, dict) or not space:
        raise UsageError(f"{prefix}space {space!r}: must hold what may be chosen, and choices")
    for key in space:
        _list(space, key)
    return Family(name, preset, overrides, space)


def _rungs(values: list[Any]) -> list[Rung]:
    rungs = []
    for value in values:
        check_keys(value, [f.name for f in fields(Rung)], "rungs.")
        numbers = [value.get(f.name) for f in fields(Rung)]
        if not all(type(number) is int and number > 0 for number in numbers):
            raise UsageError(f"rungs {value}: iterations and trials must be whole numbers above 0")
        rungs.append(Rung(*numbers))
    for before, after in itertools.pairwise(rungs):
        if after.trials > before.trials or after.iterations <= before.iterations:
            problem = "each must have more iterations than the one before, and no more trials"
            raise UsageError(f"rungs: {problem}")
    return rungs


def _check_space(family: Family, common: dict[str, Any]) -> None:
    """Try every choice with the first of all others: a misspelt one shows before hours of training.

    Raises:
        UsageError: one that cannot be.
    """
    base, firsts = load_preset(family.preset)[1], {}
    for name in family.space:
        firsts |= family.settings(name, 0)
    for name, choices in family.space.items():
        for number in range(len(choices)):
            settings = family.settings(name, number)
            try:
                check_overrides(settings, "")
                changed(base, common | family.overrides | firsts | settings)
            except UsageError as error:
                raise UsageError(f"families, {family.name}, {name}: {error}") from error


def search(file: Path, out: Path, jobs: int = 1) -> Found:
    """Run a search, or what is missing of it.

    Args:
        file: the search's YAML file.
        out: folder for the search's own folder.
        jobs: runs trained at the same time.

    Raises:
        UsageError: a file that cannot work.
        UserError: the search was stopped, or no run of a family could be trained.
    """
    return Searching(load_search(file), out, jobs).run()


class Searching:
    """A search at work.

    Args:
        search: the file.
        out: folder that the search's own lies in.
        jobs: runs trained at the same time.
    """

    def __init__(self, search: Search, out: Path, jobs: int) -> None:
        self.search, self.folder, self.jobs = search, out / search.name, jobs
        self.rows: list[dict[str, Any]] = []
        self.planned: dict[tuple[str, int], Planned] = {}

    def run(self) -> Found:
        """Train what is missing of every rung."""
        first, *later = self.search.rungs
        trials = self._first(first)
        for rung in later:
            trials = {name: _best(of, rung.trials) for name, of in trials.items()}
            self._train([trial for of in trials.values() for trial in of], rung)
        best = {}
        for name, of in trials.items():
            winner = _best(of, 1)[0]
            if math.isinf(winner.losses[self.search.rungs[-1].iterations]):
                raise UserError(f"{name}: no trial could be trained; see {self._table}")
            best[name] = self._write(winner)
        return Found(self.rows, best, self._table)

    @property
    def _table(self) -> Path:
        return self.folder / "trials.csv"

    def _first(self, rung: Rung) -> dict[str, list[Trial]]:
        """The trials that Optuna proposes, a few of each family at a time."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        proposers = [_Proposer(family, self.search.seed) for family in self.search.families]
        while len(proposers[0].trials) < rung.trials:
            left = min(AT_ONCE, rung.trials - len(proposers[0].trials))
            new = [proposer.propose() for proposer in proposers for _ in range(left)]
            self._train(new, rung)
            for proposer in proposers:
                proposer.learn(rung.iterations)
        return {proposer.family.name: proposer.trials for proposer in proposers}

    def _train(self, trials: list[Trial], rung: Rung) -> None:
        """Find the loss of every trial after a rung's iterations."""
        experiment = Experiment(
            name=f"{rung.iterations}-iterations",
            about=self.search.about,
            variants=[trial.variant for trial in trials],
            seeds=[self.search.seed],
            budget={"iterations": rung.iterations, "evaluations": self.search.evaluations},
            data=self.search.data,
            overrides=self.search.overrides,
            text="",
        )
        planned = plan(experiment, self.folder)
        failed = train_missing(planned, self.folder / experiment.name, self.jobs)
        for trial, run in zip(trials, planned, strict=True):
            why = failed.get(run.name, "")
            trial.losses[rung.iterations] = (
                math.inf if why else load_run(run.path).curve.best_loss()
            )
            self.planned[trial.name, rung.iterations] = run
            self.rows.append(_row(trial, run, rung, why))
        write_atomic(self._table, _csv(self.rows))

    def _write(self, trial: Trial) -> Path:
        """The configuration of a family's winner, to be trained as a preset."""
        run = self.planned[trial.name, self.search.rungs[-1].iterations]
        about = f"{trial.family.name}: the best of {self.search.rungs[0].trials} trials"
        file = self.folder / f"{trial.family.name}.yaml"
        write_atomic(file, to_yaml(with_changes(run.config, about=about)))
        return file


class _Proposer:
    """Optuna's study of one family."""

    def __init__(self, family: Family, seed: int) -> None:
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
        self.family, self.study = family, optuna.create_study(sampler=sampler)
        self.trials: list[Trial] = []
        self._asked: list[optuna.Trial] = []

    def propose(self) -> Trial:
        """Settings that were not tried before."""
        for _ in range(ATTEMPTS):
            asked = self.study.ask()
            space = self.family.space.items()
            choices = {n: asked.suggest_categorical(n, range(len(of))) for n, of in space}
            twin = next((trial for trial in self.trials if trial.choices == choices), None)
            if twin is None:
                break
            self.study.tell(asked, state=TrialState.FAIL)
        else:
            raise UserError(f"{self.family.name}: found no settings that were not tried before")
        self._asked.append(asked)
        self.trials.append(Trial(self.family, len(self.trials) + 1, choices))
        return self.trials[-1]

    def learn(self, iterations: int) -> None:
        """Tell Optuna what became of the proposals that it has not heard of."""
        for asked, trial in zip(self._asked, self.trials[-len(self._asked) :], strict=True):
            loss = trial.losses[iterations]
            if math.isinf(loss):
                self.study.tell(asked, state=TrialState.FAIL)
            else:
                self.study.tell(asked, loss)
        self._asked.clear()


def _best(trials: list[Trial], wanted: int) -> list[Trial]:
    """Those with the lowest loss at the highest rung that they reached."""
    return sorted(trials, key=lambda trial: trial.losses[max(trial.losses)])[:wanted]


def _row(trial: Trial, run: Planned, rung: Rung, why: str) -> dict[str, Any]:
    loss = trial.losses[rung.iterations]
    return {
        "family": trial.family.name,
        "trial": trial.number,
        "iterations": rung.iterations,
        "loss": loss,
        "parameters": count(run.config.model, run.vocab_size).parameters,
        "flops": rung.iterations * run.flops_per_step,
        "failed": why,
        "choices": {name: _words(trial.family, name, n) for name, n in trial.choices.items()},
    }


def _words(family: Family, name: str, number: int) -> str:
    settings = family.settings(name, number)
    values = [f"{key.split('.')[-1]} {value}" for key, value in settings.items()]
    return str(settings[name]) if name in settings else ", ".join(values)


def _csv(rows: list[dict[str, Any]]) -> str:
    """A column for everything that any family chooses."""
    choices: dict[str, None] = {name: None for row in rows for name in row["choices"]}
    columns = [*(key for key in rows[0] if key != "choices"), *choices]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: v for k, v in row.items() if k != "choices"} | row["choices"])
    return text.getvalue()
