"""One kernel for each product of a layer of uniform B-splines: features never leave the chip.

The features of a tile are computed in registers right before they are multiplied, so that memory
holds only x and the weight. Products accumulate in float32. There are no atomics: a call repeated
with the same blocks gives the same bits.

Block sizes: a cubic B-spline takes about 12 instructions, which an SM of an H100 runs at 128 lanes
a clock; its tensor cores do 2,048 multiply-adds a clock. So a feature costs as much time as its
products with 16 * 12, or about 200, outputs: kernels that compute features have blocks of up to 256
outputs.
"""

from __future__ import annotations  # kernel annotations need triton.language, which may be missing

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from nanogpkant.kan.backends.reference import Call
from nanogpkant.kan.backends.triton_features import (
    Constants,
    base_derivative,
    constants_of,
    feature_of,
    jit,
    spline_derivative,
    tl,
    triton,
)
from nanogpkant.kan.bases.bspline import BSpline
from nanogpkant.kan.features import Features

if triton is not None:
    # Interpreted kernels run on the CPU, slowly, for tests. triton.jit reads this at import too.
    INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
    SPLINES = tl.constexpr(8)  # of the input's gradient that are computed together

# Candidates (rows, outputs, inputs, warps, stages of loads) that fit the registers and the shared
# memory of an H100. The last two are for float32 without tensor cores and for few rows.
FORWARD_BLOCKS = [
    (128, 256, 64, 8, 3), (128, 256, 32, 8, 4), (64, 256, 32, 4, 4), (128, 128, 64, 8, 3),
    (64, 64, 16, 8, 3), (16, 32, 64, 4, 4),
]  # fmt: skip
GRAD_X_BLOCKS = [
    (128, 64, 32, 8, 3), (128, 64, 16, 8, 3), (128, 32, 32, 8, 4), (64, 64, 16, 4, 3),
    (32, 16, 16, 4, 3), (16, 64, 16, 4, 4),
]  # fmt: skip
GRAD_WEIGHT_BLOCKS = [
    (64, 256, 128, 8, 2), (32, 256, 128, 8, 3), (32, 256, 64, 4, 4), (64, 128, 64, 4, 3),
    (32, 64, 32, 4, 3), (16, 64, 64, 4, 3),
]  # fmt: skip


FEW_ROWS, SOME_ROWS = 64, 1024


def unsupported(x_device: torch.device, features: Features, dtype: torch.dtype) -> str | None:
    """Why these kernels cannot run a layer, or None if they can."""
    if triton is None:
        return "triton is not installed"
    if not INTERPRETED.value:
        if x_device.type != "cuda":
            return f"triton has no kernels for the device {x_device.type}"
        if torch.cuda.get_device_capability(x_device) < (8, 0):
            return "the GPU is older than NVIDIA's Ampere"
    basis = features.basis
    if not isinstance(basis, BSpline):
        return f"the basis is {type(basis).__name__}, not BSpline"
    if basis.grid is not None:
        return "the grid is not uniform"
    if dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return f"the dtype is {str(dtype).removeprefix('torch.')}, not float32 or half of it"
    return None


def _tuned(blocks: list[tuple[int, ...]]) -> Callable[[Callable], Callable]:
    """Jit a kernel and autotune it over these blocks, once for every shape."""
    if triton is None:
        return lambda kernel: kernel
    if INTERPRETED:
        blocks = [(16, 16, 16, 1, 1)]
    configs = [
        triton.Config({"BR": br, "BO": bo, "BI": bi}, num_warps=warps, num_stages=stages)
        for br, bo, bi, warps, stages in blocks
    ]
    tune = triton.autotune(
        configs,
        key=["n", "out", "rows_bucket", "c"],  # triton adds the dtypes
        prune_configs_by={"early_config_prune": _worth_trying},
        cache_results=True,
    )
    return lambda kernel: tune(triton.jit(kernel))


def bucket_of(rows: int) -> int:
    """Batches that are tuned as one: a few tokens to write, some hundred, or more.

    Not by powers of two, which would time all blocks again for the last batch of an evaluation.
    """
    return (rows > FEW_ROWS) + (rows > SOME_ROWS)


def _worth_trying(configs: list, arguments: dict[str, Any], **_: Any) -> list:
    """Skip blocks that are mostly empty rows, and those that would not fit."""
    rows, c = arguments["rows"], arguments["c"]
    configs = [config for config in configs if config.kwargs["BR"] <= max(16, 2 * rows)]
    if c.precision == "ieee":  # without tensor cores, operands take registers
        configs = [config for config in configs if math.prod(config.kwargs.values()) <= 2**16]
    return configs


# Kernels. BR, BO and BI are the blocks of rows, outputs and inputs.


@jit
def _load(matrix, row, rows, column, columns, stride, BR: tl.constexpr, BC: tl.constexpr):
    """The tile (BR, BC) at (row, column) of a matrix (rows, columns), zero beyond its ends."""
    r, k = tl.arange(0, BR), column + tl.arange(0, BC)
    mask = (row + r < rows)[:, None] & (k < columns)[None, :]
    # Offsets within a tile fit into 32 bits; its start may not.
    start = matrix + tl.cast(row, tl.int64) * stride
    return tl.load(start + r[:, None] * stride + k[None, :], mask, other=0.0)


@jit
def _store(matrix, tile, row, rows, column, columns, stride):
    r, k = tl.arange(0, tile.shape[0]), column + tl.arange(0, tile.shape[1])
    mask = (row + r < rows)[:, None] & (k < columns)[None, :]
    start = matrix + tl.cast(row, tl.int64) * stride
    tl.store(start + r[:, None] * stride + k[None, :], tile, mask)


@jit
def _dot(a, b, total, c: tl.constexpr):
    if INTERPRETED:  # numpy has no bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=c.precision)


@jit
def _block_pair(rows, BR: tl.constexpr, columns, BC: tl.constexpr):
    """Start of this program's tile. Concurrent programs cover a near-square of tiles, so that they
    share what they read in the L2 cache."""
    across = tl.cdiv(columns, BC)
    program = tl.program_id(0)
    i, j = tl.swizzle2d(program // across, program % across, tl.cdiv(rows, BR), across, 8)
    return i * BR, j * BC


@_tuned(FORWARD_BLOCKS)
def _forward_kernel(
    x, weight, keep, y, rows, n, out, rows_bucket,
    c: tl.constexpr, BR: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """y (BR, BO) = sum_m feature_m of x (BR, n) @ weight_m.T (n, BO)."""
    row, o = _block_pair(rows, BR, out, BO)
    total = tl.zeros((BR, BO), tl.float32)
    x_tile = tl.zeros((BR, BI), tl.float32)
    keep_tile = tl.zeros((BR, BI), tl.float32)
    # One loop over inputs and features: in a nest of two, the pipeline of loads would drain between
    # blocks of inputs, and values hoisted out of the inner loop would fill the registers. At least
    # once: ptxas serialises the products of a loop that may not run at all (its message C7515).
    for step in range(tl.maximum(1, tl.cdiv(n, BI) * c.size)):
        i, m = step // c.size * BI, step % c.size
        if m == 0:
            x_tile = _load(x, row, rows, i, n, n, BR, BI).to(tl.float32)
            if keep is not None:
                keep_tile = _load(keep, row, rows, i, n, n, BR, BI).to(tl.float32)
        feature = feature_of(x_tile, m, c)
        if keep is not None:
            feature *= keep_tile
        w = _load(weight + m * n, o, out, i, n, c.size * n, BO, BI)
        total = _dot(feature.to(w.dtype), tl.trans(w), total, c)
    _store(y, total, row, rows, o, out, out)


@jit
def _grad_splines(
    grad_y, x_tile, weight, row, rows, i, n, out, first, has_base: tl.constexpr,
    c: tl.constexpr, BR: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """grad_x (BR, BI) by SPLINES splines from ``first`` on, and by the base function."""
    # One loop over the outputs for all of them: one for each would read grad_y as often, and drain
    # the pipeline of loads between. The weights of a spline are BI columns of a tile.
    spline, column = tl.arange(0, SPLINES * BI) // BI + first, tl.arange(0, SPLINES * BI) % BI + i
    columns = (c.first + spline) * n + column
    exists = (column < n) & (spline < c.size - c.first)
    products = tl.zeros((BR, SPLINES * BI), tl.float32)
    base = tl.zeros((BR, BI), tl.float32)
    for step in range(tl.maximum(1, tl.cdiv(out, BO))):
        o = step * BO
        g = _load(grad_y, row, rows, o, out, out, BR, BO)
        r = tl.arange(0, BO)
        start = weight + tl.cast(o, tl.int64) * c.size * n
        mask = (o + r < out)[:, None] & exists[None, :]
        w = tl.load(start + r[:, None] * (c.size * n) + columns[None, :], mask, other=0.0)
        products = _dot(g, w, products, c)
        if has_base:
            base = _dot(g, _load(weight, o, out, i, n, c.size * n, BO, BI), base, c)
    k = (first + tl.arange(0, SPLINES)).to(tl.float32)[None, :, None]
    slopes = spline_derivative(x_tile[:, None, :], k, c)  # (BR, SPLINES, BI)
    total = tl.sum(tl.reshape(products, (BR, SPLINES, BI)) * slopes, axis=1)
    if has_base:
        total += base * base_derivative(x_tile, c)
    return total


@_tuned(GRAD_X_BLOCKS)
def _grad_x_kernel(
    grad_y, x, weight, keep, grad_x, rows, n, out, rows_bucket,
    c: tl.constexpr, BR: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """grad_x (BR, BI) = sum_m (grad_y (BR, out) @ weight_m (out, BI)) * feature_m' of x."""
    row, i = _block_pair(rows, BR, n, BI)
    x_tile = _load(x, row, rows, i, n, n, BR, BI).to(tl.float32)
    has_base: tl.constexpr = c.base != "none"
    total = _grad_splines(
        grad_y, x_tile, weight, row, rows, i, n, out, 0, has_base, c, BR, BO, BI
    )  # fmt: skip
    for first in range(SPLINES, c.size - c.first, SPLINES):
        total += _grad_splines(
            grad_y, x_tile, weight, row, rows, i, n, out, first, False, c, BR, BO, BI
        )  # fmt: skip
    if keep is not None:
        total *= _load(keep, row, rows, i, n, n, BR, BI).to(tl.float32)
    _store(grad_x, total, row, rows, i, n, n)


@_tuned(GRAD_WEIGHT_BLOCKS)
def _grad_weight_kernel(
    grad_y, x, keep, grad_weight, rows, n, out, rows_per_split, rows_bucket,
    c: tl.constexpr, BR: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """grad_weight[split] (BO, m, BI) = grad_y.T (BO, rows of the split) @ feature_m of x."""
    # Neighbouring programs take the features of one tile: they read the same x and grad_y.
    m, tile = tl.program_id(0) % c.size, tl.program_id(0) // c.size
    i, o = tile % tl.cdiv(n, BI) * BI, tile // tl.cdiv(n, BI) * BO
    first = tl.program_id(1) * rows_per_split
    last = tl.minimum(first + rows_per_split, rows)
    total = tl.zeros((BI, BO), tl.float32)
    for step in range(tl.maximum(1, tl.cdiv(last - first, BR))):  # as in the forward kernel
        row = first + step * BR
        feature = feature_of(_load(x, row, last, i, n, n, BR, BI).to(tl.float32), m, c)
        if keep is not None:
            feature *= _load(keep, row, last, i, n, n, BR, BI).to(tl.float32)
        g = _load(grad_y, row, last, o, out, out, BR, BO)
        # As left operand the features stay in registers, and the product is asynchronous.
        total = _dot(tl.trans(feature.to(g.dtype)), g, total, c)
    grad_weight += tl.cast(tl.program_id(1), tl.int64) * out * c.size * n + m * n
    _store(grad_weight, tl.trans(total), o, out, i, n, c.size * n)


def forward(call: Call) -> Tensor:
    """(rows, out). No features with coefficients can run."""
    x, weight, features, _, keep, dtype = call
    (rows, n), out = x.shape, weight.shape[0]
    y = x.new_empty(rows, out, dtype=dtype)
    _launch(
        _forward_kernel,
        lambda b: (triton.cdiv(rows, b["BR"]) * triton.cdiv(out, b["BO"]),),
        (x, weight.to(dtype), keep, y),
        (rows, n, out),
        constants_of(features, dtype),
    )
    return y


def backward(
    grad_y: Tensor, call: Call, needs_x: bool, needs_weight: bool
) -> tuple[Tensor | None, Tensor | None, None]:
    """Gradients of x and of the weight."""
    x, weight, features, _, keep, dtype = call
    (rows, n), (out, size, _) = x.shape, weight.shape
    c, grad_y, grad_x, grad_weight = constants_of(features, dtype), grad_y.to(dtype), None, None
    if needs_x:
        grad_x = x.new_empty(rows, n)
        _launch(
            _grad_x_kernel,
            lambda b: (triton.cdiv(rows, b["BR"]) * triton.cdiv(n, b["BI"]),),
            (grad_y, x, weight.to(dtype), keep, grad_x),
            (rows, n, out),
            c,
        )
    if needs_weight:
        gpu = torch.cuda.get_device_properties(x.device) if x.is_cuda else None
        splits = _splits(rows, out, size, n, gpu.multi_processor_count if gpu else 1)
        # Each split writes its own gradient; they are then added in a fixed order.
        partial = torch.float32 if splits > 1 else weight.dtype
        new = weight.new_empty if rows else weight.new_zeros
        parts = new(splits, out, size, n, dtype=partial)
        _launch(
            _grad_weight_kernel,
            lambda b: (size * triton.cdiv(out, b["BO"]) * triton.cdiv(n, b["BI"]), splits),
            (grad_y, x, keep, parts),
            (rows, n, out, triton.cdiv(rows, splits)),
            c,
        )
        grad_weight = parts[0] if splits == 1 else parts.sum(0).to(weight.dtype)
    return grad_x, grad_weight, None


@cache
def _splits(rows: int, out: int, size: int, n: int, processors: int) -> int:
    """Number of programs that share the rows of each tile of the weight's gradient.

    More splits leave fewer processors idle in the last wave, but each writes and reads one more
    copy of the gradient, which takes as long as multiplying about 5 rows (4 TFLOP/s per processor,
    3 TB/s of memory). The copies stay below 4 tiles of float32 per processor.
    """
    tiles = size * triton.cdiv(out, 256) * triton.cdiv(n, 128)
    limit = max(1, min(4 * processors // tiles, rows // 128))

    def cost(splits: int) -> float:
        waves = triton.cdiv(tiles * splits, processors)
        return rows * waves / splits + 5 * tiles * splits

    return min(range(1, limit + 1), key=cost)


def _launch(
    kernel: Any, grid: Callable[[dict[str, int]], tuple[int, ...]],
    tensors: tuple[Tensor | None, ...], sizes: tuple[int, ...], c: Constants,
) -> None:  # fmt: skip
    """Run a kernel, unless there are no rows (sizes[0])."""
    if (rows := sizes[0]) == 0:
        return
    # Copies of strided tensors cost little beside the products.
    tensors = [tensor if tensor is None else tensor.contiguous() for tensor in tensors]
    with torch.cuda.device_of(tensors[0]):
        kernel[grid](*tensors, *sizes, bucket_of(rows), c, enable_fp_fusion=True)
