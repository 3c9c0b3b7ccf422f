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

ROWS = 512  # queries at a time where scores are held in memory


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
        self.convolution = make_convolution(config)
        self.q_norm = make_norm(config, head, "rms") if config.qk_norm else nn.Identity()
        self.k_norm = make_norm(config, head, "rms") if config.qk_norm else nn.Identity()
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
        T, S = q.shape[2], k.shape[2]
        if self.bias is not None:  # (H, S)
            values = self.bias.of(torch.arange(S, device=q.device))
            return attend_with_bias(q, k, v, values, places, in_kernel)
        # A mask is only needed around padding, and for several tokens that follow cached ones.
        is_causal = places.is_text is None and bool(T == S)
        mask = None
        if places.is_text is not None or (T > 1 and not is_causal):
            mask = places.visible(0, T)
            mask = mask.unsqueeze(1) if mask.dim() == 3 else mask
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=is_causal, dropout_p=in_kernel
        )


def attend_with_bias(
    q: Tensor, k: Tensor, v: Tensor, values: Tensor, places: Places, dropout: float
) -> Tensor:
    """``Attention.attend`` with a bias of distance (H, S) added to the scores.

    ``ROWS`` queries at a time, recomputed in the backward pass, so that memory grows with S and not
    with its square.
    """
    T, S = q.shape[2], k.shape[2]
    values = F.pad(values, (0, 1), value=-torch.inf)  # distance S: cannot be seen

    def rows(q: Tensor, k: Tensor, v: Tensor, values: Tensor, start: int, end: int) -> Tensor:
        distance = places.distance(start, end)
        bias = values.gather(1, distance.flatten().expand(len(values), -1))
        bias = bias.view(-1, *distance.shape).movedim(0, -3)  # (H, T, S) or (B, H, T, S)
        return weigh(q, k, v, bias, dropout)

    if torch.compiler.is_exporting() or T <= ROWS:
        return rows(q, k, v, values, 0, T)
    parts = []
    for start in range(0, T, ROWS):
        end = min(start + ROWS, T)
        seen = S - T + end
        part = q[:, :, start:end], k[:, :, :seen], v[:, :, :seen], values, start, end
        parts.append(checkpoint(rows, *part, use_reentrant=False))
    return torch.cat(parts, dim=2)


def weigh(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, dropout: float) -> Tensor:
    """Attention with a bias that learns: (B, H, T, D), twice (B, H, S, D), (H, T, S) -> as q.

    A CPU has no fused kernel with a gradient of the bias, and three plain operations are faster
    there than one with a mask: at 16 x 128 tokens than the kernel without a bias, too.
    """
    if q.device.type == "cuda":
        mask = bias.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return (scores + bias.to(scores.dtype)).softmax(-1) @ v
