"""Results of a benchmark as JSON, Markdown and a chart."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.speed.goals import Goal
from nanogpkant.base.answer import Answer
from nanogpkant.base.errors import UsageError
from nanogpkant.base.files import write_atomic, write_json, writing
from nanogpkant.report.table import Row, markdown


@dataclass(frozen=True)
class Table:
    """Rows of numbers; ``columns`` maps the keys shown in Markdown to headings."""

    title: str
    rows: list[Row]
    columns: dict[str, str]

    def markdown(self) -> str:
        return f"### {self.title}\n\n{markdown(self.rows, self.columns)}"


@dataclass
class Report(Answer):
    """Tables, goals and notes of a benchmark."""

    name: str
    """stem of its files: NAME.json, NAME.md, NAME.png"""
    title: str
    machine: str
    tables: list[Table] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """our layers that failed the gate; if any, the command fails"""
    draw: Callable[[Path], None] | None = None
    """writes the chart"""
    command: str = field(
        default_factory=lambda: shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]])
    )

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

    @property
    def failure(self) -> str | None:
        return f"a gate was not passed: {'; '.join(self.wrong)}" if self.wrong else None

    def words(self) -> str:
        return self.markdown().rstrip("\n")

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
        """Write all results so far, so that an interrupted benchmark keeps them."""
        if folder is None:
            return
        stem = Path(folder) / self.name
        write_json(stem.with_suffix(".json"), self.as_dict())
        write_atomic(stem.with_suffix(".md"), self.markdown())
        if self.draw is not None:
            with writing(stem.with_suffix(".png")):
                self.draw(stem.with_suffix(".png"))


def require_above_zero(**values: float | None) -> None:
    """Refuse a flag that is not above zero.

    Raises:
        UsageError: naming the flag.
    """
    for name, value in values.items():
        if value is not None and not value > 0:
            raise UsageError(f"--{name} {value}: must be above 0")
