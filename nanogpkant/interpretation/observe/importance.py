"""Importance of every edge of a KAN layer, from its values and the gradients at its output.

m outputs, n inputs.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nanogpkant.interpretation.observe.collect import Observed
from nanogpkant.interpretation.observe.curves import points, tabulate, weights
from nanogpkant.kan import KANLinear

if TYPE_CHECKING:  # the playground needs no tables
    import pandas as pd


@torch.no_grad()
def importance(layer: KANLinear, observed: Observed) -> dict[str, Tensor]:
    """Scores (m, n) of every edge, float32 on the CPU: more is more important.

    Returns:
        ``std``: standard deviation of the edge over the observed inputs; ``std_grad``: that times
        the root mean square of the loss's gradient at its output, the added loss to first order;
        ``norm``: norm of the edge's coefficients, independent of the data.
    """
    at = points(observed)
    share, values = weights(observed, at), tabulate(layer, at)
    mean = torch.einsum("gn,gmn->mn", share, values)
    std = torch.einsum("gn,gmn->mn", share, (values - mean).square_()).sqrt()
    norm = layer.effective_weight().float().norm(dim=1).cpu()
    return {"std_grad": std * observed.grad_rms[:, None], "std": std, "norm": norm}


def ends_of_edges(
    scores: dict[str, Tensor], observed: dict[str, Observed]
) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """A table of all inputs and one of all outputs of all layers, the most important first.

    Their importance is the root of the summed squares over their edges. Inputs also have mean,
    standard deviation, 0.1% and 99.9% quantiles and the share outside the grid, outputs the root
    mean square of the loss's gradient.

    Args:
        scores: (m, n) of each layer's edges.
    """
    import pandas as pd

    inputs, outputs = [], []
    for name, score in scores.items():
        seen, power = observed[name], score.double().square()
        known = ("mean", "std", "low", "high", "outside")
        for rows, end, axis, about in (
            (inputs, "input", 0, {key: getattr(seen, key).numpy() for key in known}),
            (outputs, "output", 1, {"grad_rms": seen.grad_rms.numpy()}),
        ):
            total = power.sum(axis).sqrt().numpy()
            at = {"layer": name, end: range(len(total)), "importance": total}
            rows.append(pd.DataFrame(at | about))
    most = {"by": "importance", "ascending": False, "ignore_index": True, "kind": "stable"}
    return tuple(pd.concat(rows).sort_values(**most) for rows in (inputs, outputs))
