"""The formulas of a layer's edges: the result of ``formulas.fit``.

m outputs, n inputs, G points.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nanogpkant.base.errors import UserError
from nanogpkant.base.files import write_atomic
from nanogpkant.interpretation.fit.families import FAMILIES, LINE, POLYNOMIALS

NAMES = [f.name for f in FAMILIES]
OPTIONS = [*POLYNOMIALS, *NAMES, *(name + LINE for name in NAMES), "two terms"]
"""candidates for every edge; ``Fits.option`` and ``runner_up`` are indices into this list"""
TERMS = len(POLYNOMIALS)  # the first option with a term
TWO = len(OPTIONS) - 1
COMPLEXITIES = 2 * max(f.complexity for f in FAMILIES)
AT_ONCE = 1 << 15  # terms evaluated at a time
DIGITS = 4  # of numbers in the text of a formula; the table has full precision


@dataclass(frozen=True)
class Fits:
    """One formula for every edge.

    With u = (x - middle) / half it is the polynomial of ``coefficients`` in u, and for each of two
    terms amplitude * f(rate * u + offset). It holds for u in [-1, 1] and is constant beyond.
    """

    middle: Tensor
    """(n,)"""
    half: Tensor
    """(n,)"""
    coefficients: Tensor
    """(m, n, 6) of 1, u, ..., u^5"""
    families: Tensor
    """(m, n, 2) uint8: 0 for no term, else 1 + index in FAMILIES"""
    amplitudes: Tensor
    """(m, n, 2)"""
    shapes: Tensor
    """(m, n, 2, 2) rates and offsets"""
    option: Tensor
    """(m, n) uint8: index in OPTIONS"""
    r2: Tensor
    """(m, n) explained share of the edge's variance; 1 for a flat edge"""
    max_error: Tensor
    """(m, n) largest error at a point, in standard deviations of the edge"""
    complexity: Tensor
    """(m, n) uint8: numbers and functions in the formula"""
    aicc: Tensor
    """(m, n) corrected Akaike information criterion over the points"""
    accepted: Tensor
    """(m, n) bool: the formula may replace the edge, which otherwise stays a spline"""
    runner_up: Tensor
    """(m, n) uint8: best other option of no greater complexity; the option itself if none"""
    margin: Tensor
    """(m, n) R² of the formula minus that of the runner-up; infinite if none"""
    front: Tensor
    """(m, n, COMPLEXITIES) float16: least 1 - R² at each complexity, from 1"""
    front_options: Tensor
    """(m, n, COMPLEXITIES) uint8: the option with that error"""

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> Tensor:
        """The formula of every edge, accepted or not: (G, n) -> (G, m, n), in x's dtype."""
        u = ((x - self.middle) / self.half).clamp(-1, 1).T  # (n, G)
        m, n, degrees = self.coefficients.shape
        powers = torch.stack([u**k for k in range(degrees)], dim=1)  # (n, 6, G)
        values = self.coefficients.to(u).transpose(0, 1) @ powers  # (n, m, G)
        rows = values.view(n * m, -1)
        families = self.families.transpose(0, 1).flatten(0, 1)  # (n * m, 2)
        amplitudes = self.amplitudes.to(u).transpose(0, 1).flatten(0, 1)
        shapes = self.shapes.to(u).transpose(0, 1).flatten(0, 1)
        for number, family in enumerate(FAMILIES):
            edges, terms = (families == number + 1).nonzero(as_tuple=True)
            for edge, term in zip(edges.split(AT_ONCE), terms.split(AT_ONCE), strict=True):
                rate, offset = shapes[edge, term].unbind(1)
                z = torch.addcmul(offset[:, None], rate[:, None], u[edge // m])
                rows.index_add_(0, edge, family.value(z) * amplitudes[edge, term][:, None])
        return values.permute(2, 1, 0)

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
        m, n = self.r2.shape
        output, input = (part.ravel() for part in np.indices((m, n)))
        middle, half = _wide(self.middle)[input], _wide(self.half)[input]
        families = self.families.numpy().reshape(m * n, 2)
        columns: dict[str, np.ndarray] = {"middle": middle, "low": middle - half}
        columns["high"] = middle + half
        coefficients = _wide(self.coefficients).reshape(m * n, -1)
        for k in range(coefficients.shape[1]):
            columns[f"p{k}"] = coefficients[:, k] / half**k
        names = np.array(["", *NAMES], dtype=object)
        for t, end in enumerate(("", "2")):
            columns[f"term{end}"] = names[families[:, t]]
            rate, offset = _wide(self.shapes)[..., t, :].reshape(m * n, 2).T
            columns[f"a{end}"] = _wide(self.amplitudes)[..., t].ravel()
            columns[f"b{end}"] = rate / half
            columns[f"c{end}"] = offset - rate * middle / half
        best, runner_up = self._names(), np.array(OPTIONS, dtype=object)[self.runner_up.numpy()]
        accepted, margin = self.accepted.numpy().ravel(), self.margin.numpy().ravel()
        about = {
            "output": output,
            "input": input,
            "family": np.where(accepted, best, "spline"),
            "formula": _texts(columns),
            "r2": self.r2.numpy().ravel(),
            "max_error": self.max_error.numpy().ravel(),
            "complexity": self.complexity.numpy().ravel(),
            "aicc": self.aicc.numpy().ravel(),
            "runner_up": np.where(np.isfinite(margin), runner_up.ravel(), ""),
            "margin": margin,
            "accepted": accepted,
            "best": best,
        }
        return pd.DataFrame(about | columns)

    def _names(self) -> np.ndarray:
        """(m * n,) names of the formulas: both families where there are two terms."""
        families = self.families.numpy().reshape(-1, 2)
        names = np.array(OPTIONS, dtype=object)[self.option.numpy().ravel()]
        two = families[:, 1] > 0
        of = np.array(["", *NAMES], dtype=object)
        names[two] = of[families[two, 0]] + " + " + of[families[two, 1]] + LINE
        return names

    def save(self, path: Path) -> None:
        """Write everything into one safetensors file."""
        tensors = {name: value.contiguous() for name, value in vars(self).items()}
        write_atomic(path, safetensors.torch.save(tensors, {"options": json.dumps(OPTIONS)}))

    @classmethod
    def load(cls, path: Path) -> "Fits":
        """Read what ``save`` wrote.

        Raises:
            UserError: the file is missing, damaged, or of a version with other families.
        """
        try:
            with safetensors.safe_open(path, "pt") as saved:
                options = json.loads((saved.metadata() or {}).get("options", "null"))
                tensors = {f.name: saved.get_tensor(f.name) for f in dataclasses.fields(cls)}
        except (OSError, safetensors.SafetensorError, ValueError) as error:
            raise UserError(f"{path} is missing or damaged: fit the formulas again") from error
        if options != OPTIONS:
            raise UserError(f"{path} is of a version with other families: fit the formulas again")
        return cls(**tensors)


def _wide(values: Tensor) -> np.ndarray:
    return values.numpy().astype(np.float64)


def _texts(columns: dict[str, np.ndarray]) -> list[str]:
    """The formulas as plain text, from the columns of ``Fits.table``."""
    coefficients = np.stack([columns[f"p{k}"] for k in range(len(POLYNOMIALS))], axis=1)
    is_line = ~coefficients[:, 2:].any(axis=1)
    # A line is written in x itself; higher powers of x - middle would lose digits.
    coefficients[is_line, 0] -= coefficients[is_line, 1] * columns["middle"][is_line]
    rows = zip(
        coefficients.tolist(),
        is_line.tolist(),
        columns["middle"].tolist(),
        *(columns[name].tolist() for name in ("term", "a", "b", "c", "term2", "a2", "b2", "c2")),
        strict=True,
    )
    return [_text(*row) for row in rows]


def _text(
    powers: list[float], is_line: bool, middle: float, *terms: str | float
) -> str:  # fmt: skip
    t = "x" if is_line or not middle else f"(x{_signed(-middle)})"
    parts = list(_polynomial(powers, t))
    for name, a, b, c in (terms[:4], terms[4:]):
        if name:
            parts.append(_signed(a) + _call(name, f"{b:.{DIGITS}g}*x" + (_signed(c) if c else "")))
    text = "".join(parts) or " + 0"
    return text[3:] if text.startswith(" + ") else "-" + text[3:]


def _polynomial(powers: list[float], t: str) -> Iterator[str]:
    for k, p in enumerate(powers):
        if p:
            yield _signed(p) + ("" if k == 0 else f"*{t}" if k == 1 else f"*{t}^{k}")


def _signed(value: float) -> str:
    return f" {'-' if value < 0 else '+'} {abs(value):.{DIGITS}g}"


def _call(name: str, z: str) -> str:
    if name == "cube":
        return f"*({z})^3"
    if name == "reciprocal":
        return f"/({z})"
    return f"*({z})*sin({z})" if name == "x*sin" else f"*{name}({z})"
