"""The search for formulas: every edge against a dictionary of candidates.

All edges of an input share its points, so the candidates of every family are computed once per
input. After projecting out means (and lines, where a line is added), the squared inner product of a
unit candidate and a unit curve is the R² of the best amplitude and offset. The search is one matrix
product per input, and the maximum over each family.

n inputs, m outputs, G points, C candidates, E edges.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpkant.interpretation.fit.families import FAMILIES, Unary

EVERYWHERE = 1e-3  # share of the weights that is uniform over the points
SMALLEST = 1e-4  # minimum energy of a candidate left after projecting out the line
NOISE = 1e-6  # rounding errors of a constant, relative to the greatest value


@dataclass(frozen=True)
class ScaledCurves:
    """The edges of n inputs, scaled: u in [-1, 1], curves of mean 0 and length 1."""

    u: Tensor
    """(n, G)"""
    root: Tensor
    """(n, G) square roots of the weights: the constant as a unit vector"""
    slant: Tensor
    """(n, G) the line as a unit vector, orthogonal to the constant"""
    y: Tensor
    """(n, m, G) the curves times ``root``; 0 where an edge is flat"""
    mean: Tensor
    """(n, m)"""
    std: Tensor
    """(n, m); 1 where an edge is flat"""
    flat: Tensor
    """(n, m) edges that are constant but for rounding"""
    middle: Tensor
    """(n,) x at u = 0"""
    half: Tensor
    """(n,) x at u = 1 minus x at u = 0; 1 where an input is constant"""


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
    away = u - (share * u).sum(1, keepdim=True)
    slant = root * away
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
    """Candidates of some families.

    ``columns`` of the result of ``best`` are (index in FAMILIES, with a line?); ``shapes`` (C, 2)
    are the candidates' rates and offsets.
    """

    def __init__(self, families: list[Unary], with_line: bool) -> None:
        self.families = families
        self.columns: list[tuple[int, bool]] = []
        self.shapes = torch.cat([f.starts() for f in families] or [torch.empty(0, 2)])
        self._picked, self._spans, begin = [], [], 0
        for line in (False, True) if with_line else (False,):
            start = 0
            for family in families:
                count = len(family.starts())
                used = torch.arange(start, start + count)
                start += count
                if line and family.with_line == "one":
                    used = used[self.shapes[used, 0] > 0]
                if line and family.with_line == "none":
                    continue
                self.columns.append((FAMILIES.index(family), line))
                self._picked.append(used)
                self._spans.append((begin, begin + len(used)))
                begin += len(used)

    def _values(self, u: Tensor, root: Tensor) -> Tensor:
        """(G,) -> (C, G), times ``root``."""
        parts, start = [], 0
        for family in self.families:
            count = len(family.starts())
            rate, offset = self.shapes[start : start + count].to(u).unbind(1)
            parts.append(family.value(rate[:, None] * u + offset[:, None]))
            start += count
        return torch.cat(parts) * root

    def candidates(self, u: Tensor, root: Tensor, slant: Tensor) -> Tensor:
        """(G,) each -> (C', G): candidates of every column in turn, as unit or zero vectors."""
        values = _without(self._values(u, root), root)
        squares = values.square().sum(1, keepdim=True)
        straight = _without(values, slant)
        left = straight.square().sum(1, keepdim=True)
        is_bent = left > SMALLEST * squares
        plain = values / squares.sqrt().clamp(min=1e-12)
        straight = torch.where(is_bent, straight / left.sqrt().clamp(min=1e-12), 0.0)
        return torch.cat(
            [
                (straight if line else plain)[used]
                for (_, line), used in zip(self.columns, self._picked, strict=True)
            ]
        )

    def best(
        self, curves: ScaledCurves, progress: Callable[[float], None]
    ) -> tuple[Tensor, Tensor]:
        """The best candidate of every column: (n, m, columns) 1 - R², and shapes (..., 2).

        Args:
            progress: called with the share of the inputs done.
        """
        n, m, _ = curves.y.shape
        errors = curves.y.new_empty(n, m, len(self.columns))
        found = torch.empty(n, m, len(self.columns), dtype=torch.long, device=curves.y.device)
        for i in range(n if self.columns else 0):
            scores = curves.y[i] @ self.candidates(curves.u[i], curves.root[i], curves.slant[i]).T
            line = (curves.y[i] @ curves.slant[i]).square()
            scores.square_()  # (m, C')
            for column, (begin, end) in enumerate(self._spans):
                score, index = scores[:, begin:end].max(1)
                left = 1 - line if self.columns[column][1] else 1.0
                errors[i, :, column] = left - score
                found[i, :, column] = index
            progress((i + 1) / n)
        shapes = torch.stack(
            [
                self.shapes[used][found[..., c].cpu()]
                for c, used in enumerate(self._picked)
            ],
            dim=2,
        ) if self.columns else errors.new_empty(n, m, 0, 2)  # fmt: skip
        return errors, shapes.to(errors)

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
        lines = [(c, span) for c, span in enumerate(self._spans) if self.columns[c][1]]
        begin = lines[0][1][0]
        number = torch.cat([torch.full((e - b,), self.columns[c][0]) for c, (b, e) in lines])
        shapes = torch.cat([self.shapes[self._picked[c]] for c, _ in lines])
        found = torch.empty(len(inputs), dtype=torch.long, device=rests.device)
        ends = torch.bincount(inputs, minlength=len(curves.u)).cumsum(0).tolist()
        for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            if start == end:
                continue
            bent = self.candidates(curves.u[i], curves.root[i], curves.slant[i])[begin:].T
            own = (
                1 - (terms[start:end] @ bent).square_()
            )  # energy after projecting out the first term
            scores = (rests[start:end] @ bent).square_() / own.clamp_(min=0.02)
            found[start:end] = scores.argmax(1)
        found = found.cpu()
        return number[found].to(rests.device), shapes[found].to(rests)


def _without(rows: Tensor, unit: Tensor) -> Tensor:
    """Project (C, G) orthogonally to a unit vector (G,)."""
    return rows - (rows @ unit)[:, None] * unit
