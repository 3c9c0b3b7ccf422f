"""The runs of an experiment: what each is, where it lies, how far it is and what it costs."""

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nanogpkant.base.console import bar
from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.comparison.experiment import Experiment, Variant
from nanogpkant.comparison.runs import is_finished, recipe
from nanogpkant.config import RunConfig, config_from, field_names, load_config, load_preset, nearest
from nanogpkant.data import TokenData
from nanogpkant.machine.device import resolve_device, resolve_dtype
from nanogpkant.measure.step import Job, step
from nanogpkant.measure.timing import interleaved
from nanogpkant.model.counting import count
from nanogpkant.run.folder import open_run
from nanogpkant.run.load import prepare_data

# A run that the clock alone stops: more steps than any clock allows.
UNLIMITED = 10**9
TIMED_ROUNDS = 3  # of a step of each variant, for a rough idea of what is to come


@dataclass(frozen=True)
class Planned:
    """One run of an experiment."""

    variant: str
    preset: str
    changes: dict[str, Any]
    """settings that differ from the preset's, with dotted keys"""
    config: RunConfig
    vocab_size: int
    path: Path
    state: str
    """missing, interrupted or finished"""
    step: int
    """steps that are done and saved"""

    @property
    def seed(self) -> int:
        return self.config.train.seed

    @property
    def name(self) -> str:
        return f"{self.variant} seed {self.seed}"

    @property
    def iterations(self) -> int | None:
        """None where seconds are the budget."""
        return None if self.config.train.max_seconds else self.config.train.max_iters

    @property
    def flops_per_step(self) -> int:
        return _flops_per_step(self.config, self.vocab_size)

    def command(self) -> list[str]:
        """What trains this run, or continues it."""
        if self.state != "missing":
            return ["train", self.preset, "--out", str(self.path), "--resume"]
        written = {k: v if isinstance(v, str) else json.dumps(v) for k, v in self.changes.items()}
        flags = [word for key, value in written.items() for word in (f"--{key}", value)]
        return ["train", self.preset, "--out", str(self.path), *flags]


def plan(experiment: Experiment, out: Path) -> list[Planned]:
    """Every run of an experiment. Its text is prepared where that needs no network.

    Args:
        out: the folder that the experiment's own lies in.

    Raises:
        UsageError: a variant that cannot be, or a run folder that holds another run.
        UserError: text that has to be downloaded first, or a damaged run.
    """
    folder = out / experiment.name
    planned, recipes = [], {}
    for variant in experiment.variants:
        try:
            runs = list(_runs_of(experiment, variant, folder))
        except UserError as error:
            raise type(error)(f"variant {variant.name}: {error}") from error
        twin = recipes.setdefault(recipe(runs[0].config), variant.name)
        if twin != variant.name:
            raise UsageError(f"variants {twin} and {variant.name} are the same; leave one out")
        planned += runs
    return planned


def _runs_of(experiment: Experiment, variant: Variant, folder: Path) -> Iterator[Planned]:
    base = load_preset(variant.preset)[1]
    changes = {f"data.{key}": value for key, value in experiment.data.items()}
    changes |= experiment.overrides | variant.overrides
    config = changed(base, changes)
    data = TokenData.open(prepare_data(config.data))
    changes |= {"train.dtype": _dtype(config, folder)}
    changes |= _budgeted(changed(base, changes), experiment.budget, data.vocab_size)
    for seed in experiment.seeds:
        own = changes | {"train.seed": seed}
        config, path = changed(base, own), folder / variant.name / f"seed-{seed}"
        state, done = _state(path, config, data.fingerprint)
        yield Planned(variant.name, variant.preset, own, config, data.vocab_size, path, state, done)


def changed(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    """A configuration with dotted settings changed, checked as those of a file are."""
    values, known = asdict(config), field_names(RunConfig)
    for key, value in changes.items():
        if key not in known:
            raise UsageError(f"unknown key {key}: {nearest(key, known)}")
        *sections, name = key.split(".")
        section = values
        for part in sections:
            section = section[part]
        section[name] = value
    return config_from(values)


def _dtype(config: RunConfig, folder: Path) -> str:
    """One dtype for all runs, also those trained on another day: what auto finds is measured."""
    if config.train.dtype != "auto":
        return config.train.dtype
    for file in sorted(folder.glob("*/seed-*/config.yaml")):
        return load_config(file).train.dtype
    return resolve_dtype("auto", resolve_device(config.train.device))


def _budgeted(config: RunConfig, budget: dict[str, float], vocab_size: int) -> dict[str, Any]:
    """The settings that give a variant the budget."""
    if "seconds" in budget:
        return {"train.max_iters": UNLIMITED, "train.max_seconds": budget["seconds"]}
    iterations = int(budget.get("iterations", 0))
    if "flops" in budget:
        if config.grid.update_every or config.grid.refine_at:
            problem = "its grids change, so what a step costs is not known before"
            raise UsageError(f"budget.flops: {problem}; use iterations or seconds")
        flops = _flops_per_step(config, vocab_size)
        iterations = int(budget["flops"] // flops)
        if iterations < 1:
            raise UsageError(f"budget.flops {budget['flops']:g}: one step takes {flops:g}")
    changes: dict[str, Any] = {"train.max_iters": iterations}
    if "evaluations" in budget:
        changes["train.eval_interval"] = max(1, iterations // int(budget["evaluations"]))
    return changes


def _flops_per_step(config: RunConfig, vocab_size: int) -> int:
    return config.tokens_per_step * count(config.model, vocab_size).flops_per_token


def _state(path: Path, config: RunConfig, fingerprint: str) -> tuple[str, int]:
    """How far a run is, and at which step.

    Raises:
        UsageError: another run lies there.
        UserError: it is damaged.
    """
    if not path.exists():
        return "missing", 0
    run = open_run(path)
    found = load_config(run.config_file)
    remedy = "remove that folder, or give the experiment another name"
    if (recipe(found), found.train.seed) != (recipe(config), config.train.seed):
        key, theirs, ours = _first_difference(found, config)
        raise UsageError(f"{path} was trained with {key} {theirs} instead of {ours}; {remedy}")
    if run.data_fingerprint() != fingerprint:
        raise UsageError(f"{path} was trained on other data than {config.data.dataset}; {remedy}")
    written = not config.train.sample_tokens or run.samples_file.is_file()
    step = int(run.index().get("last", "step-0").removeprefix("step-"))
    return ("finished" if written and is_finished(run, found.train) else "interrupted"), step


def _first_difference(found: RunConfig, config: RunConfig) -> tuple[str, Any, Any]:
    for key in field_names(RunConfig):
        theirs, ours = found, config
        for part in key.split("."):
            theirs, ours = getattr(theirs, part), getattr(ours, part)
        leaf = not hasattr(ours, "__dataclass_fields__")
        if leaf and theirs != ours and recipe(changed(config, {key: theirs})) != recipe(config):
            return key, theirs, ours
    return "train.seed", found.train.seed, config.train.seed


def costs(planned: list[Planned]) -> list[dict[str, Any]]:
    """What is to be run and what that takes, a row for each run; a step of each variant is timed.

    ``seconds`` are those of the steps that are left, one run at a time; evaluating, saving and
    loading come on top.
    """
    firsts = {run.variant: run for run in planned}
    device = resolve_device(planned[0].config.train.device)
    tasks = {name: step(job_of(run, str(device))) for name, run in firsts.items()}
    with bar("timing a step of each variant", "steps") as progress:
        timings = interleaved(tasks, TIMED_ROUNDS, device, progress)
    return [_cost(run, timings[run.variant].fastest / 1000) for run in planned]


def job_of(run: Planned, device: str) -> Job:
    """A step of a run, to be timed."""
    options = run.config.train
    flags = (options.batch_size, device, options.dtype, options.compile, run.vocab_size)
    return Job(run.variant, run.config.model, *flags, run.config.optim)


def _cost(run: Planned, seconds_per_step: float) -> dict[str, Any]:
    options = run.config.train
    seconds_per_step *= options.grad_accum_steps
    iterations = run.iterations or round(options.max_seconds / seconds_per_step)
    left = 0 if run.state == "finished" else max(0, iterations - run.step)
    return {
        "variant": run.variant,
        "seed": run.seed,
        "state": run.state,
        "step": run.step,
        "iterations": iterations,
        "parameters": count(run.config.model, run.vocab_size).parameters,
        "tokens": iterations * run.config.tokens_per_step,
        "flops": iterations * run.flops_per_step,
        "seconds_left": left * seconds_per_step,
        "command": ["nanogpkant", *run.command()],
    }


def costs_table(rows: list[dict[str, Any]]) -> str:
    """The same for a person, with the sums."""
    grid = Table(box=None, pad_edge=False)
    for heading in ("variant", "seed", "state", "iterations", "parameters", "FLOPs", "time left"):
        grid.add_column(heading, justify="left" if heading in ("variant", "state") else "right")
    for row in rows:
        state = (
            f"{row['state']} at {row['step']:,}" if row["state"] == "interrupted" else row["state"]
        )
        grid.add_row(
            escape(row["variant"]),
            str(row["seed"]),
            state,
            f"{row['iterations']:,}",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['flops']:.3g}",
            _minutes(row["seconds_left"]),
        )
    left = sum(row["seconds_left"] for row in rows)
    grid.add_row("all", "", "", "", "", f"{sum(row['flops'] for row in rows):.3g}", _minutes(left))
    console = Console(file=io.StringIO(), width=120)
    console.print(grid)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.1f} min"
