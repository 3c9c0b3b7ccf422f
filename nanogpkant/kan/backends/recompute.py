"""Expand the rows in chunks and save only x: the features of a whole batch are never stored.

The reference keeps M features of every input until the backward pass, which made KAN language
models run out of memory. Here the features of a chunk are used while they are in the cache, and
recomputed in the backward pass, which costs less than reading them from memory.

Two element-wise steps surround the matrix products: the expansion of a chunk, and the pull-back of
its gradient. ``_steps`` picks the fastest available: compiled C for some features on a CPU,
torch.compile for others, or eager torch.
"""

import logging
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from nanogpkant.kan.backends import native
from nanogpkant.kan.backends.reference import Call
from nanogpkant.kan.features import Features

log = logging.getLogger(__name__)

# Features in a chunk: enough for the full rate of the product, few enough for the last cache beside
# the weight (2^22 bfloat16 values are 8 MiB). In eager torch a dozen intermediate results have that
# size in float32, so fewer are faster. A GPU needs more, and 2^23 fit its L2 cache (of 40 MB in an
# A100, 50 in an H100): an estimate that no GPU has timed.
CHUNK_FEATURES = 2**22
CHUNK_FEATURES_EAGER = 2**19
CHUNK_FEATURES_GPU = 2**23
# A larger weight (8 MiB of bfloat16) is out of the cache when the next tile needs it.
CACHED_WEIGHT = 2**22
ROWS_OF_WIDE = 2048  # in a tile of such a layer, which holds only part of the inputs
# Features in a batch from which compiling by torch pays, which takes ten seconds; the terms of
# learned functions count.
WORTH_COMPILING_TORCH = 2**19


@torch.no_grad()
def forward(call: Call) -> Tensor:
    """(rows, out)."""
    batch, (rows_of_x, out) = _Batch(call), (len(call.x), len(call.weight))
    y = call.x.new_empty(rows_of_x, out, dtype=call.dtype)
    in_parts = len(batch.weights) > 1  # whose products are summed before they are rounded
    product = y.new_empty(batch.most_rows * out) if in_parts else None
    for rows in batch.rows:
        if product is None:
            torch.mm(batch.expand(rows, 0), batch.weights[0].T, out=y[rows])
            continue
        total = None
        for part, own in enumerate(batch.weights):
            total = _add_product(total, batch.expand(rows, part), own.T, product)
        y[rows] = cast(Tensor, total)
    return y


@torch.no_grad()
def backward(
    grad_y: Tensor, call: Call, needs_x: bool, needs_weight: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, the weight and the coefficients."""
    x, weight, _, coefficients, _, dtype = call
    batch, grad_y = _Batch(call), grad_y.to(dtype)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format) if needs_x else None
    grads: list[Tensor | None] = [None] * len(batch.weights)
    product = x.new_empty(batch.weights[0].numel() if needs_weight else 0, dtype=dtype)
    grad_weight = grad_coefficients = None
    if coefficients is not None:
        shape, widest = coefficients.shape, _wide(coefficients.dtype)
        grad_coefficients = coefficients.new_zeros(shape, dtype=widest)
    for rows in batch.rows:
        for part in range(len(batch.weights)):
            if grad_x is None:
                features = batch.expand(rows, part)
            else:
                features, own = batch.pull_back(rows, part, grad_y[rows], grad_x, needs_weight)
                if own is not None and grad_coefficients is not None:
                    grad_coefficients += own
            if needs_weight:
                grads[part] = _add_product(grads[part], grad_y[rows].T, features, product)
    if needs_weight:
        parts = [g.view(*weight.shape[:2], -1) for g in grads if g is not None]
        if not parts:  # no rows
            parts = [weight.new_zeros(weight.shape)]
        grad_weight = (parts[0] if len(parts) == 1 else torch.cat(parts, -1)).to(weight.dtype)
    if coefficients is not None and grad_coefficients is not None:
        grad_coefficients = grad_coefficients.to(coefficients.dtype)
    return grad_x, grad_weight, grad_coefficients


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Dtype in which tiles are summed."""
    return torch.promote_types(dtype, torch.float32)


def _add_product(total: Tensor | None, a: Tensor, b: Tensor, product: Tensor) -> Tensor:
    """total + a @ b in ``_wide``, in the place of the total, if there is one.

    Where a and b have a narrower dtype, their product goes through the buffer ``product``.
    """
    if a.dtype == _wide(a.dtype):
        return torch.mm(a, b) if total is None else total.addmm_(a, b)
    own = product[: len(a) * b.shape[1]].view(len(a), -1)
    torch.mm(a, b, out=own)
    return own.to(_wide(a.dtype)) if total is None else total.add_(own)


class _Batch:
    """A batch cut into tiles: some rows of all inputs or, in a wide layer, of a part of them.

    A weight larger than the cache is read once per tile, and its gradient added to: so many rows go
    into a tile of such a layer, and few inputs. ``weights`` are those of the parts, (out, M * n').
    """

    def __init__(self, call: Call) -> None:
        x, weight, features, self.coefficients, self.keep, dtype = call
        self.x, self.size = x.detach(), features.size  # steps are compiled without gradients
        self.steps = steps = _steps(self.x, features, dtype)
        (count, n), most_rows, most_inputs = x.shape, steps.rows, x.shape[1]
        if steps.in_parts and weight.numel() > CACHED_WEIGHT and most_rows < ROWS_OF_WIDE:
            most_rows = ROWS_OF_WIDE
            most_inputs = max(32, CHUNK_FEATURES // ROWS_OF_WIDE // features.size // 32 * 32)
        self.most_rows = max(1, min(count, most_rows))
        self.rows = _slices(count, self.most_rows)
        self.inputs = _slices(n, most_inputs) if n else [slice(0, 0)]
        self.weights = [weight[..., inputs].to(dtype).flatten(1) for inputs in self.inputs]
        most = self.most_rows * features.size * self.inputs[0].stop
        self.room = x.new_empty(most, dtype=dtype)

    def expand(self, rows: slice, part: int) -> Tensor:
        """(rows, M * n'): features of a tile, in memory that all tiles share."""
        tile = self._tile(rows, part)
        self.steps.expand(*tile)
        return tile[0].flatten(1)

    def pull_back(
        self, rows: slice, part: int, grad_y: Tensor, grad_x: Tensor, expands: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Write a tile of ``grad_x``.

        Returns the features as ``expand`` does, if it ``expands``, and the gradient of the
        coefficients.
        """
        tile = self._tile(rows, part)
        features = tile[0].flatten(1)
        torch.mm(grad_y, self.weights[part], out=features)
        own = grad_x[rows, self.inputs[part]]
        grad = own.contiguous()  # itself, where it is of all inputs
        by_coefficients = self.steps.pull_back(*tile, grad, expands)
        own.copy_(grad)
        return features, by_coefficients

    def _tile(self, rows: slice, part: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Room for the features (rows, M, n'), the inputs, the coefficients, and ``keep``."""
        x = self.x[rows, self.inputs[part]]
        keep = None if self.keep is None else self.keep[rows, self.inputs[part]]
        room = self.room[: x.numel() * self.size].view(len(x), self.size, -1)
        return room, x, self.coefficients, keep


def _slices(count: int, most: int) -> list[slice]:
    return [slice(start, min(start + most, count)) for start in range(0, count, most)]


class Steps(NamedTuple):
    """The element-wise steps on a chunk, and its size."""

    expand: Callable[[Tensor, Tensor, Tensor | None, Tensor | None], None]
    """(out (rows, M, n), x (rows, n), coefficients, keep): write the features of x into out"""
    pull_back: Callable[..., Tensor | None]
    """(grad (rows, M, n), x, coefficients, keep, grad_x (rows, n), expands): write the gradient of
    x into grad_x and return that of the coefficients; with expands, the features into grad"""
    rows: int
    """rows in a chunk of all inputs"""
    in_parts: bool = False
    """whether a chunk may hold a part of the inputs"""


def _steps(x: Tensor, features: Features, dtype: torch.dtype) -> Steps:
    """The fastest element-wise steps; small batches are not worth the time to compile."""
    n, count = x.shape[1], x.numel() * features.size
    most = _rows(CHUNK_FEATURES_GPU, features, n)
    if x.device.type == "cpu":
        if count >= native.WORTH_COMPILING and native.unsupported(features, x.dtype, dtype) is None:
            return _native_steps(features, n)
        if count * _terms(features) < WORTH_COMPILING_TORCH:
            return _eager_steps(features, n)
        most = min(len(x), _rows(CHUNK_FEATURES_EAGER, features, n))
    # A power of two, so that batches of tokens are often whole chunks.
    return _compiled_steps(features, n, 1 << (most.bit_length() - 1))


def _terms(features: Features) -> int:
    """Terms that eager torch writes for each feature: of a learned function, one per parameter."""
    return features.coefficient_shape[-1] if features.coefficient_shape else 1


def _rows(limit: int, features: Features, n: int) -> int:
    """Number of rows of n inputs with at most ``limit`` features, at least 1."""
    return max(1, limit // max(1, features.size * n))


@cache
def _eager_steps(features: Features, n: int) -> Steps:
    """By torch's own operations."""

    def expand(out, x, coefficients, keep):
        expanded = features.expand(x, coefficients)
        out.copy_(expanded if keep is None else expanded.mul_(keep.unsqueeze(-2)))

    def pull_back(out, x, coefficients, keep, grad_x, expands):
        grad = out if keep is None else out * keep.unsqueeze(-2)
        result, by_coefficients = features.pull_back(grad, x, coefficients)
        grad_x.copy_(result)
        if expands:
            expand(out, x, coefficients, keep)
        return by_coefficients

    return Steps(expand, pull_back, _rows(CHUNK_FEATURES_EAGER // _terms(features), features, n))


def _native_steps(features: Features, n: int) -> Steps:
    """By compiled C."""
    steps = partial(native.expand, features), partial(native.pull_back, features)
    in_parts = not features.is_learned  # coefficients are of all inputs
    return Steps(*steps, _rows(CHUNK_FEATURES, features, n), in_parts)


@cache
def _compiled_steps(features: Features, n: int, rows: int) -> Steps:
    """By torch.compile, eager where that fails."""
    # For one number of rows: code for any number is not vectorised, 10 times slower.
    eager = _eager_steps(features, n)
    return Steps(_Compiled(eager.expand, rows), _Compiled(eager.pull_back, rows), rows)


class _Compiled:
    """A step compiled for chunks of one size; other chunks run eagerly, all if compiling fails."""

    def __init__(self, step: Callable, rows: int) -> None:
        self.step, self.rows = step, rows
        self.compiled = torch.compile(step, dynamic=False, fullgraph=True)

    def __call__(self, chunk: Tensor, *arguments: Tensor | bool | None) -> Any:
        if len(chunk) == self.rows and self.compiled is not None:
            try:
                return self.compiled(chunk, *arguments)
            except Exception as error:  # compilers raise anything; eager torch does without
                log.info("going on without torch.compile: %s", error)
                self.compiled = None
        return self.step(chunk, *arguments)
