"""The search for formulas: every edge against a dictionary of candidates.

All edges of an input share its points, so the candidates of every family are computed once per
input. After projecting out means (and lines, where a line is added), the squared inner product of a
unit candidate and a unit curve is the R² of the best amplitude and offset. The search is one matrix
product per input, and the maximum over each family.

n inputs, m outputs, G points, C candidates, E edges.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpkant.interpretation.fit.families import FAMILIES, OPTIONS, TERMS, select_families

EVERYWHERE = 1e-3  # share of the weights that is uniform over the points
SMALLEST = 1e-4  # minimum energy of a candidate left after projecting out the line
NOISE = 1e-6  # rounding errors of a constant, relative to the greatest value


@dataclass(frozen=True)
class ScaledCurves:
    """The edges of n inputs, scaled: u in [-1, 1], curves of mean 0 and length 1."""

    u: Tensor  # (n, G)
    root: Tensor  # (n, G) square roots of the weights: the constant as a unit vector
    slant: Tensor  # (n, G) the line as a unit vector, orthogonal to the constant
    y: Tensor  # (n, m, G) the curves times ``root``; 0 where an edge is flat
    mean: Tensor  # (n, m)
    std: Tensor  # (n, m); 1 where an edge is flat
    flat: Tensor  # (n, m) edges that are constant but for rounding
    middle: Tensor  # (n,) x at u = 0
    half: Tensor  # (n,) x at u = 1 minus x at u = 0; 1 where an input is constant


def scaled(points: Tensor, weights: Tensor, values: Tensor) -> ScaledCurves:
    """Scale points (G, n), weights (G, n) and values (G, m, n)."""
    low, high = points.aminmax(dim=0)
    middle, half = (low + high) / 2, (high - low) / 2
    half = torch.where(half > NOISE * middle.abs(), half, 1.0)
    u = ((points - middle) / half).T.clamp(-1, 1).contiguous()
    share = (weights / weights.sum(0)).T
    # Also constrains a formula where there are no inputs.
    share = (1 - EVERYWHERE) * share + EVERYWHERE / share.shape[1]
    root = share.sqrt()
    slant = root * (u - (share * u).sum(1, keepdim=True))
    slant = slant / slant.norm(dim=1, keepdim=True).clamp(min=1e-12)
    y = values.permute(2, 1, 0).contiguous()  # (n, m, G)
    largest = y.abs().amax(-1)
    mean = torch.einsum("nmg,ng->nm", y, share)
    y = (y - mean[..., None]) * root[:, None]
    std = y.norm(dim=-1)
    flat = std <= NOISE * largest
    std = torch.where(flat, 1.0, std)
    y = torch.where(flat[..., None], 0.0, y / std[..., None])
    return ScaledCurves(u, root, slant, y, mean, std, flat, middle, half)


class Dictionary:
    """Candidates of some families, in columns: a family, or a family and a free line.

    ``options`` (columns,) are indices in OPTIONS. The columns' candidates, one after the other, are
    of the ``families`` (C,), indices in FAMILIES, and have the ``shapes`` (C, 2).

    Args:
        names: of families, as in ``select_families``.

    Raises:
        UsageError: an unknown name.
    """

    def __init__(self, names: Sequence[str] | None) -> None:
        self._known, self.degree, self.has_line = select_families(names)
        starts = [family.starts() for family in self._known]
        self._counts = list(map(len, starts))
        self._starts = torch.cat([*starts, torch.empty(0, 2)])
        options, families, self._sizes = [], [], []
        chosen = [torch.empty(0, dtype=torch.long)]  # rows of all starts, then all with a line
        for line in (0, 1) if self.has_line else (0,):
            self._first_with_line = sum(self._sizes)
            every = torch.arange(len(self._starts)).split(self._counts)
            for family, rows in zip(self._known, every, strict=True):
                if line and family.with_line == "none":
                    continue
                if line and family.with_line == "one":
                    rows = rows[self._starts[rows, 0] > 0]
                number = FAMILIES.index(family)
                options.append(TERMS + number + line * len(FAMILIES))
                families += [number] * len(rows)
                self._sizes.append(len(rows))
                chosen.append(rows + line * len(self._starts))
        self._chosen = torch.cat(chosen)
        self.options = torch.tensor(options, dtype=torch.long)
        self.families = torch.tensor(families, dtype=torch.long)
        self.shapes = self._starts.repeat(2, 1)[self._chosen]

    def candidates(self, u: Tensor, root: Tensor, slant: Tensor) -> Tensor:
        """(G,) each -> (C, G), as unit or zero vectors."""
        z = self._starts[:, :1] * u + self._starts[:, 1:]
        parts = zip(self._known, z.split(self._counts), strict=True)
        values = torch.cat([family.value(part) for family, part in parts]) * root
        values = _without(values, root)
        squares = values.square().sum(1, keepdim=True)
        straight = _without(values, slant)
        left = straight.square().sum(1, keepdim=True)
        is_bent = left > SMALLEST * squares
        plain = values / squares.sqrt().clamp(min=1e-12)
        straight = torch.where(is_bent, straight / left.sqrt().clamp(min=1e-12), 0.0)
        return torch.cat([plain, straight])[self._chosen]

    def best(self, curves: ScaledCurves) -> tuple[Tensor, Tensor]:
        """The best candidate of every option: (n, m, OPTIONS) 1 - R², and shapes (..., 2).

        Options that are not in the dictionary have infinite errors.
        """
        n, m, _ = curves.y.shape
        errors = curves.y.new_full((n, m, len(OPTIONS)), torch.inf)
        shapes = curves.y.new_zeros(n, m, len(OPTIONS), 2)
        for i in range(n if self._sizes else 0):
            scores = curves.y[i] @ self.candidates(curves.u[i], curves.root[i], curves.slant[i]).T
            scores.square_()  # (m, C)
            line = (curves.y[i] @ curves.slant[i]).square()
            begin = 0
            for option, column in zip(
                self.options.tolist(), scores.split(self._sizes, dim=1), strict=True
            ):
                score, index = column.max(1)
                left = 1 - line if option >= TERMS + len(FAMILIES) else 1.0
                errors[i, :, option] = left - score
                shapes[i, :, option] = self.shapes[begin + index]
                begin += column.shape[1]
        return errors, shapes

    def second(
        self, curves: ScaledCurves, inputs: Tensor, rests: Tensor, terms: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The best second term of edges with one term and a line.

        Args:
            inputs: (E,) ascending, the input of each edge.
            rests: (E, G) residuals after constant, line and first term, times ``root``.
            terms: (E, G) first terms as unit vectors, orthogonal to constant and line.

        Returns:
            (E,) indices in FAMILIES, and (E, 2) shapes.
        """
        found = torch.empty(len(inputs), dtype=torch.long)
        ends = torch.bincount(inputs, minlength=len(curves.u)).cumsum(0).tolist()
        for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            if start == end:
                continue
            bent = self.candidates(curves.u[i], curves.root[i], curves.slant[i])
            bent = bent[self._first_with_line :].T
            own = 1 - (terms[start:end] @ bent).square_()  # energy left by the first term
            scores = (rests[start:end] @ bent).square_() / own.clamp_(min=0.02)
            found[start:end] = self._first_with_line + scores.argmax(1)
        return self.families[found], self.shapes[found]


def _without(rows: Tensor, unit: Tensor) -> Tensor:
    """Project (C, G) orthogonally to a unit vector (G,)."""
    return rows - (rows @ unit)[:, None] * unit
