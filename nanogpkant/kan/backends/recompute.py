"""Expand the rows in chunks and save only x: the features of a whole batch are never stored.

The reference keeps M features of every input until the backward pass, which made KAN language
models run out of memory. Here the features of a chunk are used while they are in the cache, and
recomputed in the backward pass, which costs less than reading them from memory.

Two element-wise steps surround the matrix products: the expansion of a chunk, and the pull-back of
its gradient. ``_steps`` picks the fastest available: compiled C for some features on a CPU,
torch.compile for others, or eager torch.
"""

import logging
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nanogpkant.kan.backends import native
from nanogpkant.kan.features import Features

log = logging.getLogger(__name__)

# Features in a chunk: enough for the full rate of the product, few enough for the last cache beside
# the weight (2^22 bfloat16 values are 8 MiB). In eager torch a dozen intermediate results have that
# size in float32, so fewer are faster. A GPU needs more to be filled.
CHUNK_FEATURES = 2**22
CHUNK_FEATURES_EAGER = 2**19
CHUNK_FEATURES_GPU = 2**25
# A larger weight (8 MiB of bfloat16) is out of the cache when the next tile needs it.
CACHED_WEIGHT = 2**22
ROWS_OF_WIDE = 2048  # in a tile of such a layer, which holds only part of the inputs
# Features in a batch from which compiling pays: C takes a quarter of a second, torch ten seconds.
WORTH_COMPILING = {"c": 2**16, "torch": 2**19}


class Steps(NamedTuple):
    """The element-wise steps on a chunk, and its size."""

    expand: Callable[[Tensor, Tensor, Tensor | None, Tensor | None], None]
    """(out (rows, M, n), x (rows, n), coefficients, keep): write the features of x into out"""
    pull_back: Callable[..., Tensor | None]
    """(grad (rows, M, n), x, coefficients, keep, grad_x (rows, n)): write the gradient of x into
    grad_x and return that of the coefficients"""
    rows: int
    """rows in a chunk of all inputs"""
    takes_any_inputs: bool = False
    """whether a chunk may hold a part of the inputs"""


@torch.no_grad()
def forward(
    x: Tensor,
    weight: Tensor,
    features: Features,
    coefficients: Tensor | None,
    keep: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """(rows, n), (out, M, n) -> (rows, out), multiplied in ``dtype``."""
    x = x.detach()  # steps are compiled once, with or without gradients
    steps = _steps(x, features, dtype)
    tiling = _tiling(x, weight, features, steps)
    packed = [weight[..., inputs].to(dtype).flatten(1).T for inputs in tiling.inputs]
    y = x.new_empty(x.shape[0], weight.shape[0], dtype=dtype)
    total, product = None, None  # sum over the tiles of a row, if there are several
    if len(packed) > 1:
        total = y.new_empty(tiling.rows, y.shape[1], dtype=_wide(dtype))
        product = None if total.dtype == dtype else y.new_empty(total.numel())
    for tile in _tiles(x, keep, features, tiling, dtype):
        steps.expand(tile.room, tile.x, coefficients, tile.keep)
        expanded, own = tile.room.flatten(1), packed[tile.number]
        if total is None:
            torch.mm(expanded, own, out=y[tile.rows])
            continue
        part = total[: len(expanded)]
        if tile.number == 0:
            part.zero_()
        _add_product(part, expanded, own, product)
        if tile.number == len(packed) - 1:
            y[tile.rows] = part
    return y


@torch.no_grad()
def backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    features: Features,
    coefficients: Tensor | None,
    keep: Tensor | None,
    dtype: torch.dtype,
    needs_x: bool,
    needs_weight: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, the weight and the coefficients, those that are needed.

    The coefficients' comes with that of x.
    """
    x, grad_y = x.detach(), grad_y.to(dtype)
    steps = _steps(x, features, dtype)
    tiling = _tiling(x, weight, features, steps)
    packed = [weight[..., inputs].to(dtype).flatten(1) for inputs in tiling.inputs]
    wide = _wide(dtype)
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format) if needs_x else None
    grads = [own.new_zeros(own.shape, dtype=wide) for own in packed] if needs_weight else []
    product = packed[0].new_empty(packed[0].numel()) if needs_weight and dtype != wide else None
    grad_weight = grad_coefficients = None
    if coefficients is not None:
        shape, widest = coefficients.shape, _wide(coefficients.dtype)
        grad_coefficients = coefficients.new_zeros(shape, dtype=widest)
    for tile in _tiles(x, keep, features, tiling, dtype):
        own, expanded = packed[tile.number], tile.room.flatten(1)
        if needs_weight:
            steps.expand(tile.room, tile.x, coefficients, tile.keep)
            _add_product(grads[tile.number], grad_y[tile.rows].T, expanded, product)
        if grad_x is not None:
            torch.mm(grad_y[tile.rows], own, out=expanded)
            own_grad = grad_x[tile.rows, tiling.inputs[tile.number]]
            grad = own_grad.contiguous()  # itself, where it is of all inputs
            part = steps.pull_back(tile.room, tile.x, coefficients, tile.keep, grad)
            own_grad.copy_(grad)
            if part is not None and grad_coefficients is not None:
                grad_coefficients += part
    if needs_weight:
        grads = [g.view(*weight.shape[:2], -1) for g in grads]
        grad_weight = (grads[0] if len(grads) == 1 else torch.cat(grads, -1)).to(weight.dtype)
    if coefficients is not None and grad_coefficients is not None:
        grad_coefficients = grad_coefficients.to(coefficients.dtype)
    return grad_x, grad_weight, grad_coefficients


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Dtype in which tiles are summed."""
    return torch.promote_types(dtype, torch.float32)


def _add_product(total: Tensor, a: Tensor, b: Tensor, product: Tensor | None) -> None:
    """total += a @ b, through the buffer ``product`` if a and b have a narrower dtype."""
    if product is None:
        total.addmm_(a, b)
    else:
        total += torch.mm(a, b, out=product[: total.numel()].view_as(total))


class Tiling(NamedTuple):
    """How the features of a batch are cut."""

    rows: int
    """in a tile"""
    inputs: list[slice]
    """of the tiles of a row: one with all inputs, several in wide layers"""


class Tile(NamedTuple):
    """Some rows of some inputs."""

    rows: slice
    number: int
    """index of its inputs in the tiling"""
    x: Tensor
    keep: Tensor | None
    room: Tensor
    """(rows, M, inputs) for its features; all tiles share the memory"""


def _tiling(x: Tensor, weight: Tensor, features: Features, steps: Steps) -> Tiling:
    """Tiles of all inputs if the weight stays in the cache from tile to tile, else of some.

    With few rows a tile, a large weight would be read, and its gradient added to, too often.
    """
    n, rows = x.shape[1], max(1, min(x.shape[0], steps.rows))
    is_wide = weight.numel() > CACHED_WEIGHT and steps.rows < ROWS_OF_WIDE
    if not (is_wide and steps.takes_any_inputs) or features.is_learned:
        return Tiling(rows, [slice(0, n)])
    rows = min(x.shape[0], ROWS_OF_WIDE)
    wide = max(32, _rows(CHUNK_FEATURES // ROWS_OF_WIDE, features, 1) // 32 * 32)
    return Tiling(max(1, rows), [slice(i, min(i + wide, n)) for i in range(0, n, wide)])


def _tiles(
    x: Tensor, keep: Tensor | None, features: Features, tiling: Tiling, dtype: torch.dtype
) -> Iterator[Tile]:
    """All tiles, the inputs of the same rows after each other."""
    widest = tiling.inputs[0].stop
    room = x.new_empty(tiling.rows * features.size * widest, dtype=dtype)
    for start in range(0, x.shape[0], tiling.rows):
        rows = slice(start, start + tiling.rows)
        for number, inputs in enumerate(tiling.inputs):
            own = x[rows, inputs]
            kept = None if keep is None else keep[rows, inputs]
            own_room = room[: own.numel() * features.size].view(len(own), features.size, -1)
            yield Tile(rows, number, own, kept, own_room)


def _steps(x: Tensor, features: Features, dtype: torch.dtype) -> Steps:
    """The fastest element-wise steps; small batches are not worth the time to compile."""
    n, count = x.shape[1], x.numel() * features.size
    if x.device.type != "cpu":
        return _compiled_steps(features, n, CHUNK_FEATURES_GPU)
    if count >= WORTH_COMPILING["c"] and native.unsupported(features, x.dtype, dtype) is None:
        return _native_steps(features, n)
    if count >= WORTH_COMPILING["torch"]:
        return _compiled_steps(features, n, CHUNK_FEATURES_EAGER)
    return _eager_steps(features, n)


def _rows(limit: int, features: Features, n: int) -> int:
    """Number of rows of n inputs with at most ``limit`` features, at least 1."""
    return max(1, limit // max(1, features.size * n))


@cache
def _eager_steps(features: Features, n: int) -> Steps:
    """By torch's own operations."""

    def expand(out, x, coefficients, keep):
        expanded = features.expand(x, coefficients)
        out.copy_(expanded if keep is None else expanded.mul_(keep.unsqueeze(-2)))

    def pull_back(grad, x, coefficients, keep, grad_x):
        grad = grad if keep is None else grad * keep.unsqueeze(-2)
        result, grad_coefficients = features.pull_back(grad, x, coefficients)
        grad_x.copy_(result)
        return grad_coefficients

    return Steps(expand, pull_back, _rows(CHUNK_FEATURES_EAGER, features, n))


@cache
def _native_steps(features: Features, n: int) -> Steps:
    """Compiled C."""

    def expand(out, x, coefficients, keep):
        native.expand(features, x.contiguous(), coefficients, out)
        if keep is not None:
            out *= keep.unsqueeze(-2)

    def pull_back(grad, x, coefficients, keep, grad_x):
        if keep is not None and features.is_learned:
            grad *= keep.unsqueeze(-2)
        grad_coefficients = native.pull_back(features, x.contiguous(), coefficients, grad, grad_x)
        if keep is not None and not features.is_learned:  # equal, and fewer products
            grad_x *= keep
        return grad_coefficients

    return Steps(expand, pull_back, _rows(CHUNK_FEATURES, features, n), takes_any_inputs=True)


@cache
def _compiled_steps(features: Features, n: int, limit: int) -> Steps:
    """Steps by torch.compile, eager where that fails."""
    # For one number of rows, a power of two so that batches of tokens are often whole chunks.
    # (Code for any number of rows is not vectorised: 10 times slower.)
    rows = 2 ** int(math.log2(_rows(limit, features, n)))
    eager = _eager_steps(features, n)
    return Steps(_Compiled(eager.expand, rows), _Compiled(eager.pull_back, rows), rows)


class _Compiled:
    """A step compiled for chunks of one size; other chunks run eagerly, all if compiling fails."""

    def __init__(self, step: Callable, rows: int) -> None:
        self.step, self.rows = step, rows
        self.compiled = torch.compile(step, dynamic=False, fullgraph=True)

    def __call__(self, chunk: Tensor, *arguments: Tensor | None) -> Any:
        if len(chunk) == self.rows and self.compiled is not None:
            try:
                return self.compiled(chunk, *arguments)
            except Exception as error:  # compilers raise anything; eager torch does without
                log.info("going on without torch.compile: %s", error)
                self.compiled = None
        return self.step(chunk, *arguments)
