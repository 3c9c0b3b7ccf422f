"""The GPT: a pre-norm transformer, with any of its projections made of KAN layers.

A plain GPT is the same code with an empty list of KAN sites: ``make_linear`` chooses the layer of a
projection, and nothing here knows of KAN layers. The default settings make nanoGPT's model.

Shapes: B sequences, T tokens, C = n_embd, H = n_head, D = C / H, V = vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.config import ModelConfig
from nanogpkant.kan.bases.base import wide
from nanogpkant.model.attention import Attention
from nanogpkant.model.cache import Cache
from nanogpkant.model.dropout import Dropout
from nanogpkant.model.mlp import MLP
from nanogpkant.model.positions import Places
from nanogpkant.model.projection import Embedding, Linear, make_norm


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.norm_1 = make_norm(config, config.n_embd)
        self.attention = Attention(config, layer)
        self.norm_2 = make_norm(config, config.n_embd)
        self.mlp = MLP(config)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, places: Places, cache: Cache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.dropout(self.attention(self.norm_1(x), places, cache))
        return x + self.dropout(self.mlp(self.norm_2(x)))


class GPT(nn.Module):
    """A decoder-only language model.

    Source: the default architecture is GPT-2's as written by nanoGPT (github.com/karpathy/nanoGPT);
    the softcap is from Gemma 2 (arXiv 2408.00118).
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.tokens = Embedding(vocab_size, config.n_embd)  # the output projection too, if tied
        has_learned = "learned" in config.positions
        self.positions = Embedding(config.block_size, config.n_embd) if has_learned else None
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = make_norm(config, config.n_embd)
        self.head = None if config.tied else Linear(config.n_embd, vocab_size, False, std=0.02)

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
            ValueError: more tokens than there are learned positions, those in the cache included.
        """
        x, places = self.begin(self.tokens(idx), cache, attention_mask)
        for block in self.blocks:
            x = block(x, places, cache)
        if cache is not None:
            cache.length += idx.shape[1]
        logits = self.logits(self.norm(x))
        if targets is None:
            return logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    def begin(
        self, x: Tensor, cache: Cache | None = None, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Places]:
        """(B, T, C) embeddings of tokens -> the same with positions, and the tokens' places.

        Raises:
            ValueError: see ``forward``.
        """
        T = x.shape[1]
        S = T if cache is None else cache.length + T
        if self.positions is not None and self.config.block_size < S:
            raise ValueError(f"{S} tokens do not fit in block_size {self.config.block_size}")
        places = Places.of(T, S, x.device, attention_mask)
        if self.positions is not None:
            x = x + self.positions(places.new_position)
        return self.dropout(x), places

    def logits(self, x: Tensor) -> Tensor:
        """(B, T, C) normalised stream after the last block -> (B, T, V)."""
        head = self.tokens if self.head is None else self.head
        return self.cap(F.linear(x, head.weight))

    def cap(self, logits: Tensor) -> Tensor:
        """Logits within ``model.logit_softcap``."""
        cap = self.config.logit_softcap
        return cap * torch.tanh(wide(logits) / cap) if cap else logits
