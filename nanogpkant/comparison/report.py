"""The report of a comparison: HTML that opens offline, Markdown, JSON and the charts as PNG."""

from pathlib import Path
from typing import Any

from nanogpkant.base.files import write_atomic, write_json
from nanogpkant.comparison.declared import Verdict
from nanogpkant.comparison.experiment import Experiment
from nanogpkant.comparison.findings import Findings
from nanogpkant.comparison.references import Reference
from nanogpkant.comparison.sections import sections_of
from nanogpkant.report.charts import save_png
from nanogpkant.report.html import as_html, as_markdown


def write_report(
    folder: Path,
    findings: Findings,
    references: list[Reference],
    title: str,
    command: str,
    experiment: Experiment | None,
    declared: list[Verdict],
) -> dict[str, Any]:
    """Write report.json, report.md, report.html and the pictures.

    Args:
        title: heading of the report.
        command: that made this report.
        experiment: whose runs these are, if there is one.
        declared: verdicts on its declared comparisons.

    Returns:
        the content of report.json.

    Raises:
        UserError: a file cannot be written.
    """
    about, text = (experiment.about, experiment.text) if experiment else ("", "")
    found = {
        "title": title,
        "about": about,
        "command": command,
        **findings.as_dict(),
        "references": [{"name": each.name, "source": each.source} for each in references],
        "experiment": text,
        "declared": [verdict.as_dict() for verdict in declared],
    }
    sections = sections_of(findings, references, command, text, declared)
    for section in sections:
        if section.charts:
            save_png(folder / section.picture, section.charts, section.lines, section.dashed)
    write_json(folder / "report.json", found)
    colours = {variant.name: variant.number for variant in findings.variants}
    write_atomic(folder / "report.md", as_markdown(title, about, sections))
    write_atomic(folder / "report.html", as_html(title, about, sections, colours=colours))
    return found
