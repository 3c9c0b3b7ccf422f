"""The report of a comparison: HTML that opens offline, Markdown, JSON and the charts as PNG."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpkant.base.files import write_atomic, write_json
from nanogpkant.comparison.findings import Findings
from nanogpkant.comparison.references import Reference
from nanogpkant.comparison.sections import sections_of
from nanogpkant.report.charts import save_png
from nanogpkant.report.html import render


@dataclass(frozen=True)
class ComparisonReport:
    """The content of a report."""

    title: str
    about: str
    findings: Findings
    references: list[Reference]
    command: str
    """that made this report"""
    experiment: str = ""
    """text of the experiment's file"""

    def as_dict(self) -> dict[str, Any]:
        references = [{"name": each.name, "source": each.source} for each in self.references]
        return {
            "title": self.title,
            "about": self.about,
            "command": self.command,
            **self.findings.as_dict(),
            "references": references,
            "experiment": self.experiment,
        }

    def save(self, folder: Path) -> None:
        """Write report.json, report.md, report.html and the pictures.

        Raises:
            UserError: a file cannot be written.
        """
        sections = sections_of(self.findings, self.references, self.command, self.experiment)
        for section in sections:
            if section.charts:
                save_png(folder / section.picture, section.charts, section.lines, section.dashed)
        write_json(folder / "report.json", self.as_dict())
        for kind in ("md", "html"):
            text = render(self.title, self.about, sections, f"page.{kind}.jinja")
            write_atomic(folder / f"report.{kind}", text)
