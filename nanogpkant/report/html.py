"""Templates of pages and Markdown."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def template_environment(package: str, is_html: bool = True) -> Environment:
    """The templates of a package: unknown names are errors, and values cannot become markup."""
    return Environment(
        loader=PackageLoader(package),
        autoescape=is_html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
