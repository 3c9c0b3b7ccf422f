"""Formulas of curves of distance.

A head's curve is fitted twice, in the distance d and in log2(1 + d), and the simpler of two
formulas about equally good is taken. So all that the field uses is tried: a line in d (ALiBi, arXiv
2108.12409), a line in log2(1 + d) and a power of 1 + d (KERPLE, arXiv 2205.09921), exponential
decay (an exponential of d), and a constant.

Distances are weighted as the curve itself attends to them: a softmax with a small error in its
scores moves by half the variance of that error under its probabilities. Weighted as often as they
occur in a block instead, formulas of a small model cost 40 times the loss, for most attention goes
to a few near tokens.

H heads, L distances.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nanogpkant.interpretation.fit.fits import Fits, signed
from nanogpkant.interpretation.fit.formulas import ACCEPTED, fit, simplest
from nanogpkant.kan.curve import DistanceCurve

SCALES = ("d", "log2(1 + d)")
LAWS = {
    ("constant", "d"): "the same at every distance",
    ("line", "d"): "a line in d, as ALiBi's",
    ("line", "log2(1 + d)"): "a line in log2(1 + d)",
    ("exp", "d"): "an exponential of d",
    ("exp", "log2(1 + d)"): "a power of 1 + d",
}
"""what the field uses, by option and scale"""
POINTS = 64  # that a curve of fewer distances is fitted at


@dataclass(frozen=True)
class CurveFits:
    """The formulas of the heads of a curve."""

    values: Tensor  # (H, L) at distances 0 to L - 1
    share: Tensor  # (H, L) weights of the distances, which sum to 1
    fits: Fits  # of one output, and two inputs a head: one on each of the SCALES

    @cached_property
    def chosen(self) -> Tensor:
        """(H,) the scale of each head's formula: index in SCALES."""
        error = (1 - self.fits.r2).view(-1, 2)
        return simplest(error, self.fits.complexity.view(-1, 2) + error)

    @cached_property
    def formulas(self) -> Tensor:
        """(H, L) values of the formulas."""
        heads, count = self.values.shape
        distance = torch.arange(count, dtype=torch.float64)
        both = self.fits.evaluate(on_scales(distance, heads))[:, 0].view(count, heads, 2)
        return both[:, torch.arange(heads), self.chosen].T.float()

    @cached_property
    def rms(self) -> Tensor:
        """(H,) root mean square error of the formulas, in units of the curve."""
        return self._mean((self.formulas - self.values).square()).sqrt()

    @cached_property
    def r2(self) -> Tensor:
        """(H,) explained share of each curve's variance; 1 for a flat curve."""
        away = self.values - self._mean(self.values)[:, None]
        left = self.rms.square() / self._mean(away.square()).clamp(min=1e-12)
        return 1 - left.where(~self.fits.r2.eq(1).view(-1, 2).all(1), 0.0)

    def replacements(self, start: Tensor) -> dict[str, Tensor]:
        """(H, L) values in place of the curves, by name; ``start`` is what they began as."""
        distance = torch.arange(self.values.shape[1]).expand_as(self.values)
        away = distance - self._mean(distance)[:, None]
        mean = self._mean(self.values)[:, None].expand_as(self.values)
        slope = self._mean(self.values * away) / self._mean(away.square())
        accepted = (self.r2 >= 1 - ACCEPTED)[:, None]
        return {
            "formula": self.formulas,
            "formula where it fits": torch.where(accepted, self.formulas, self.values),
            "line": mean + slope[:, None] * away,
            "mean": mean,
            "start": start.to(self.values),
        }

    def table(self) -> pd.DataFrame:
        """A row for every head: verdict, formula, errors, then the numbers of ``Fits.table``.

        There x is d or log2(1 + d), as ``scale`` says. ``rms`` is in units of the curve: of
        attention scores.
        """
        heads, chosen = np.arange(len(self.values)), self.chosen.numpy()
        rows = self.fits.table().set_index("input").loc[2 * heads + chosen].reset_index(drop=True)
        rows["head"], rows["scale"] = heads, np.array(SCALES, dtype=object)[chosen]
        rows["r2"], rows["rms"] = self.r2.numpy(), self.rms.numpy()
        rows["accepted"] = rows["r2"] >= 1 - ACCEPTED
        records = rows.to_dict("records")
        rows["formula"], rows["verdict"] = list(map(_text, records)), list(map(_verdict, records))
        first = ["head", "verdict", "formula", "r2", "rms", "accepted", "scale"]
        return rows[first + [c for c in rows if c not in (*first, "output", "family", "max_error")]]

    def _mean(self, values: Tensor) -> Tensor:
        """(H, L) -> (H,)."""
        return (values * self.share).sum(1)


def on_scales(distance: Tensor, heads: int) -> Tensor:
    """(L,) -> (L, 2 * heads)."""
    return torch.stack([distance, torch.log2(1 + distance)], dim=1).repeat(1, heads)


@torch.no_grad()
def values_of(curve: DistanceCurve, distance: Tensor) -> Tensor:
    """(L,) distances, whole or not -> (H, L), float32 on the CPU."""
    return curve.of(distance.to(curve.weight.device)).float().cpu()


def start_of(curve: DistanceCurve) -> Tensor:
    """(H, L) values before training; of a curve that does not learn, its own."""
    distance = torch.arange(curve.initial.shape[1])
    return curve.initial if curve.weight.requires_grad else values_of(curve, distance)


def attended(scores: Tensor) -> Tensor:
    """(H, L) scores by distance -> share of a block's attention that goes there, if all were equal.

    Token i attends to distances 0 to i; the mean over all tokens of a block.
    """
    power = (scores - scores.amax(1, keepdim=True)).double().exp()
    totals = power.cumsum(1)  # of each token
    share = power * (1 / totals).flip(1).cumsum(1).flip(1) / scores.shape[1]
    return share.to(scores)


def weights_of(name: str, values: Tensor) -> Tensor:
    """(H, L) values of a curve -> weights of the distances; lags of a convolution weigh alike."""
    is_lag = name.endswith("kernel")
    return torch.full_like(values, 1 / values.shape[1]) if is_lag else attended(values)


def fit_curve(name: str, curve: DistanceCurve, families: Sequence[str] | None) -> Fits:
    """Fit formulas to the heads of a curve, of this name in the model.

    Returns:
        fits of one output and two inputs a head: see ``CurveFits``.

    Raises:
        UserError: weights that are not finite.
    """
    count = curve.initial.shape[1]
    distance = torch.linspace(0, count - 1, max(count, POINTS))
    values = values_of(curve, distance)
    both, share = (x.T.repeat_interleave(2, 1) for x in (values, weights_of(name, values)))
    return fit(on_scales(distance, len(values)), share, both[:, None].contiguous(), families)


def with_values(name: str, curve: DistanceCurve, fits: Fits) -> CurveFits:
    """Fits beside the curve that they are of."""
    values = values_of(curve, torch.arange(curve.initial.shape[1]))
    return CurveFits(values, weights_of(name, values), fits)


def _text(row: dict[str, Any]) -> str:
    """A formula in d; an exponential of log2(1 + d) is written as the power that it is."""
    if (row["best"], row["scale"]) == ("exp", SCALES[1]):
        power = signed(row["a"] * math.exp(row["c"])) + f"*(1 + d)^{row['b'] / math.log(2):.4g}"
        return (signed(row["p0"]) + power).removeprefix(" + ").strip()
    text, times = re.subn(r"\bx\b", row["scale"], row["formula"])
    if times > 1 and row["scale"] == SCALES[1]:
        return f"{text.replace(SCALES[1], 's')}, s = {SCALES[1]}"
    return text


def _verdict(row: dict[str, Any]) -> str:
    found = LAWS.get((row["best"], row["scale"]), f"{row['best']} of {row['scale']}")
    return found if row["accepted"] else f"no formula fits; the nearest: {found}"
