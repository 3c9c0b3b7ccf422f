"""metrics.jsonl: one JSON object a row, appended while a run trains."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nanogpkant.base.errors import UserError
from nanogpkant.base.files import parse_json, read_text, write_atomic


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last row that a kill cut short is left out.

    Raises:
        UserError: the file cannot be read, or another row is not JSON.
    """
    rows, lines = [], read_text(path).splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number} is not JSON: the file was damaged") from error
        if not _is_row(row):
            raise UserError(f"{path}, line {number} is not a row of metrics: the file was edited")
        rows.append(row)
    return rows


def evaluations(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the validation split, of as much text as the last: others cannot be compared."""
    found = [row for row in rows if row["split"] == "val"]
    return [row for row in found if row.get("tokens") in (None, found[-1].get("tokens"))]


def _is_row(row: Any) -> bool:
    """Whether a value is a row: step, split, and otherwise numbers, lists of them and dicts."""
    if not (isinstance(row, dict) and type(row.get("step")) is int and row["step"] >= 0):
        return False
    needed = {"train": {"loss"}, "val": {"loss"}, "grid_change": {"parameters"}}
    if not (isinstance(split := row.get("split"), str) and needed.get(split, set()) <= row.keys()):
        return False
    values = [value for key, value in row.items() if key != "split"]
    values += [each for value in values if isinstance(value, list) for each in value]
    return all(isinstance(value, int | float | dict | list) for value in values)


def write_metrics(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace a metrics.jsonl, atomically."""
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
