"""nanogpkant: train, compare and look inside GPT language models made of KAN layers."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanogpkant.kan import BSpline, KANLinear, kan_linear

__version__ = version("nanogpkant")
__all__ = ["BSpline", "KANLinear", "__version__", "kan_linear"]


def __getattr__(name: str) -> Any:
    """Import the layer when it is first asked for: it brings torch, which --help can do without."""
    if name in __all__:
        return getattr(import_module("nanogpkant.kan"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
