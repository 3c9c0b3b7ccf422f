"""The GPT: nanoGPT's pre-norm transformer, with any of its projections made of KAN layers.

A plain GPT is the same code with an empty list of KAN sites: ``make_linear`` chooses the layer of a
projection, and nothing here knows of KAN layers.

Shapes: B sequences, T tokens, C = n_embd, H = n_head, D = C / H, V = vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.config import ModelConfig
from nanogpkant.model.dropout import Dropout
from nanogpkant.model.projection import make_linear


class Cache:
    """Keys and values of the tokens that each block has already seen, for generation."""

    def __init__(
        self, config: ModelConfig, batch_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        head = config.n_embd // config.n_head
        shape = (config.n_layer, 2, batch_size, config.n_head, config.block_size, head)
        self.store = torch.empty(shape, device=device, dtype=dtype)
        self.start = 0  # index in the text of the first token that is in the cache
        self.length = 0  # tokens in the cache

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, H, T, D) keys and values of new tokens; returns those of all tokens so far."""
        end = self.length + k.shape[2]
        self.store[layer, 0, :, :, self.length : end] = k
        self.store[layer, 1, :, :, self.length : end] = v
        return self.store[layer, 0, :, :, :end], self.store[layer, 1, :, :, :end]


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.n_head, self.layer = config.n_head, layer
        self.dropout = Dropout(config.dropout)
        self.qkv = make_linear("qkv", config)
        self.out = make_linear("attn_out", config)

    def forward(
        self, x: Tensor, cache: Cache | None = None, visible: Tensor | None = None
    ) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        # (B, T, 3C) -> three (B, H, T, D)
        q, k, v = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        y = self.attend(q, k, v, visible)
        return self.out(y.transpose(1, 2).reshape(B, T, C))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, H, T, D) and twice (B, H, S, D) -> (B, H, T, D): the last T of S tokens look back.

        ``visible`` (B, 1, T, S) is the mask; None is a plain causal one.

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
        # A mask is only needed for several tokens that follow cached ones.
        is_causal = visible is None and bool(T == S)
        if visible is None and not is_causal and T > 1:
            visible = _causal_mask(T, S, q.device)
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=visible, is_causal=is_causal, dropout_p=in_kernel
        )


def _causal_mask(T: int, S: int, device: torch.device) -> Tensor:
    """(T, S) of True where one of the last T of S tokens may look."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def _around_padding(attention_mask: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """Positions (B, T) of the last T of S tokens, and (B, 1, T, S) of where they may look.

    Padding takes no position and is visible only to itself: a row that sees nothing would be NaN.
    """
    is_text = attention_mask.bool()  # (B, S)
    position = (is_text.cumsum(-1) - 1).clamp(min=0)[:, -T:]
    S = is_text.shape[1]
    itself = torch.eye(S, dtype=torch.bool, device=is_text.device)[-T:]
    visible = _causal_mask(T, S, is_text.device) & is_text[:, None, None, :]
    return position, visible | itself


class MLP(nn.Module):
    """Two projections. GELU stands between them only where the second is a plain one.

    A KAN layer applies its own nonlinearity to its input. swiglu: SiLU(gate) * value with any
    second projection, since sums of one-dimensional functions cannot multiply.

    Source: SwiGLU is from Shazeer (arXiv 2002.05202).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.into = make_linear("mlp_in", config)
        self.out = make_linear("mlp_out", config)
        self.is_gated = config.mlp == "swiglu"
        self.has_gelu = not self.is_gated and "mlp_out" not in config.kan.sites
        self.approximate = "tanh" if config.mlp == "gelu_tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        hidden = self.into(x)
        if self.is_gated:
            gate, value = hidden.chunk(2, dim=-1)
            return self.out(F.silu(gate) * value)
        return self.out(F.gelu(hidden, approximate=self.approximate) if self.has_gelu else hidden)


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attention = Attention(config, layer)
        self.norm_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, x: Tensor, cache: Cache | None = None, visible: Tensor | None = None
    ) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.dropout(self.attention(self.norm_1(x), cache, visible))
        return x + self.dropout(self.mlp(self.norm_2(x)))


class GPT(nn.Module):
    """A decoder-only language model with learned positions and tied embeddings.

    Source: the architecture of GPT-2 as written by nanoGPT (github.com/karpathy/nanoGPT).
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.tokens = nn.Embedding(vocab_size, config.n_embd)  # also the output projection
        self.positions = nn.Embedding(config.block_size, config.n_embd)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd, bias=config.bias)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(
        self,
        idx: Tensor,
        targets: Tensor | None = None,
        cache: Cache | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Logits of the token after each token, or how well they predict the targets.

        Args:
            idx: (B, T) token ids; with a cache only those that follow the ones already in it.
            targets: (B, T) ids of the tokens that follow, where the loss is wanted.
            cache: keys and values of earlier tokens; the new ones are added to it.
            attention_mask: (B, S), 0 where one of the S tokens, those in the cache included, is
                padding; logits of the text are the same as without padding.

        Returns:
            (B, T, V) logits, or with targets their mean cross-entropy, nats per token, in float32.

        Raises:
            ValueError: more than ``block_size`` tokens, those in the cache included.
        """
        T, seen = idx.shape[1], 0 if cache is None else cache.length
        if seen + T > self.config.block_size:
            raise ValueError(f"{seen + T} tokens do not fit in block_size {self.config.block_size}")
        position, visible = torch.arange(seen, seen + T, device=idx.device), None
        if attention_mask is not None:
            position, visible = _around_padding(attention_mask, T)
        x = self.dropout(self.tokens(idx) + self.positions(position))  # (B, T, C)
        for block in self.blocks:
            x = block(x, cache, visible)
        if cache is not None:
            cache.length += T
        logits = F.linear(self.norm(x), self.tokens.weight)  # (B, T, V)
        if targets is None:
            return logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
