"""nanogpkant: train, compare and look inside GPT language models made of KAN layers.

    import nanogpkant as ng

    layer = ng.KANLinear(64, 32)                          # in place of torch.nn.Linear
    model = ng.load("pretrained:shakespeare-mini-kan")    # or a run of yours
    print(model.generate("ROMEO:", tokens=200))

Every command of the shell is a function here, with the same names and defaults:
``ng.train("quickstart_kan")`` is ``nanogpkant train quickstart_kan``. Names are imported when they
are first used: ``import nanogpkant`` alone does not load torch.
"""

import os
from importlib.metadata import version

import lazy_loader

# Before torch loads OpenMP. Its threads wait for each other by spinning, by default for so long
# that a busy machine runs those that wait instead of those that work: see dev/LOG.md. Some 30
# microseconds of it lose no time on a free machine.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# __init__.pyi lists the names and where they live.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("nanogpkant")
