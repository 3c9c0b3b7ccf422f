"""The code of a model of transformers with KAN layers; ``bundle`` makes a folder's file from it.

KAN layers run in plain torch, so that torch and transformers are all that is needed.
"""

import sys
from pathlib import Path
from typing import Any

from nanogpkant.conversion.pretrained_model import KANModel  # noqa: F401 - it is what is wanted
from nanogpkant.share.modeling_nanogpkant import BACKENDS, load_basis, run  # noqa: F401


def code_of(model_class: Any) -> str:
    """This file."""
    return Path(str(sys.modules[model_class.__module__].__file__)).read_text(encoding="utf-8")
