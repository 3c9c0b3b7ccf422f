"""Learning curves from elsewhere, drawn beside our runs: the original author's, W&B exports.

They are never ranked with runs, because each was evaluated in its own way.
"""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.base.files import read_json, read_text
from nanogpkant.config import load_preset
from nanogpkant.model.counting import SHAKESPEARE_CHARACTERS, count

ORIGINAL = Path(__file__).with_name("original_runs.json")
ORIGINAL_DATASET = "tinyshakespeare_char"


@dataclass(frozen=True)
class Reference:
    """A learning curve from elsewhere.

    Attributes:
        name: its name in the legend.
        source: its origin and measurement, in a sentence.
        axes: the known axes of cost, by names in ``runs.AXES``, (points,) each.
        losses: nats per token, (points,).
    """

    name: str
    source: str
    axes: dict[str, np.ndarray]
    losses: np.ndarray


def original_curves(datasets: set[str]) -> list[Reference]:
    """The three curves of the original author.

    Args:
        datasets: names of the datasets of our runs.

    Raises:
        UsageError: a dataset other than the original's.
    """
    if others := datasets - {ORIGINAL_DATASET}:
        problem = f"its curves are of {ORIGINAL_DATASET}, but a run here is of {min(others)}"
        raise UsageError(f"--reference original: {problem}")
    record = read_json(ORIGINAL)
    source = f"{record['about']}; {record['source']}"
    return [_original_curve(run, source, record["tokens_per_iteration"]) for run in record["runs"]]


def _original_curve(run: dict, source: str, tokens_per_iteration: int) -> Reference:
    model = load_preset(run["preset"])[1].model
    flops_per_token = count(model, SHAKESPEARE_CHARACTERS).flops_per_token
    steps = np.array(run["iterations"])
    tokens = steps * tokens_per_iteration
    axes = {"steps": steps, "tokens": tokens, "flops": tokens * flops_per_token}
    return Reference(f"original's {run['name']}", source, axes, np.array(run["losses"]))


def wandb_curves(path: Path) -> list[Reference]:
    """The validation losses in a CSV file that W&B exported from a chart.

    Its columns are "Step", then for every run "RUN - METRIC" with "RUN - METRIC__MIN" and
    "RUN - METRIC__MAX"; a cell is empty where a run has no value.

    Raises:
        UserError: the file cannot be read, or has another format.
    """
    try:
        rows = list(csv.reader(io.StringIO(read_text(path).lstrip("\ufeff"))))
    except csv.Error as error:
        raise UserError(f"--csv {path} is not a CSV file: {error}") from error
    head = rows[0] if rows else []
    extremes = ("__MIN", "__MAX")
    columns = {n: name for n, name in enumerate(head) if n and not name.endswith(extremes)}
    if len(columns) > 1:  # of several metrics, the validation loss
        columns = {n: name for n, name in columns.items() if _is_validation_loss(name)}
    if not head or head[0] != "Step" or not columns or not all(map(_metric, columns.values())):
        expected = 'the columns are "Step" and "RUN - val/loss", as W&B exports a chart'
        raise UserError(f"--csv {path}: another shape than expected: {expected}")
    return [_wandb_curve(path, rows[1:], column, name) for column, name in columns.items()]


def _metric(name: str) -> str:
    return name.rpartition(" - ")[2] if " - " in name else ""


def _is_validation_loss(name: str) -> bool:
    metric = _metric(name).lower()
    return "val" in metric and "loss" in metric


def _wandb_curve(path: Path, rows: list[list[str]], column: int, name: str) -> Reference:
    points = []
    for line, row in enumerate(rows, start=2):
        if len(row) <= column or not row[column].strip():
            continue
        try:
            step, loss = float(row[0]), float(row[column])
        except ValueError:
            step = loss = math.nan
        if not (math.isfinite(step) and math.isfinite(loss)):
            cells = f"{row[0]!r} and {row[column]!r}"
            raise UserError(f"--csv {path}, line {line}: {cells} must be an iteration and a loss")
        points.append((step, loss))
    if not points:
        raise UserError(f"--csv {path}: the column {name} is empty")
    steps, losses = np.array(sorted(points)).T
    run = name.rpartition(" - ")[0]
    return Reference(run, f"{name} in {path.name}, exported from W&B", {"steps": steps}, losses)
