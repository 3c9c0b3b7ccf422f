"""A run as figures: what it is, what it cost, and its loss against everything that it spent."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.base.files import read_json, read_text
from nanogpkant.config import (
    DataConfig,
    RunConfig,
    TrackingConfig,
    TrainConfig,
    load_config,
    to_yaml,
)
from nanogpkant.data import load_tokenizer
from nanogpkant.model.counting import Count, count
from nanogpkant.report.table import Row
from nanogpkant.run.folder import RunFolder, open_run
from nanogpkant.run.metrics import read_metrics

# What a loss can be held against: the name of its array in a Curve, and what people call it.
AXES = {
    "steps": "iterations",
    "seconds": "seconds of training",
    "tokens": "training tokens",
    "flops": "training FLOPs",
}
# Settings that change what is written, and not what is learned.
UNIMPORTANT = ("seed", "device", "always_save", "keep_every", "log_interval", "sample_tokens")


@dataclass(frozen=True)
class Curve:
    """The evaluations of a run on its whole validation split, in order.

    Attributes:
        steps, seconds, tokens, flops: what was spent by then, (evaluations,) each.
        losses: nats per token, (evaluations,).
        halves: the same over either half of the split, (2, evaluations); None in an older run.
    """

    steps: np.ndarray
    seconds: np.ndarray
    tokens: np.ndarray
    flops: np.ndarray
    losses: np.ndarray
    halves: np.ndarray | None

    def trained(self) -> np.ndarray:
        """Which evaluations are of a trained model, (evaluations,) of bool: not the start."""
        return self.steps > 0 if (self.steps > 0).any() else np.full(len(self.steps), True)

    def best_loss(self) -> float:
        return float(self.losses[self.trained()].min())


@dataclass(frozen=True)
class Run:
    """A run, read whole."""

    path: Path
    name: str
    """its folder's, with as much of the path as tells it from the others"""
    config: RunConfig
    environment: Row
    curve: Curve
    metrics: list[Row]
    counted: Count
    finished: bool

    @property
    def seed(self) -> int:
        return self.config.train.seed

    @property
    def fingerprint(self) -> str:
        return self.environment["data_fingerprint"]

    @property
    def evaluated_tokens(self) -> int | None:
        """Predictions in one evaluation."""
        return self._rows("val")[-1].get("tokens")

    @property
    def added_parameters(self) -> int:
        """By grids that changed in training."""
        changes = self._rows("grid_change")
        return changes[-1]["parameters"] - self.counted.parameters if changes else 0

    @property
    def flops_per_token(self) -> int:
        # A coefficient more is a multiply and an add more, in each of 3 products.
        return self.counted.flops_per_token + 6 * self.added_parameters

    @property
    def grid_rows(self) -> list[Row]:
        """How well the grids of a KAN fitted, at every evaluation."""
        return self._rows("grid")

    @property
    def reached(self) -> str:
        """How far it is, in words."""
        step, options = int(self.curve.steps[-1]), self.config.train
        if options.max_seconds is not None:
            return f"{self.curve.seconds[-1]:,.0f} of {options.max_seconds:,g} seconds"
        return f"{step:,} of {options.max_iters:,} iterations"

    @property
    def sample(self) -> str:
        """What the model wrote when it was done."""
        file = RunFolder(self.path).samples_file
        return read_text(file) if file.is_file() else ""

    def row(self) -> Row:
        """Size, cost and losses. ``perplexity`` and the like belong to the best evaluation."""
        evaluations = self._rows("val")
        trained = [row for row in evaluations if row["step"] > 0]
        best, last = min(trained or evaluations, key=lambda row: row["loss"]), evaluations[-1]
        tokens = float(self.curve.tokens[-1])
        return {
            "run": self.name,
            "parameters": self.counted.parameters + self.added_parameters,
            "parameters_without_positions": self.counted.parameters_without_positions
            + self.added_parameters,
            "flops_per_token": self.flops_per_token,
            "step": last["step"],
            "best_val_loss": best["loss"],
            "val_loss": last["loss"],
            "perplexity": best["perplexity"],
            "bits_per_char": best["bits_per_char"],
            "accuracy": best["accuracy"],
            "seconds": last["seconds"],
            "tokens_per_second": tokens / last["seconds"] if last["seconds"] else 0.0,
            "peak_memory_bytes": max(row.get("memory_bytes", 0) for row in self.metrics),
            "data_fingerprint": self.fingerprint,
        }

    def _rows(self, split: str) -> list[Row]:
        return [row for row in self.metrics if row["split"] == split]


def load_runs(names: Iterable[str | Path]) -> list[Run]:
    """Read runs, each with a name that tells it from the others.

    Raises:
        UsageError: a folder is given twice.
        UserError: a folder that is not a run, or a run that was never evaluated.
    """
    paths = [open_run(name).path for name in names]
    resolved = [path.resolve() for path in paths]
    for path, where in zip(paths, resolved, strict=True):
        if resolved.count(where) > 1:
            raise UsageError(f"{path} is given twice: name each run once")
    return [
        replace(load_run(path), name=name)
        for path, name in zip(paths, short_names(resolved), strict=True)
    ]


def load_run(path: Path) -> Run:
    """Read one run.

    Raises:
        UserError: it is not a run, was never evaluated, or its files were edited.
    """
    run = open_run(path)
    config, metrics = load_config(run.config_file), read_metrics(run.metrics_file)
    run.data_fingerprint()  # refuses an environment.json without one
    counted = count(config.model, load_tokenizer(run.tokenizer_file).vocab_size)
    return Run(
        path,
        path.name,
        config,
        read_json(run.environment_file),
        _curve(run, config, metrics, counted),
        metrics,
        counted,
        is_finished(run, config.train),
    )


def is_finished(run: RunFolder, options: TrainConfig) -> bool:
    """Whether a run has done, and saved, all the steps that it was asked for."""
    last = run.index().get("last")
    if last is None:
        return False
    step = int(last.removeprefix("step-"))
    return step >= options.max_iters or any(
        row["step"] == step and row["seconds"] >= round(options.max_seconds, 3)  # as it is logged
        for row in read_metrics(run.metrics_file)
        if options.max_seconds is not None and "seconds" in row
    )


def _curve(run: RunFolder, config: RunConfig, metrics: list[Row], counted: Count) -> Curve:
    evaluations = [row for row in metrics if row["split"] == "val"]
    if not evaluations:
        raise UserError(f"{run.path} has no evaluation yet: let it train on with --resume")
    for row in evaluations:
        for key in ("loss", "seconds"):
            if not isinstance(row.get(key), int | float) or not np.isfinite(row[key]):
                problem = f"the evaluation at step {row['step']} has no {key}"
                raise UserError(f"{run.metrics_file}: {problem}: the file was edited")
    steps = np.array([row["step"] for row in evaluations])
    tokens_per_step = config.tokens_per_step
    # Grids that change in training change the cost of the steps after it.
    changes = [row for row in metrics if row["split"] == "grid_change"]
    added = np.array([0] + [row["parameters"] - counted.parameters for row in changes])
    since = np.array([0] + [row["step"] for row in changes] + [max(steps[-1], 1)])
    spent = np.cumsum((counted.flops_per_token + 6 * added) * np.diff(since))
    halves = [[row.get(f"loss_{half}_half") for row in evaluations] for half in ("first", "second")]
    return Curve(
        steps,
        np.array([row["seconds"] for row in evaluations], dtype=float),
        steps * tokens_per_step,
        np.interp(steps, since, np.append(0, spent)) * tokens_per_step,
        np.array([row["loss"] for row in evaluations]),
        None if None in halves[0] + halves[1] else np.array(halves),
    )


def recipe(config: RunConfig) -> str:
    """What a configuration makes a model of, whatever its seed: equal for repeats of a run."""
    defaults = TrainConfig()
    train = replace(config.train, **{name: getattr(defaults, name) for name in UNIMPORTANT})
    data = DataConfig(config.data.dataset)
    return to_yaml(replace(config, about="", train=train, data=data, tracking=TrackingConfig()))


def variants_of(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs that differ in nothing but their seed, together, under the name that they share."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.fingerprint + recipe(run.config), []).append(run)
    paths = [[run.path.resolve() for run in group] for group in groups.values()]
    folders = [_shared_path(group) for group in paths]
    apart = [f if folders.count(f) == 1 else p[0] for f, p in zip(folders, paths, strict=True)]
    return dict(zip(short_names(apart), groups.values(), strict=True))


def _shared_path(paths: list[Path]) -> Path:
    """What repeats are called: kan of kan/seed-1 and the like, or kan_1; else as the first is."""
    if len(paths) == 1 and not paths[0].name.startswith("seed"):
        return paths[0]
    names = [re.sub(r"[-_. ]?(seed|s)?[-_. ]?\d+$", "", path.name) for path in paths]
    shared = {p.with_name(n) if n else p.parent for p, n in zip(paths, names, strict=True)}
    return shared.pop() if len(shared) == 1 else paths[0]


def short_names(paths: list[Path]) -> list[str]:
    """The last part of every path, and of those that share it as many as tell them apart."""
    names = []
    for path in paths:
        length = 1
        while length < len(path.parts) and any(
            other != path and other.parts[-length:] == path.parts[-length:] for other in paths
        ):
            length += 1
        names.append("/".join(path.parts[-length:]))
    return names
