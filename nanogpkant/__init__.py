"""nanogpkant: train, compare and look inside GPT language models made of KAN layers.

    import nanogpkant as ng

    layer = ng.KANLinear(64, 32)                          # in place of torch.nn.Linear
    model = ng.load("pretrained:shakespeare-mini-kan")    # or a run of yours
    print(model.generate("ROMEO:", tokens=200))

Every command of the shell is a function here, with the same names and defaults:
``ng.train("quickstart_kan")`` is ``nanogpkant train quickstart_kan``. Names are imported when they
are first used: ``import nanogpkant`` alone does not load torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanogpkant.kan import BASES, KANLinear, kan_linear
    from nanogpkant.model.gpt import GPT
    from nanogpkant.verbs.compare import compare, experiment, search
    from nanogpkant.verbs.convert import convert
    from nanogpkant.verbs.interpret import interpret, prune
    from nanogpkant.verbs.load import load
    from nanogpkant.verbs.measure import bench, match, plan
    from nanogpkant.verbs.prepare import prepare
    from nanogpkant.verbs.runs import info, presets, runs
    from nanogpkant.verbs.share import export, pull, push
    from nanogpkant.verbs.train import track, train
    from nanogpkant.verbs.use import evaluate, sample

__version__ = version("nanogpkant")

# Where each name lives.
_NAMES = {
    "kan": ("KANLinear", "kan_linear"),
    "model.gpt": ("GPT",),
    "verbs.compare": ("compare", "experiment", "search"),
    "verbs.convert": ("convert",),
    "verbs.interpret": ("interpret", "prune"),
    "verbs.load": ("load",),
    "verbs.measure": ("bench", "match", "plan"),
    "verbs.prepare": ("prepare",),
    "verbs.runs": ("info", "presets", "runs"),
    "verbs.share": ("export", "pull", "push"),
    "verbs.train": ("track", "train"),
    "verbs.use": ("evaluate", "sample"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
