"""Formulas of the functions of a page, by the same fit as interpret's."""

import torch
from torch import Tensor

from nanogpkant.interpretation.fit.distance import fit_curve, with_values
from nanogpkant.interpretation.fit.formulas import fit
from nanogpkant.kan.curve import DistanceCurve

Found = tuple[Tensor, list[str], list[float]]
"""(functions, points) values, the text of each formula, and its R²"""


def of_functions(at: Tensor, weight: Tensor, curves: Tensor, x: Tensor) -> Found:
    """Formulas of some functions.

    Args:
        at: (P, G) points.
        weight: (P, G), of the squared errors.
        curves: (P, M, G) values of M functions for each of G inputs.
        x: (samples, G), where the values are wanted.
    """
    fits = fit(at, weight, curves)
    values = fits.evaluate(x.double()).permute(1, 2, 0).flatten(0, 1)  # (M * G, samples)
    return values.float(), list(fits.table()["formula"]), fits.r2.flatten().tolist()


def of_curve(name: str, curve: DistanceCurve) -> Found:
    """Formulas of the heads of a curve of distance, in d."""
    found = with_values(name, curve, fit_curve(name, curve, None))
    return found.formulas, list(found.table()["formula"]), torch.nan_to_num(found.r2).tolist()
