"""What a benchmark found, as JSON, as Markdown and as a chart."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.speed.goals import Goal
from nanogpkant.base.files import write_atomic, write_json, writing

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows of numbers; ``columns`` names those that Markdown shows and heads them."""

    title: str
    rows: list[Row]
    columns: dict[str, str]

    def markdown(self) -> str:
        lines = [list(self.columns.values()), ["---"] * len(self.columns)]
        lines += [[cell(row.get(key)) for key in self.columns] for row in self.rows]
        return f"### {self.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass
class Report:
    """Everything a benchmark has to say."""

    name: str
    """of its files: NAME.json, NAME.md, NAME.png"""
    title: str
    machine: str
    tables: list[Table] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """what of ours did not pass its gate: the command then fails"""
    draw: Callable[[Path], None] | None = None
    """writes the chart"""
    command: str = field(default_factory=lambda: shlex.join(["nanogpkant", *sys.argv[1:]]))

    def as_dict(self) -> Row:
        return {
            "title": self.title,
            "machine": self.machine,
            "command": self.command,
            "tables": [{"title": table.title, "rows": table.rows} for table in self.tables],
            "goals": [goal.as_dict() for goal in self.goals],
            "notes": self.notes,
            "wrong": self.wrong,
        }

    def markdown(self) -> str:
        parts = [f"## {self.title}", f"{self.machine}\n\n    {self.command}"]
        parts += [table.markdown() for table in self.tables]
        if self.goals:
            columns = {key: key for key in self.goals[0].as_dict()}
            goals = Table("Goals", [goal.as_dict() for goal in self.goals], columns)
            parts.append(goals.markdown())
        if self.notes or self.wrong:
            wrong = [f"**Wrong: {line}**" for line in self.wrong]
            parts.append("\n".join(f"- {line}" for line in wrong + self.notes))
        return "\n\n".join(parts) + "\n"

    def save(self, folder: str | None) -> None:
        """Write everything found so far, so that a run that is cut short loses nothing."""
        if folder is None:
            return
        stem = Path(folder) / self.name
        write_json(stem.with_suffix(".json"), self.as_dict())
        write_atomic(stem.with_suffix(".md"), self.markdown())
        if self.draw is not None:
            with writing(stem.with_suffix(".png")):
                self.draw(stem.with_suffix(".png"))


def cell(value: Any) -> str:
    """A value as people read it: numbers to three digits, or whole."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
