"""The runs of a study: for every family, size and seed a trunk at a constant rate, and cooldowns.

The trunk is trained in pieces, each a run that continues the one before. At the end of each piece a
cooldown branches off, which takes the rate to zero over its last steps: a cell of the study. A
family and size thus cost one long run and the cooldowns, not a run for each number of tokens.

Source: Haegele et al., arXiv 2405.18392.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpkant.base.errors import UsageError, prefixed
from nanogpkant.comparison.planning import Planned, dtype_of, seconds_per_step, settled, state_of
from nanogpkant.comparison.scaling.study import Family, Study
from nanogpkant.config import RunConfig, load_preset, with_changes, with_settings
from nanogpkant.data import TokenData
from nanogpkant.machine.device import resolve_device
from nanogpkant.measure.memory import Sketch, estimate
from nanogpkant.model.counting import Count, count
from nanogpkant.report.table import Row, align, formatted
from nanogpkant.run.load import prepare_data

GRIDDED = ("hat", "bspline", "rbf")  # bases with grid intervals


@dataclass(frozen=True)
class Cell:
    """A point of the study: a family, size, number of tokens and seed, and its run."""

    family: str
    size: str  # such as 33k
    parameters: int
    edges: int  # parameters of the plain GPT of this shape
    grid: int | None  # grid intervals of every edge; None where edges have no grid of their own
    seed: int
    tokens: int
    flops: int  # of training
    run: Planned

    @property
    def name(self) -> str:
        return self.run.name


@dataclass(frozen=True)
class _Model:
    """A family at one size."""

    family: Family
    base: RunConfig  # the family's preset
    config: RunConfig
    counted: Count
    changes: dict[str, Any]  # settings that differ from the preset's, with dotted keys
    data: TokenData


def plan_study(study: Study, out: Path) -> tuple[list[Cell], list[Planned]]:
    """The cells of a study, and all its runs, those that others continue first.

    Raises:
        UsageError: settings that cannot work, or a run folder that holds another run.
        UserError: data that has to be downloaded first, or a damaged run.
    """
    cells: list[Cell] = []
    runs: list[Planned] = []
    for family in study.families:
        with prefixed(f"family {family.name}"):
            for model in _models(study, family, out / study.name):
                budgets = _budgets(study, model)
                for seed in family.seeds:
                    is_first = seed == family.seeds[0]
                    own = [b for b in budgets if is_first or b.flops <= study.repeat_flops]
                    for trunk, cell in _line(model, seed, own, out / study.name):
                        runs += [trunk, cell.run]
                        cells.append(cell)
    if not cells:
        raise UsageError(f"most_flops {study.most_flops:g}: every run takes more; raise it")
    return cells, runs


def _models(study: Study, family: Family, folder: Path) -> list[_Model]:
    """A family at each of its sizes.

    Raises:
        UsageError: two sizes have the same model.
    """
    base = load_preset(family.preset)[1]
    changes = {f"data.{key}": value for key, value in study.data.items()}
    changes |= study.overrides | family.overrides
    config = settled(base, changes)
    if config.grid.update_every or config.grid.refine_at:
        raise UsageError("its grids change, so its parameters and FLOPs are not known in advance")
    data = TokenData.open(prepare_data(config.data))
    changes |= {"train.dtype": dtype_of(config, folder, family.name), "train.sample_tokens": 0}
    changes |= {"optim.min_lr": 0.0, "optim.decay": "linear"}
    models: dict[int, tuple[float, _Model]] = {}
    for wanted in family.sizes:
        shape = _nearest(study, config, wanted, data.vocab_size)
        own = changes | shape | {"optim.learning_rate": family.rate_at(shape["model.n_embd"])}
        sized = settled(base, own)
        counted = count(sized.model, data.vocab_size)
        if counted.parameters in models:
            other = models[counted.parameters][0]
            problem = f"{other:,.0f} and {wanted:,.0f} are the same model"
            raise UsageError(f"sizes: {problem}, of {counted.parameters:,}; name one of them")
        models[counted.parameters] = wanted, _Model(family, base, sized, counted, own, data)
    return [model for _, model in models.values()]


def _nearest(study: Study, config: RunConfig, wanted: float, vocab_size: int) -> dict[str, Any]:
    """The shape whose number of parameters is nearest to the one wanted, by their ratio."""
    best, least = {}, math.inf
    for heads in itertools.count(1):
        shape = study.shape.settings(heads)
        parameters = count(with_settings(config, shape).model, vocab_size).parameters
        if (distance := abs(math.log(parameters / wanted))) < least:
            best, least = shape, distance
        if parameters > wanted:
            break
    return best


@dataclass(frozen=True)
class _Budget:
    """Training of one cell."""

    steps: int
    branch: int  # steps before the cooldown
    flops: int


def _budgets(study: Study, model: _Model) -> list[_Budget]:
    """The budgets of a size, increasing.

    Raises:
        UsageError: one whose cooldown has no step, begins in the warm-up, or is another's.
    """
    config, budgets = model.config, []
    for tokens in model.family.tokens:
        steps = round(tokens / config.tokens_per_step)
        flops = steps * config.tokens_per_step * model.counted.flops_per_token
        if flops > study.most_flops:
            continue
        branch = steps - round(study.cooldown * steps)
        problem = f"tokens {tokens:,.0f}: are {steps} steps of {config.tokens_per_step:,}"
        if branch == steps:
            raise UsageError(f"{problem}, too few for a cooldown; raise it")
        if branch <= config.optim.warmup_iters:
            warmup = f"optim.warmup_iters {config.optim.warmup_iters}"
            raise UsageError(f"{problem}, and the cooldown would begin within {warmup}")
        if budgets and branch <= budgets[-1].branch:
            raise UsageError(f"{problem}, as many as another one's; leave one out")
        budgets.append(_Budget(steps, branch, flops))
    return budgets


def _line(
    model: _Model, seed: int, budgets: list[_Budget], folder: Path
) -> Iterator[tuple[Planned, Cell]]:
    """The pieces of a trunk, and the cell that branches off at the end of each."""
    config, family, vocab_size = model.config, model.family, model.data.vocab_size
    size = short(model.counted.parameters)
    variant = f"{family.name}-{size}"

    def run(name: str, part: str, after: Path | None, own: dict[str, Any]) -> Planned:
        changes = model.changes | own | {"train.seed": seed}
        changes |= {"train.eval_interval": own["train.max_iters"]}
        made, path = settled(model.base, changes), folder / variant / f"seed-{seed}-{name}"
        at = state_of(path, made, model.data.fingerprint)
        return Planned(variant, family.preset, changes, made, vocab_size, path, *at, after, part)

    plain, kan = with_changes(config.model, **{"kan.sites": []}), config.model.kan
    is_gridded = bool(kan.sites) and kan.share == "edge" and kan.basis in GRIDDED
    after = None
    for budget in budgets:
        name, part = f"trunk-{budget.branch:06d}", f"trunk to step {budget.branch:,}"
        constant = {"train.max_iters": budget.branch, "optim.decay_lr": False}
        trunk = run(name, part, after, constant)
        after, cooling = trunk.path, budget.steps - budget.branch
        falling = {"optim.decay_lr": True, "optim.decay_iters": cooling}
        falling |= {"train.max_iters": budget.steps}
        tokens = budget.steps * config.tokens_per_step
        cell = Cell(
            family=family.name,
            size=size,
            parameters=model.counted.parameters,
            edges=count(plain, vocab_size).parameters,
            grid=kan.grid_size if is_gridded else None,
            seed=seed,
            tokens=tokens,
            flops=budget.flops,
            run=run(f"{budget.steps:06d}", f"{short(tokens)} tokens", after, falling),
        )
        yield trunk, cell


def short(number: float) -> str:
    """A number to two or three digits, with k, M or G: 33k, 1.6M."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * scale:
            return f"{number / scale:.3g}{unit}"
    return f"{number:.3g}"


def costs_of_study(cells: list[Cell], runs: list[Planned]) -> list[Row]:
    """Cost of each family and size, a row each: FLOPs, seconds left, one run at a time, and memory.

    A step of each model is timed; evaluating, saving and loading come on top.
    """
    device = resolve_device(runs[0].config.train.device)
    firsts = {run.variant: run for run in reversed(runs)}
    timed = seconds_per_step(firsts)
    ends = {run.path: run.config.train.max_iters for run in runs}
    rows = []
    for name, first in reversed(firsts.items()):
        own = [run for run in runs if run.variant == name]
        its = [cell for cell in cells if cell.run.variant == name]
        train, model = first.config.train, first.config.model
        steps = left = 0
        for run in own:
            start = ends[run.after] if run.after else 0
            steps += ends[run.path] - start
            if run.state != "finished":
                left += ends[run.path] - max(start, run.step)
        where = (train.batch_size, train.dtype, device.type, 1, train.grad_accum_steps)
        memory = estimate(Sketch(model, first.vocab_size), *where, first.config.optim)
        rows.append(
            {
                "family": its[0].family,
                "parameters": its[0].parameters,
                "layers": model.n_layer,
                "width": model.n_embd,
                "learning_rate": first.config.optim.learning_rate,
                "cells": len(its),
                "finished": sum(cell.run.state == "finished" for cell in its),
                "seeds": len({cell.seed for cell in its}),
                "most_tokens": max(cell.tokens for cell in its),
                "flops": steps * first.flops_per_step,
                "seconds_per_step": timed[name],
                "seconds_left": left * timed[name],
                "memory": memory.total,
            }
        )
    return rows


def costs_table(rows: list[Row], jobs: int) -> str:
    """The rows of ``costs_of_study`` as text, with their sums."""
    columns = {
        "family": "{family}",
        "parameters": "{parameters:,}",
        "shape": "{layers} x {width}",
        "rate": "{learning_rate:.2g}",
        "cells": "{cells}",
        "done": "{finished}",
        "seeds": "{seeds}",
        "tokens": "{tokens}",
        "FLOPs": "{flops:.3g}",
        "ms a step": "{ms:,.1f}",
        "hours left": "{hours:,.2f}",
        "memory": "{mb:,.0f} MB",
    }
    shown = []
    for row in rows:
        figures = {"ms": 1000 * row["seconds_per_step"], "hours": row["seconds_left"] / 3600}
        figures |= {"mb": row["memory"] / 1e6, "tokens": short(row["most_tokens"])}
        shown.append(row | figures)
    total = {key: sum(row[key] for row in rows) for key in ("cells", "finished", "flops")}
    hours = sum(row["seconds_left"] for row in rows) / 3600
    ends = [f"{total['flops']:.3g}", "", f"{hours:,.2f}", ""]
    last = ["all", "", "", "", str(total["cells"]), str(total["finished"]), "", "", *ends]
    said = f"{hours:,.1f} hours one run at a time"
    if jobs > 1:
        said += f"; with --jobs {jobs} they share the processors"
    return f"{align([*formatted(shown, columns), last])}\n{said}"
