"""A table of rows as Markdown."""

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


def markdown(rows: Iterable[Row], columns: dict[str, str]) -> str:
    """A Markdown table; ``columns`` are the keys that it shows, and their headings."""
    lines = [list(columns.values()), ["---"] * len(columns)]
    lines += [[cell(row.get(key)) for key in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
