"""The report of a comparison: HTML that opens offline, Markdown, JSON and the charts as PNG."""

from pathlib import Path
from typing import Any

from nanogpkant.base.files import write_atomic, write_json
from nanogpkant.comparison.findings import Findings
from nanogpkant.comparison.references import Reference
from nanogpkant.comparison.sections import sections_of
from nanogpkant.report.charts import save_png
from nanogpkant.report.html import render


def write_report(
    folder: Path,
    findings: Findings,
    references: list[Reference],
    title: str,
    about: str,
    command: str,
    experiment: str,
) -> dict[str, Any]:
    """Write report.json, report.md, report.html and the pictures.

    Args:
        title, about: heading of the report, and the line below it.
        command: that made this report.
        experiment: text of the experiment's file; may be empty.

    Returns:
        the content of report.json.

    Raises:
        UserError: a file cannot be written.
    """
    found = {
        "title": title,
        "about": about,
        "command": command,
        **findings.as_dict(),
        "references": [{"name": each.name, "source": each.source} for each in references],
        "experiment": experiment,
    }
    sections = sections_of(findings, references, command, experiment)
    for section in sections:
        if section.charts:
            save_png(folder / section.picture, section.charts, section.lines, section.dashed)
    write_json(folder / "report.json", found)
    for kind in ("md", "html"):
        write_atomic(
            folder / f"report.{kind}", render(title, about, sections, f"page.{kind}.jinja")
        )
    return found
