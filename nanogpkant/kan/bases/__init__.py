"""The registry of bases. Nothing here imports torch: a configuration reads it for ``--help``.

A new basis is one file in this folder and one entry in ``BASES``. ``base.py`` says what the file
must define. Configuration, command line, model, benchmarks and tests read the registry.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One basis of the registry."""

    source: str
    """file in this folder and name of the class or function there, such as "rbf:RBF\""""
    settings: dict[str, str] = field(default_factory=dict)
    """{argument of the basis: field of ``KANConfig`` that it takes}"""
    must_be_shared: bool = False
    """its functions are not linear in their parameters, so that no edge can have its own"""
    has_grid: bool = False
    """it makes B-splines, whose grid can be updated and refined"""


SPLINES = {"grid_size": "grid_size", "grid_range": "grid_range", "outside": "outside"}
BASES: dict[str, Entry] = {
    "bspline": Entry("bspline:BSpline", SPLINES | {"order": "spline_order"}, has_grid=True),
    "hat": Entry("hat:hat", SPLINES, has_grid=True),
    "rbf": Entry("rbf:RBF", {"grid_size": "grid_size", "grid_range": "grid_range"}),
    "chebyshev": Entry("chebyshev:Chebyshev", {"degree": "degree"}),
    "fourier": Entry("fourier:Fourier", {"frequencies": "degree"}),
    "rational": Entry("rational:Rational", {"degree": "degree"}, must_be_shared=True),
    "line": Entry("line:Line", must_be_shared=True),
}


def load_basis(name: str) -> Any:
    """The class of a basis, or the function that makes one.

    Raises:
        KeyError: no such basis.
    """
    file, _, attribute = BASES[name].source.partition(":")
    return getattr(import_module(f"{__name__}.{file}"), attribute)


def make_basis(name: str, settings: Mapping[str, Any]) -> Any:
    """A basis from the fields of a KAN configuration; missing fields take the basis's defaults.

    Raises:
        KeyError: no such basis.
        ValueError: settings out of range.
    """
    wanted = BASES[name].settings.items()
    return load_basis(name)(
        **{argument: settings[key] for argument, key in wanted if key in settings}
    )


def parse_share(share: str) -> tuple[str, int]:
    """The kind of a ``share`` setting and its number, 0 where it has none.

    Args:
        share: "edge" (every edge has its own functions), "input" (all edges of an input share one),
            "group:G" (each of G groups of inputs shares one) or "atoms:K" (all edges share K).

    Raises:
        ValueError: another text.
    """
    kind, _, number = share.partition(":")
    if share in ("edge", "input"):
        return share, 0
    if kind in ("group", "atoms") and number.isascii() and number.isdigit() and int(number) > 0:
        return kind, int(number)
    raise ValueError(f"share is {share!r}; it must be edge, input, group:G or atoms:K")
