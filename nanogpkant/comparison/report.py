"""The report as files: one page that opens offline, Markdown, JSON and the charts as PNG."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpkant.base.files import write_atomic, write_json
from nanogpkant.comparison.findings import Findings
from nanogpkant.comparison.references import Reference
from nanogpkant.comparison.sections import Section, sections_of
from nanogpkant.report.charts import colour_of, save_png, to_svg
from nanogpkant.report.html import template_environment


@dataclass(frozen=True)
class Report:
    """Everything that is written."""

    title: str
    about: str
    findings: Findings
    references: list[Reference]
    command: str
    """that made this report"""
    experiment: str = ""
    """the experiment's file"""

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
        findings, references = self.findings, self.references
        sections = sections_of(findings, references, self.command, self.experiment)
        for section in sections:
            if section.charts:
                picture = folder / section.picture
                save_png(picture, section.charts, section.lines, section.dashed)
        write_json(folder / "report.json", self.as_dict())
        for kind in ("md", "html"):
            write_atomic(folder / f"report.{kind}", self._laid_out(kind, sections))

    def _laid_out(self, kind: str, sections: list[Section]) -> str:
        environment = template_environment("nanogpkant.comparison", is_html=kind == "html")
        environment.filters["svg"] = to_svg
        environment.filters["markdown"] = _for_markdown
        environment.filters["colour"] = colour_of
        return environment.get_template(f"report.{kind}.jinja").render(
            report=self, sections=sections
        )


def _for_markdown(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())
