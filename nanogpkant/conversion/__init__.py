"""Weights from elsewhere into our models, and a plain model into a KAN with its function kept.

``open_source`` opens a run or a GPT-2, ``build`` makes a model that starts as it, and ``convert``
writes that model as a run. ``start_from`` is what ``train.init_from`` does.
"""

from nanogpkant.conversion.run import convert, starting_config
from nanogpkant.conversion.source import Source, open_source
from nanogpkant.conversion.start import build, start, start_from

__all__ = ["Source", "build", "convert", "open_source", "start", "start_from", "starting_config"]
