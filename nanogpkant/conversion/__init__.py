"""Start a model from another one's weights: a GPT-2's or a run's, with KAN layers where wanted.

``open_source`` opens a run or a GPT-2, ``build`` makes a model that computes the same function, and
``convert`` writes that model as a run. ``start_from`` serves ``train.init_from``, and the module
``formulas`` ``train.from_formulas``.
"""

from nanogpkant.conversion.run import convert, starting_config
from nanogpkant.conversion.source import ModelSource, open_source
from nanogpkant.conversion.start import build, start_from

__all__ = ["ModelSource", "build", "convert", "open_source", "start_from", "starting_config"]
