"""A KAN layer as lookup tables, in which its edges can be replaced.

G points an input, n inputs, m outputs. Every replacement of an edge (formula, line, mean) runs
through the same table with linear interpolation, so that differences in loss are differences
between the functions.

Source: tables as embedding bags are ours; that tables need a stated policy beyond their ends is
from LUT-KAN (arXiv 2601.03332). Here an input beyond the table is clamped to its end.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.interpretation.observe.curves import EdgeFunctions, even_points
from nanogpkant.kan import KANLinear

POINTS = 64  # of a table, evenly spaced; more where an edge has more than 8 basis functions
POINTS_A_FUNCTION = 8
ROWS = 4096  # input vectors looked up at a time: their indices take 2 * 8 bytes an input


def table_points(layer: KANLinear) -> int:
    """Points of a table of a layer's edges; 4 times as many change no loss by 1e-5."""
    shape = layer.features.coefficient_shape
    return max(POINTS, POINTS_A_FUNCTION * (shape[2] if shape else layer.features.size))


class Lookup(nn.Module):
    """A KAN layer whose edges are tables with linear interpolation.

    The tables, G * m * n numbers, are computed at every call and freed after it: with all layers of
    a model replaced, one layer's tables exist at a time.

    Args:
        layer: the layer to replace; its bias and its ``prenorm`` stay.
        low, high: (n,) first and last point of each input's tables; beyond them the functions are
            constant. Where both are equal they are constant everywhere.
        curves: the functions to tabulate.
        count: G, points of a table, at least 2; None is ``table_points``.
    """

    def __init__(
        self,
        layer: KANLinear,
        low: Tensor,
        high: Tensor,
        curves: EdgeFunctions,
        count: int | None = None,
    ) -> None:
        super().__init__()
        self.normalise, self.bias = layer.normalise, layer.bias
        self.low, self.high = low, high
        self.curves, self.count = curves, count or table_points(layer)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., m)."""
        points = even_points(self.low, self.high, self.count)
        tables = self.curves(points).permute(2, 0, 1).flatten(0, 1).to(x.dtype)
        tables = tables.contiguous()  # (nG, m), of which rows are read
        rows = self.normalise(x).flatten(0, -2)
        y = torch.cat([self._look_up(part, tables) for part in rows.split(ROWS)])
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], -1)

    def _look_up(self, x: Tensor, tables: Tensor) -> Tensor:
        """(rows, n) and (n * G, m) -> (rows, m): two rows of the tables for every input."""
        position = (x - self.low) / (self.high - self.low) * (self.count - 1)
        position = position.nan_to_num(0.0).clamp(0, self.count - 1)  # width 0: the first point
        first = position.floor().clamp(max=self.count - 2)
        part = position - first
        start = torch.arange(0, len(tables), self.count, device=x.device)
        index = first.long() + start  # (rows, n)
        index = torch.stack([index, index + 1], dim=-1).flatten(1)
        share = torch.stack([1 - part, part], dim=-1).flatten(1)
        return F.embedding_bag(index, tables, mode="sum", per_sample_weights=share.to(tables.dtype))
