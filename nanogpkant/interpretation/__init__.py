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

from nanogpkant.base.errors import from_extra

if TYPE_CHECKING:
    from nanogpkant.interpretation.interpretation import Interpretation
    from nanogpkant.interpretation.module import ModuleInterpretation
    from nanogpkant.interpretation.show.distance import formula_lines
    from nanogpkant.interpretation.show.export import write_export
    from nanogpkant.interpretation.show.report import figures, write
    from nanogpkant.interpretation.show.summary import summary, words

__all__ = ["Interpretation", "ModuleInterpretation", "figures", "formula_lines"]
__all__ += ["summary", "words", "write", "write_export"]

_MODULES = {  # others: "show.report"
    "Interpretation": "interpretation",
    "ModuleInterpretation": "module",
    "formula_lines": "show.distance",
    "summary": "show.summary",
    "words": "show.summary",
    "write_export": "show.export",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: torch is slow to load.

    Raises:
        UserError: a package of the extra ``interpret`` is not installed.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with from_extra("interpret", "interpret"):
        return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'show.report')}"), name)
