"""nanogpkant: train, compare and look inside GPT language models made of KAN layers.

    import nanogpkant as ng

    layer = ng.KANLinear(64, 32)                          # in place of torch.nn.Linear
    model = ng.load("pretrained:shakespeare-mini-kan")    # or a run of yours
    print(model.generate("ROMEO:", tokens=200))

Every command of the shell is a function here, with the same names and defaults:
``ng.train("quickstart_kan")`` is ``nanogpkant train quickstart_kan``. Names are imported when they
are first used: ``import nanogpkant`` alone does not load torch.
"""

from importlib.metadata import version

import lazy_loader

# __init__.pyi lists the names and where they live.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("nanogpkant")
