"""kan_linear: the one public operation of a KAN layer. It checks shapes and picks a backend."""

import torch
from torch import Tensor

from nanogpkant.kan.backends import recompute, reference
from nanogpkant.kan.basis import BASE_FUNCTIONS, Basis, feature_count

BACKENDS = {"reference": reference.forward, "recompute": recompute.forward}


def kan_linear(
    x: Tensor,
    weight: Tensor,
    basis: Basis,
    base: str = "silu",
    bias: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Apply m * n learned functions: y_j = bias_j + sum_i sum_m weight[j, m, i] * feature_m(x_i).

    Args:
        x: (..., n), floating point.
        weight: (out, M, n): the coefficient of the base function (where there is one) and of each
            function of the basis, for every edge.
        basis: what the features are.
        base: name of the base function, a key of ``BASE_FUNCTIONS``.
        bias: (out,), optional.
        backend: "reference" (writes out all features), "recompute" (saves only x and works in
            chunks), or "auto", which is "recompute".

    Returns:
        (..., out), in autocast's dtype where autocast is on for x's device, else in x's dtype.

    Raises:
        ValueError: an unknown base or backend, or shapes that do not fit.
        TypeError: x is not floating point.
    """
    if base not in BASE_FUNCTIONS:
        raise ValueError(f"base is {base!r}; known are {', '.join(BASE_FUNCTIONS)}")
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend is {backend!r}; known are auto, {', '.join(BACKENDS)}")
    if not x.is_floating_point():
        raise TypeError(f"x is {x.dtype}; a KAN layer takes floating-point inputs")
    expected = (weight.shape[0], feature_count(basis, base), x.shape[-1])
    if weight.shape != expected:
        raise ValueError(f"weight is {tuple(weight.shape)}; x and the basis need {expected}")

    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    run = BACKENDS["recompute" if backend == "auto" else backend]
    with torch.autocast(device, enabled=False):  # each backend casts at the place that it chose
        y = run(x.reshape(-1, x.shape[-1]), weight, basis, base, dtype)
        y = y.view(*x.shape[:-1], weight.shape[0])
        return y if bias is None else y + bias.to(dtype)
