"""KAN layers as a library of their own: nothing here imports the rest of the project.

A KAN layer from n inputs to m outputs is m * n learned one-dimensional functions,

    y_j = sum_i phi_ij(x_i),    phi_ij(x) = w_ij0 * base(x) + sum_k w_ijk * B_k(x),

so with the M features [base(x), B_1(x), ..., B_K(x)] of every input it is one matrix product over
n * M packed features. ``bases`` and ``shared`` are the functions, ``features`` the expansion of an
input, ``functional`` is the one operation, ``backends`` run it, and ``layer`` is the module.

Names are imported when first used, so that the registry of bases can be read without torch.
"""

from typing import Any

import lazy_loader

from nanogpkant.kan.bases import BASES, load_basis

# __init__.pyi lists the names and where they live.
_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    for basis, entry in BASES.items():  # those of the caller too
        if entry.source.endswith(f":{name}"):
            return load_basis(basis)
    return _load(name)
