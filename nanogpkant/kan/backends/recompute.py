"""Work through the rows in chunks and save only x: the features of the whole batch never exist.

The reference keeps M features of every input of every row until the backward pass, which is what
made KAN language models run out of memory. Here a chunk's features are made, used and dropped while
they are still in the cache, and made again in the backward pass, where they cost less than reading
them back would.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from nanogpkant.kan.basis import Basis, expand_features, feature_count, features_derivative

# Features in a chunk: few enough to stay near the cores (2^20 float32 values are 4 MiB), and enough
# that torch's cost for each operation does not count. Half as many are as fast, a quarter are not.
# A GPU wants enough rows to fill it.
CHUNK_FEATURES = {"cpu": 2**20}
CHUNK_FEATURES_GPU = 2**25


# Traced, the loop over chunks is unrolled: 95 s of compiling for a 192 x 192 layer on 4,096 rows.
@torch.compiler.disable
def forward(x: Tensor, weight: Tensor, basis: Basis, base: str, dtype: torch.dtype) -> Tensor:
    """(rows, n), (out, M, n) -> (rows, out), multiplied in ``dtype``."""
    return _Recompute.apply(x, weight, basis, base, dtype)


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, basis, base, dtype):
        ctx.save_for_backward(x, weight)
        ctx.basis, ctx.base, ctx.dtype = basis, base, dtype
        packed = weight.flatten(1).to(dtype).T  # (M * n, out)
        y = x.new_empty(x.shape[0], weight.shape[0], dtype=dtype)
        for rows in _chunks(x, feature_count(basis, base)):
            features = expand_features(x[rows], basis, base).flatten(1).to(dtype)
            torch.mm(features, packed, out=y[rows])
        return y

    @staticmethod
    def backward(ctx, grad_y):
        # once_differentiable would not do: a penalty on the gradient would then change nothing.
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError('a derivative of the gradient needs backend="reference"')
        x, weight = ctx.saved_tensors
        basis, base, dtype = ctx.basis, ctx.base, ctx.dtype
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        grad_y = grad_y.to(dtype)
        packed = weight.flatten(1).to(dtype)  # (out, M * n)
        grad_x = torch.empty_like(x) if needs_x else None
        # Chunks are summed in float32 or wider, whatever they were multiplied in.
        wide = torch.promote_types(dtype, torch.float32)
        grad_weight = torch.zeros(packed.shape, dtype=wide, device=x.device)
        for rows in _chunks(x, feature_count(basis, base)):
            if needs_weight:
                features = expand_features(x[rows], basis, base).flatten(1).to(dtype)
                grad_weight += grad_y[rows].T @ features
            if needs_x:
                slope = features_derivative(x[rows], basis, base)  # (chunk, M, n)
                slope *= (grad_y[rows] @ packed).view(slope.shape)
                grad_x[rows] = slope.sum(-2)
        grad_weight = grad_weight.view(weight.shape).to(weight.dtype) if needs_weight else None
        return grad_x, grad_weight, None, None, None


def _chunks(x: Tensor, features_per_input: int) -> Iterator[slice]:
    rows, n = x.shape
    limit = CHUNK_FEATURES.get(x.device.type, CHUNK_FEATURES_GPU)
    chunk = max(1, limit // max(1, n * features_per_input))
    return (slice(start, start + chunk) for start in range(0, rows, chunk))
