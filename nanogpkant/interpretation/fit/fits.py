"""The formulas of a layer's edges: the result of ``formulas.fit``.

m outputs, n inputs, G points.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nanogpkant.interpretation.fit.families import (
    COMPLEXITIES,
    FAMILIES,
    LINE,
    NAMES,
    OPTIONS,
    POLYNOMIALS,
)
from nanogpkant.interpretation.store import have_shapes

AT_ONCE = 1 << 15  # terms evaluated at a time
DIGITS = 4  # of numbers in the text of a formula; the table has full precision
WRITTEN = {"cube": "*({z})^3", "reciprocal": "/({z})", "x*sin": "*({z})*sin({z})"}
"""text of a family's function after its amplitude, where it is not a call of the family's name"""


@dataclass(frozen=True)
class Formulas:
    """One formula for every edge.

    With u = (x - middle) / half it is the polynomial of ``coefficients`` in u, and for each of two
    terms amplitude * f(rate * u + offset). It holds for u in [-1, 1] and is constant beyond.
    """

    middle: Tensor  # (n,)
    half: Tensor  # (n,)
    coefficients: Tensor  # (m, n, 6) of 1, u, ..., u^5
    families: Tensor  # (m, n, 2) uint8: 0 for no term, else 1 + index in FAMILIES
    amplitudes: Tensor  # (m, n, 2)
    shapes: Tensor  # (m, n, 2, 2) rates and offsets

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> Tensor:
        """The formula of every edge, accepted or not: (G, n) -> (G, m, n), in x's dtype."""
        middle, half, families = (t.to(x.device) for t in (self.middle, self.half, self.families))
        u = ((x - middle) / half).clamp(-1, 1).T  # (n, G)
        m, n, degrees = self.coefficients.shape
        powers = torch.stack([u**k for k in range(degrees)], dim=1)  # (n, 6, G)
        values = self.coefficients.to(u).transpose(0, 1) @ powers  # (n, m, G)
        rows = values.view(n * m, -1)
        families, amplitudes, shapes = (
            each.transpose(0, 1).flatten(0, 1)  # (n * m, 2, ...)
            for each in (families, self.amplitudes.to(u), self.shapes.to(u))
        )
        for number, family in enumerate(FAMILIES):
            edges, terms = (families == number + 1).nonzero(as_tuple=True)
            for edge, term in zip(edges.split(AT_ONCE), terms.split(AT_ONCE), strict=True):
                rate, offset = shapes[edge, term].unbind(1)
                z = torch.addcmul(offset[:, None], rate[:, None], u[edge // m])
                rows.index_add_(0, edge, family.value(z) * amplitudes[edge, term][:, None])
        return values.permute(2, 1, 0)


@dataclass(frozen=True)
class Fits(Formulas):
    """The formulas of a layer, and how good they are."""

    option: Tensor  # (m, n) uint8: index in OPTIONS
    r2: Tensor  # (m, n) explained share of the edge's variance; 1 for a flat edge
    max_error: Tensor  # (m, n) largest at a point, in standard deviations of the edge
    complexity: Tensor  # (m, n) uint8: numbers and functions in the formula
    aicc: Tensor  # (m, n) corrected Akaike information criterion over the points
    accepted: Tensor
    """(m, n) bool: the formula may replace the edge, which otherwise stays a spline"""
    runner_up: Tensor
    """(m, n) uint8: best other option of no greater complexity; the option itself if none"""
    margin: Tensor  # (m, n) lead in R² over the runner-up; infinite if there is none
    front: Tensor  # (m, n, COMPLEXITIES) float16: least 1 - R² at each complexity, from 1
    front_options: Tensor  # (m, n, COMPLEXITIES) uint8: the option with that error

    def is_of(self, n_in: int, n_out: int) -> bool:
        """Whether it can be of a layer of these sizes."""
        alone = "option", "r2", "max_error", "complexity", "aicc", "accepted", "runner_up", "margin"
        more = {"coefficients": 6, "families": 2, "amplitudes": 2, "front": COMPLEXITIES}
        shapes = {"middle": (n_in,), "half": (n_in,), "shapes": (n_out, n_in, 2, 2)}
        shapes |= dict.fromkeys(alone, (n_out, n_in))
        shapes |= {name: (n_out, n_in, size) for name, size in more.items()}
        shapes["front_options"] = shapes["front"]
        numbers = [self.option, self.runner_up, self.front_options]
        return have_shapes(self, shapes) and all(int(each.max()) < len(OPTIONS) for each in numbers)

    def pareto(self, output: int, input: int) -> list[tuple[int, str, float]]:
        """Pareto front of an edge: (complexity, option, R²), each better than all simpler ones."""
        found, best = [], np.inf
        errors, options = self.front[output, input].tolist(), self.front_options[output, input]
        for complexity, (error, option) in enumerate(zip(errors, options, strict=True), start=1):
            if error < best:
                found.append((complexity, OPTIONS[option], 1 - error))
                best = error
        return found

    def table(self) -> pd.DataFrame:
        """A row for every edge.

        With t = x - middle its formula is p0 + p1*t + ... + p5*t^5 + a*f(b*x + c) + a2*f2(b2*x +
        c2), for x in [low, high]; ``term`` and ``term2`` are f and f2, empty if absent.
        ``formula`` is the same as text with 4 digits. ``family`` is "spline" for edges whose
        formula is not accepted, ``best`` always names the formula.
        """
        output, input = (part.ravel() for part in np.indices(self.r2.shape))
        middle, half = (part.double().numpy()[input] for part in (self.middle, self.half))
        columns = {"middle": middle, "low": middle - half, "high": middle + half}
        for k, p in enumerate(self.coefficients.double().flatten(0, 1).numpy().T):
            columns[f"p{k}"] = p / half**k
        names, options = np.array(["", *NAMES], dtype=object), np.array(OPTIONS, dtype=object)
        for t, end in enumerate(("", "2")):
            columns[f"term{end}"] = names[self.families[..., t].numpy().ravel()]
            rate, offset = self.shapes[:, :, t].double().flatten(0, 1).numpy().T
            columns[f"a{end}"] = self.amplitudes[..., t].double().numpy().ravel()
            columns[f"b{end}"] = rate / half
            columns[f"c{end}"] = offset - rate * middle / half
        best = options[self.option.numpy().ravel()]
        two = columns["term2"] != ""
        best[two] = columns["term"][two] + " + " + columns["term2"][two] + LINE
        kept = ("r2", "max_error", "complexity", "aicc", "runner_up", "margin", "accepted")
        measured = {name: getattr(self, name).numpy().ravel() for name in kept}
        family = np.where(measured["accepted"], best, "spline")
        runner_up = options[measured["runner_up"]]
        measured["runner_up"] = np.where(np.isfinite(measured["margin"]), runner_up, "")
        edges = {"output": output, "input": input, "family": family, "formula": _texts(columns)}
        return pd.DataFrame(edges | measured | {"best": best} | columns)


def _texts(columns: dict[str, np.ndarray]) -> list[str]:
    """The formulas as plain text, from the columns of ``Fits.table``."""
    powers = np.stack([columns[f"p{k}"] for k in range(len(POLYNOMIALS))], axis=1)
    is_line = ~powers[:, 2:].any(axis=1)
    # A line is written in x itself; higher powers of x - middle would lose digits.
    powers[is_line, 0] -= powers[is_line, 1] * columns["middle"][is_line]
    middle = np.where(is_line, 0, columns["middle"])
    terms = [columns[name] for name in ("term", "a", "b", "c", "term2", "a2", "b2", "c2")]
    rows = zip(powers.tolist(), middle.tolist(), *(each.tolist() for each in terms), strict=True)
    return [_text(*row) for row in rows]


def _text(powers: list[float], middle: float, *terms: Any) -> str:
    t = f"(x{signed(-middle)})" if middle else "x"
    text = ""
    for k, p in enumerate(powers):
        if p:
            text += signed(p) + ("" if k == 0 else f"*{t}" if k == 1 else f"*{t}^{k}")
    for name, a, b, c in (terms[:4], terms[4:]):
        if name:
            z = f"{b:.{DIGITS}g}*x" + (signed(c) if c else "")
            text += signed(a) + WRITTEN.get(name, f"*{name}({{z}})").format(z=z)
    text = text or " + 0"
    return text[3:] if text.startswith(" + ") else "-" + text[3:]


def signed(value: float, digits: int = DIGITS) -> str:
    """A number as the next summand of a formula."""
    return f" {'-' if value < 0 else '+'} {abs(value):.{digits}g}"
