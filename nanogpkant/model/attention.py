"""Causal self-attention, with positions by rotation or by a bias of distance."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nanogpkant.config import ModelConfig
from nanogpkant.model.cache import Cache
from nanogpkant.model.convolution import make_convolution
from nanogpkant.model.dropout import Dropout
from nanogpkant.model.positions import Places, make_bias, rotate
from nanogpkant.model.projection import make_linear, make_norm
from nanogpkant.model.score import CosineScore

ROWS = 512  # queries at a time where scores are held in memory
# Of all heads, kept for the backward pass of a layer; recomputing them costs more in float32.
SCORES = 1 << 21
SCORES_FLOAT32 = 1 << 23


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        head = config.n_embd // config.n_head
        self.n_head, self.layer = config.n_head, layer
        self.dropout = Dropout(config.dropout)
        self.qkv = make_linear("qkv", config)
        self.out = make_linear("attn_out", config)
        self.bias = make_bias(config)
        self.rotates = "rope" in config.positions
        self.is_always_fused = False  # for estimates of what other devices do
        self.convolution = make_convolution(config)
        self.q_norm = make_norm(config, head, "rms") if config.qk_norm else nn.Identity()
        self.k_norm = make_norm(config, head, "rms") if config.qk_norm else nn.Identity()
        self.score = None
        if config.score_degree:
            self.score = CosineScore(config.n_head, head, config.score_degree)
        self.is_mixed = config.value_residual
        self.mix = nn.Parameter(torch.full((2,), 0.5)) if self.is_mixed and layer else None

    def forward(self, x: Tensor, places: Places, cache: Cache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        if self.convolution is not None:
            x = self.convolution(x, places, self.layer, cache)
        # (B, T, 3C) -> three (B, H, T, D)
        q, k, v = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rotates:
            q, k = rotate(q, places.new_position), rotate(k, places.new_position)
        if self.score is not None:
            q, k = self.score.normalize(q, k)
        if self.mix is not None and places.first_value is not None:
            v = self.mix[0] * v + self.mix[1] * places.first_value
        elif self.is_mixed:
            places.first_value = v
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        y = self.attend(q, k, v, places)
        return self.out(y.transpose(1, 2).reshape(B, T, C))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, places: Places) -> Tensor:
        """(B, H, T, D) and twice (B, H, S, D) -> (B, H, T, D): the last T of S tokens look back.

        On CUDA, dropout of attention weights happens inside the fused kernel. On other devices
        dropout selects an unfused path that is many times slower, so there whole columns of weights
        are dropped, by zeroing a token's value in a head. Each weight is dropped with the same
        probability, and the expected output is the same.
        """
        dropout = self.dropout.p if self.training else 0.0
        in_kernel = dropout if q.device.type == "cuda" else 0.0
        if dropout and not in_kernel:
            v = v * self.dropout(torch.ones_like(v[..., :1]))  # (B, H, S, 1) of 0 or 1 / (1 - p)
        kernel = None if self.score is None or self.score.is_linear else self.score
        if self.bias is not None or kernel is not None or self.is_short(q, k, places):
            values = None
            if self.bias is not None:  # (H, S)
                values = self.bias.of(torch.arange(k.shape[2], device=q.device))
            return attend_in_parts(q, k, v, values, places, in_kernel, kernel)
        # A mask is only needed around padding, and for several tokens that follow cached ones.
        T, S = q.shape[2], k.shape[2]
        is_causal = places.is_text is None and bool(T == S)
        mask = None
        if places.is_text is not None or (T > 1 and not is_causal):
            mask = places.visible(0, T)
            mask = mask.unsqueeze(1) if mask.dim() == 3 else mask
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=is_causal, dropout_p=in_kernel
        )

    def is_short(self, q: Tensor, k: Tensor, places: Places) -> bool:
        """Whether plain products are faster than a CPU's fused kernel, whose backward pass is slow.

        A training step of 16 x 128 tokens in bfloat16 takes 0.65 times as long with them.
        """
        if self.is_always_fused or q.device.type != "cpu" or torch.compiler.is_exporting():
            return False
        if places.is_text is not None:
            return False
        longest = ROWS if q.dtype == torch.bfloat16 else 128
        return 1 < k.shape[2] <= longest and q.shape[2] == k.shape[2]


def attend_in_parts(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    values: Tensor | None,
    places: Places,
    dropout: float,
    kernel: CosineScore | None,
) -> Tensor:
    """``Attention.attend`` with a bias of distance (H, S) or a function of the scores, or without.

    ``ROWS`` queries and about ``SCORES`` scores at a time, recomputed in the backward pass, so that
    memory grows with S and not with its square.
    """
    T, S = q.shape[2], k.shape[2]

    def rows(
        q: Tensor, k: Tensor, v: Tensor, values: Tensor | None, start: int, end: int
    ) -> Tensor:
        return weigh_in_parts(q, k, v, bias_of(values, places, start, end), dropout, kernel)

    if torch.compiler.is_exporting() or T <= ROWS:
        return rows(q, k, v, values, 0, T)
    parts = []
    for start in range(0, T, ROWS):
        end = min(start + ROWS, T)
        seen = S - T + end
        part = q[:, :, start:end], k[:, :, :seen], v[:, :, :seen], values, start, end
        parts.append(checkpoint(rows, *part, use_reentrant=False))
    return torch.cat(parts, dim=2)


def bias_of(values: Tensor | None, places: Places, start: int, end: int) -> Tensor:
    """What is added to a range of queries' scores, -inf where they may not look.

    (H, S) values by distance, or none -> (H or 1, T, S), or (B, H or 1, T, S) with padding.
    """
    if values is None:
        hidden = ~places.visible(start, end).unsqueeze(-3)
        return torch.zeros_like(hidden, dtype=torch.float32).masked_fill(hidden, -torch.inf)
    distance = places.distance(start, end)
    values = F.pad(values, (0, 1), value=-torch.inf)  # distance S: cannot be seen
    bias = values.gather(1, distance.flatten().expand(len(values), -1))
    return bias.view(-1, *distance.shape).movedim(0, -3)


def weigh_in_parts(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, dropout: float, kernel: CosineScore | None
) -> Tensor:
    """``weigh`` of a few sequences at a time."""
    most = SCORES_FLOAT32 if q.dtype == torch.float32 else SCORES
    count = max(1, most // (q.shape[1] * q.shape[2] * k.shape[2]))
    if torch.compiler.is_exporting() or q.device.type == "cuda" or len(q) <= count:
        return weigh(q, k, v, bias, dropout, kernel)
    biases = bias.split(count) if bias.dim() == 4 else [bias] * -(-len(q) // count)
    parts = zip(q.split(count), k.split(count), v.split(count), biases, strict=True)
    return torch.cat(
        [checkpoint(weigh, *part, dropout, kernel, use_reentrant=False) for part in parts]
    )


def weigh(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, dropout: float, kernel: CosineScore | None
) -> Tensor:
    """Attention with a bias that learns: (B, H, T, D), twice (B, H, S, D), (H, T, S) -> as q.

    A CPU has no fused kernel with a gradient of the bias.
    """
    if q.device.type == "cuda" and kernel is None:
        mask = bias.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if kernel is not None:
        scores = kernel(scores)
    weights = (scores + bias.to(scores.dtype)).softmax(-1)
    return F.dropout(weights, dropout) @ v  # 0 but on CUDA
