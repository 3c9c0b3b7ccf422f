"""Looking inside a trained KAN: what its edges are, which matter, and whether formulas say it all.

from nanogpkant.interpret import Interpretation, figures, write

look = Interpretation("runs/quickstart_kan")
look.edges.head(20)             # the most important edges, with their formulas
look.totals                     # the loss with all edges replaced, and its controls
dict(figures(look))["atlas"]    # a matplotlib figure
write(look)                     # everything, into runs/quickstart_kan/interpret
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanogpkant.interpret.interpretation import Interpretation
    from nanogpkant.interpret.report import figures, summary, words, write

__all__ = ["Interpretation", "figures", "summary", "words", "write"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: it brings torch, which --help can do without."""
    if name in __all__:
        module = "interpretation" if name == "Interpretation" else "report"
        return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
