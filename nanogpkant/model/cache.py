"""What generation keeps of the tokens that the model has already seen."""

import torch
from torch import Tensor

from nanogpkant.config import ModelConfig


class Cache:
    """Keys and values of the tokens that each block has already seen, for generation."""

    def __init__(
        self, config: ModelConfig, batch_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        head = config.n_embd // config.n_head
        shape = (config.n_layer, 2, batch_size, config.n_head, config.block_size, head)
        self.store = torch.empty(shape, device=device, dtype=dtype)
        lags = (config.n_layer, batch_size, config.conv_length - 1, config.n_embd)
        self.inputs = torch.zeros(lags if config.conv != "none" else 0, device=device, dtype=dtype)
        self.start = 0  # index in the text of the first token that is in the cache
        self.length = 0  # tokens in the cache

    def restart(self, start: int) -> None:
        """Forget all tokens; the next one is token ``start`` of the text."""
        self.start, self.length = start, 0
        self.inputs.zero_()

    def reserve(self, end: int) -> None:
        """Make room for ``end`` tokens; more than a block: see ``ModelConfig.extrapolates``."""
        if end > self.store.shape[4]:
            longer = list(self.store.shape)
            longer[4] = 2 * end
            grown = self.store.new_empty(longer)
            grown[:, :, :, :, : self.length] = self.store[:, :, :, :, : self.length]
            self.store = grown

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, H, T, D) keys and values of new tokens; returns those of all tokens so far."""
        end = self.length + k.shape[2]
        self.reserve(end)
        self.store[layer, 0, :, :, self.length : end] = k
        self.store[layer, 1, :, :, self.length : end] = v
        return self.store[layer, 0, :, :, :end], self.store[layer, 1, :, :, :end]

    def recall(self, layer: int, x: Tensor, count: int) -> Tensor:
        """(B, T, C) new inputs of a convolution -> (B, count + T, C), with the ``count`` before."""
        x = torch.cat([self.inputs[layer].to(x.dtype), x], dim=1)
        self.inputs[layer] = x[:, x.shape[1] - count :]
        return x
