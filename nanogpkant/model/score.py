"""A learned function of the cosine of query and key, in place of their scaled product."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.kan.bases.base import wide


class CosineScore(nn.Module):
    """f_h(cos) = sum_k c_hk T_k(cos), k from 1: Chebyshev polynomials, which keep to [-1, 1].

    At first sqrt(D) * cos. Of degree 1 that is QK-norm with a learned temperature (Henry et al.,
    arXiv 2010.04245). A constant would be lost in the softmax.
    """

    def __init__(self, heads: int, head: int, degree: int) -> None:
        super().__init__()
        self.head = head
        self.coefficients = nn.Parameter(torch.empty(heads, degree))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.coefficients.zero_()
        self.coefficients[:, 0] = math.sqrt(self.head)

    def normalize(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, H, T, D) whose scaled products are cosines, or the scores."""
        q, k = (F.normalize(wide(x), dim=-1).to(x.dtype) for x in (q, k))
        scale = math.sqrt(self.head)
        if self.is_linear:
            return q * (scale * self.coefficients[:, :, None]).to(q.dtype), k
        return q * scale, k

    @property
    def is_linear(self) -> bool:
        return self.coefficients.shape[1] == 1

    def forward(self, cosine: Tensor) -> Tensor:
        """(B, H, T, S) -> the same."""
        x, c = wide(cosine), self.coefficients[:, :, None, None]  # (H, degree, 1, 1)
        before, term, total = torch.ones_like(x), x, c[:, 0] * x
        for k in range(1, c.shape[1]):
            before, term = term, 2 * x * term - before
            total = total + c[:, k] * term
        return total.to(cosine.dtype)
