"""Looking inside a trained KAN: its curves, their importance, and formulas tested by the loss.

    from nanogpkant.interpretation import Interpretation, figures, write

    interpretation = Interpretation("quickstart_kan")
    interpretation.edges.head(20)             # the most important edges, with their formulas
    interpretation.totals                     # the loss with all edges replaced, and its controls
    dict(figures(interpretation))["atlas"]    # a matplotlib figure
    write(interpretation)                     # everything, into runs/quickstart_kan/interpret

``interpretation`` runs the stages: ``observe`` a model's inputs and curves, ``fit`` formulas,
``judge`` them by the loss, ``show`` pictures, tables and the page.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nanogpkant.base.errors import UserError

if TYPE_CHECKING:
    from nanogpkant.interpretation.interpretation import Interpretation
    from nanogpkant.interpretation.module import ModuleInterpretation
    from nanogpkant.interpretation.show.distance import draw_curves, formula_lines
    from nanogpkant.interpretation.show.export import write_export
    from nanogpkant.interpretation.show.report import figures, write
    from nanogpkant.interpretation.show.summary import summary, words

__all__ = ["Interpretation", "ModuleInterpretation", "draw_curves", "figures", "formula_lines"]
__all__ += ["summary", "words", "write", "write_export"]

_MODULES = {  # others: "show.report"
    "Interpretation": "interpretation",
    "ModuleInterpretation": "module",
    "draw_curves": "show.distance",
    "formula_lines": "show.distance",
    "summary": "show.summary",
    "words": "show.summary",
    "write_export": "show.export",
}
_EXTRA = ("jinja2", "matplotlib", "pandas", "pyarrow", "scipy", "sklearn", "sympy")


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: torch is slow to load.

    Raises:
        UserError: a package of the extra ``interpret`` is not installed.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'show.report')}"), name)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in _EXTRA:
            raise
        remedy = "pip install 'nanogpkant[interpret]'"
        raise UserError(f"interpret needs {package}, which is not installed: {remedy}") from error
