"""nanogpkant: train, compare and look inside GPT language models made of KAN layers."""

from importlib.metadata import version

from nanogpkant.kan import BSpline, KANLinear

__version__ = version("nanogpkant")
__all__ = ["BSpline", "KANLinear", "__version__"]
