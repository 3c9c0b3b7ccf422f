"""Sections as files: one HTML page that opens offline, or Markdown."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from nanogpkant.base.escape import markdown, source_hash
from nanogpkant.report.charts import to_svg
from nanogpkant.report.section import Section
from nanogpkant.report.theme import STYLE, colour_of

TEMPLATES = Path(__file__).parent / "templates"


def as_html(
    title: str,
    about: str,
    sections: Sequence[Section],
    *,
    colours: Mapping[str, int] | None = None,
    filters: Mapping[str, Sequence[str]] | None = None,
    links: Mapping[str, str] | None = None,
    first_sort: str = "ascending",
) -> str:
    """A report as a page that needs no other file and may ask nothing of a network.

    Args:
        title, about: heading of the report, and the line below it (may be empty).
        colours: numbers of the models' colours, by the name that tables have in their first cell.
        filters: what cards and rows can be chosen by, beside search: values by column.
        links: addresses of other pages, by their words.
        first_sort: order of a column after the first click on its heading.
    """
    style = STYLE + (TEMPLATES / "page.css").read_text(encoding="utf-8")
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {source_hash(script)}; style-src-attr 'unsafe-inline'; "
        f"style-src-elem {source_hash(style)}; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return _render(
        "page.html.jinja",
        title=title,
        about=about,
        sections=sections,
        colours=colours or {},
        filters=filters or {},
        links=links or {},
        first_sort=first_sort,
        policy=policy,
        style=style,
        script=script,
    )


def as_markdown(title: str, about: str, sections: Sequence[Section]) -> str:
    """A report as Markdown, without its cards and maps."""
    return _render("page.md.jinja", title=title, about=about, sections=sections)


def anchor(title: str) -> str:
    """A section's name in an address."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _render(template: str, **values: Any) -> str:
    """A template's text; values are escaped in ``.html.jinja``."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"svg": to_svg, "colour": colour_of, "markdown": markdown}
    environment.filters |= {"anchor": anchor}
    return environment.get_template(template).render(values)
