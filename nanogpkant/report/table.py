"""A table of rows, as Markdown or for a terminal."""

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


def markdown(rows: Iterable[Row], columns: dict[str, str]) -> str:
    """A Markdown table; ``columns`` are the keys that it shows, and their headings."""
    lines = [list(columns.values()), ["---"] * len(columns)]
    lines += [[cell(row.get(key)) for key in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def aligned(rows: Iterable[Row], columns: dict[str, str]) -> str:
    """The same as aligned text: the first column to the left, numbers to the right."""
    lines = [list(columns.values()), *([cell(row.get(key)) for key in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first, *others = widths
    form = "  ".join([f"{{:<{first}}}", *(f"{{:>{width}}}" for width in others)])
    return "\n".join(form.format(*line) for line in lines)


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
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
