"""Tables of rows, as Markdown or aligned for a terminal."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from nanogpkant.base.escape import csv_cell

Row = dict[str, Any]


def markdown(rows: Iterable[Row], columns: dict[str, str]) -> str:
    """A Markdown table; ``columns`` are the keys that it shows, and their headings."""
    lines = [list(columns.values()), ["---"] * len(columns)]
    lines += [[cell(row.get(key)) for key in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def aligned(rows: Iterable[Row], columns: dict[str, str]) -> str:
    """The same as aligned text: the first column to the left, numbers to the right."""
    lines = [list(columns.values()), *([cell(row.get(key)) for key in columns] for row in rows)]
    return align(lines)


def as_csv(rows: Iterable[Row], columns: Iterable[str]) -> str:
    """Rows as CSV, harmless for spreadsheets; what a row lacks is empty."""
    text, columns = io.StringIO(), list(columns)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, columns))
    writer.writerows([csv_cell(row.get(key, "")) for key in columns] for row in rows)
    return text.getvalue()


def formatted(rows: Iterable[Row], columns: dict[str, str]) -> list[list[str]]:
    """Lines for ``align``: the columns' headings, and every row in their forms."""
    return [list(columns), *([form.format(**row) for form in columns.values()] for row in rows)]


def align(lines: Sequence[Sequence[str]], left: Iterable[int] = (0,)) -> str:
    """Lines of cells as text, padded so that columns line up.

    Args:
        lines: cells of each line, all lines of the same length.
        left: numbers of the columns whose cells are flush left; the others are flush right.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = ["<" if n in set(left) else ">" for n in range(len(widths))]
    form = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))
    return "\n".join(form.format(*line).rstrip() for line in lines)


def cell(value: Any) -> str:
    """A table cell: numbers to three digits, or whole."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"
