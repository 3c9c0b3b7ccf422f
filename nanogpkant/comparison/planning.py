"""The runs of an experiment: configuration, folder, progress and cost of each."""

import json
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpkant.base.console import bar
from nanogpkant.base.errors import UsageError, prefixed
from nanogpkant.comparison.experiment import Experiment, Variant
from nanogpkant.comparison.runs import comparable, is_finished, recipe
from nanogpkant.config import (
    RunConfig,
    load_config,
    load_preset,
    settings_that_differ,
    with_settings,
)
from nanogpkant.conversion.formulas import with_formulas
from nanogpkant.data import TokenData
from nanogpkant.machine.device import resolve_device, resolve_dtype
from nanogpkant.measure.step import job_of, step
from nanogpkant.measure.timing import interleaved
from nanogpkant.model.counting import count
from nanogpkant.report.table import Row, align, formatted
from nanogpkant.run.folder import open_run
from nanogpkant.run.load import prepare_data

UNLIMITED = 10**9  # iterations of a run that only the clock stops
TIMED_ROUNDS = 3  # of a step of each variant, for a rough estimate of the time left


@dataclass(frozen=True)
class Planned:
    """One run of an experiment."""

    variant: str
    preset: str
    changes: dict[str, Any]  # settings that differ from the preset's, with dotted keys
    config: RunConfig
    vocab_size: int
    path: Path
    state: str  # missing, interrupted or finished
    step: int  # of the last checkpoint
    after: Path | None = None  # run whose last checkpoint it starts from
    part: str = ""  # of several runs of one variant and seed: which this is

    @property
    def seed(self) -> int:
        return self.config.train.seed

    @property
    def name(self) -> str:
        return f"{self.variant} seed {self.seed}" + (f" {self.part}" if self.part else "")

    @property
    def iterations(self) -> int | None:
        """None where seconds are the budget."""
        return None if self.config.train.max_seconds else self.config.train.max_iters

    @property
    def flops_per_step(self) -> int:
        return _flops_per_step(self.config, self.vocab_size)

    def command(self) -> list[str]:
        """Arguments of the command that trains or resumes this run."""
        start = ["train", self.preset, "--out", str(self.path), "--auto_resume"]
        if self.after is not None:
            start += ["--branch_of", str(self.after)]
        written = {k: v if isinstance(v, str) else json.dumps(v) for k, v in self.changes.items()}
        return [*start, *(word for key, value in written.items() for word in (f"--{key}", value))]


def plan(experiment: Experiment, out: Path) -> list[Planned]:
    """Every run of an experiment. Its data is prepared if that needs no network.

    Args:
        out: parent of the experiment's folder.

    Raises:
        UsageError: an invalid variant, or a run folder that holds another run.
        UserError: data that has to be downloaded first, or a damaged run.
    """
    folder = out / experiment.name
    planned, recipes, bases, fixed = [], {}, {}, set()
    for variant in experiment.variants:
        with prefixed(f"variant {variant.name}"):
            bases[variant.name] = base = load_preset(variant.preset)[1]
        if variant.overrides.get("train.dtype", base.train.dtype) != "auto":
            fixed.add(variant.name)
    for variant in experiment.variants:
        with prefixed(f"variant {variant.name}"):
            runs = list(_runs_of(experiment, variant, bases[variant.name], folder, fixed))
        twin = recipes.setdefault(recipe(runs[0].config), variant.name)
        if twin != variant.name:
            raise UsageError(f"variants {twin} and {variant.name} are the same; leave one out")
        planned += runs
    return planned


def _runs_of(
    experiment: Experiment, variant: Variant, base: RunConfig, folder: Path, fixed: set[str]
) -> Iterator[Planned]:
    changes = {f"data.{key}": value for key, value in experiment.data.items()}
    changes |= experiment.overrides | variant.overrides
    config = settled(base, changes)
    data = TokenData.open(prepare_data(config.data))
    changes |= {"train.dtype": dtype_of(config, folder, variant.name, fixed)}
    changes |= _budgeted(settled(base, changes), experiment.budget, data.vocab_size)
    for seed in experiment.seeds:
        own = changes | {"train.seed": seed}
        config, path = settled(base, own), folder / variant.name / f"seed-{seed}"
        state, done = state_of(path, config, data.fingerprint)
        yield Planned(variant.name, variant.preset, own, config, data.vocab_size, path, state, done)


def settled(base: RunConfig, changes: dict[str, Any]) -> RunConfig:
    """A preset with the settings of a run laid over it."""
    return with_formulas(with_settings(base, changes), base)


def dtype_of(config: RunConfig, folder: Path, own: str, fixed: Container[str] = ()) -> str:
    """The dtype of a variant's earlier runs, else of others, since auto depends on a measurement.

    Names of the variant's runs begin with ``own``; variants in ``fixed`` have a dtype by setting.
    """
    if config.train.dtype != "auto":
        return config.train.dtype
    files = [f for f in folder.glob("*/seed-*/config.yaml") if f.parts[-3] not in fixed]
    for file in sorted(files, key=lambda f: (not f.parts[-3].startswith(own), f)):
        return load_config(file).train.dtype
    return resolve_dtype("auto", resolve_device(config.train.device))


def _budgeted(config: RunConfig, budget: dict[str, float], vocab_size: int) -> dict[str, Any]:
    """The settings that give a variant the budget."""
    if "seconds" in budget:
        return {"train.max_iters": UNLIMITED, "train.max_seconds": budget["seconds"]}
    iterations = int(budget.get("iterations", 0))
    if "flops" in budget:
        if config.grid.update_every or config.grid.refine_at:
            problem = "its grids change, so the cost of a step is not known in advance"
            raise UsageError(f"budget.flops: {problem}; use iterations or seconds")
        flops = _flops_per_step(config, vocab_size)
        iterations = int(budget["flops"] // flops)
        if iterations < 1:
            raise UsageError(f"budget.flops {budget['flops']:g}: one step takes {flops:g}")
    changes: dict[str, Any] = {"train.max_iters": iterations}
    if "evaluations" in budget:
        changes["train.eval_interval"] = -(-iterations // int(budget["evaluations"]))
    return changes


def _flops_per_step(config: RunConfig, vocab_size: int) -> int:
    return config.tokens_per_step * count(config.model, vocab_size).flops_per_token


def state_of(path: Path, config: RunConfig, fingerprint: str) -> tuple[str, int]:
    """State of a run, and its last saved step.

    Raises:
        UsageError: the folder holds another run.
        UserError: it is damaged.
    """
    if not path.exists():
        return "missing", 0
    run = open_run(path)
    found = load_config(run.config_file)
    remedy = "remove that folder, or give the experiment another name"
    if (recipe(found), found.train.seed) != (recipe(config), config.train.seed):
        a, b = comparable(config), comparable(found)
        ours = settings_that_differ(a, b) | {"train.seed": config.train.seed}
        theirs = settings_that_differ(b, a) | {"train.seed": found.train.seed}
        key = next(iter(theirs))
        problem = f"{path} was trained with {key} {theirs[key]} instead of {ours[key]}"
        raise UsageError(f"{problem}; {remedy}")
    if run.data_fingerprint() != fingerprint:
        raise UsageError(f"{path} was trained on other data than {config.data.dataset}; {remedy}")
    written = not config.train.sample_tokens or run.samples_file.is_file()
    step = int(run.index().get("last", "step-0").removeprefix("step-"))
    return ("finished" if written and is_finished(run, found.train) else "interrupted"), step


def costs(planned: list[Planned]) -> list[Row]:
    """Size and cost of each run, a row each; a step of each variant is timed.

    ``seconds_left`` counts the remaining steps, one run at a time; evaluating, saving and loading
    come on top.
    """
    seconds = seconds_per_step({run.variant: run for run in planned})
    return [_cost(run, seconds[run.variant]) for run in planned]


def seconds_per_step(runs: dict[str, Planned]) -> dict[str, float]:
    """Seconds of a step of each of some runs, timed roughly."""
    device = resolve_device(next(iter(runs.values())).config.train.device)
    tasks = {
        name: step(job_of(name, run.config, run.vocab_size, device, run.config.train.dtype))
        for name, run in runs.items()
    }
    with bar("timing a step of each model", "steps") as progress:
        timings = interleaved(tasks, TIMED_ROUNDS, device, progress)
    return {
        name: timings[name].fastest / 1000 * run.config.train.grad_accum_steps
        for name, run in runs.items()
    }


def _cost(run: Planned, seconds_per_step: float) -> Row:
    options = run.config.train
    iterations = run.iterations or round((options.max_seconds or 0) / seconds_per_step)
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


def costs_table(rows: list[Row]) -> str:
    """The rows of ``costs`` as text, with their sums."""
    columns = {
        "variant": "{variant}",
        "seed": "{seed}",
        "state": "{state}",
        "iterations": "{iterations:,}",
        "parameters": "{millions:.2f} M",
        "FLOPs": "{flops:.3g}",
        "time left": "{minutes:,.1f} min",
    }
    shown = []
    for row in rows:
        figures = {"millions": row["parameters"] / 1e6, "minutes": row["seconds_left"] / 60}
        if row["state"] == "interrupted":
            figures["state"] = f"interrupted at {row['step']:,}"
        shown.append(row | figures)
    flops, left = (sum(row[key] for row in rows) for key in ("flops", "seconds_left"))
    total = ["all", "", "", "", "", f"{flops:.3g}", f"{left / 60:,.1f} min"]
    return align([*formatted(shown, columns), total], left=(0, 2))
