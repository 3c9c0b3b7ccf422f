"""Sections as files: one HTML page that opens offline, or Markdown."""

from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from nanogpkant.base.escape import markdown
from nanogpkant.report.charts import colour_of, to_svg
from nanogpkant.report.section import Section


def render(
    title: str,
    about: str,
    sections: Sequence[Section],
    template: str = "page.html.jinja",
    package: str | None = None,
    filters: dict[str, Callable[..., Any]] | None = None,
) -> str:
    """A report as text.

    Args:
        title, about: heading of the report, and the line below it (may be empty).
        template: ``page.html.jinja``, ``page.md.jinja``, or a template of ``package``; values are
            escaped in ``.html.jinja``.
        package: package whose templates extend those of this one.
        filters: further filters for ``template``, by name.
    """
    packages = [package] if package else []
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(each) for each in [*packages, __package__]]),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"svg": to_svg, "colour": colour_of, "markdown": markdown}
    environment.filters |= filters or {}
    return environment.get_template(template).render(title=title, about=about, sections=sections)
