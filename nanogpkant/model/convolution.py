"""A short causal convolution of every channel, before queries, keys and values."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.config import ModelConfig
from nanogpkant.model.cache import Cache
from nanogpkant.model.positions import Places, make_curve


class ShortConvolution(nn.Module):
    """y_t = sum over lags l of k(l) * x_(t - l), with one kernel a channel or one a head.

    It starts as the identity. The kernel is a free number for every lag of every channel ("taps"),
    or a curve of the lag for the channels of each head ("curve").

    Source: convolutions of a few tokens in attention are from Primer (So et al., arXiv 2109.08668).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.length, self.channels = config.conv_length, config.n_embd
        identity = torch.eye(1, self.length, device="cpu")
        self.taps, self.curve = None, None
        if config.conv == "taps":
            self.taps = nn.Parameter(identity.repeat(self.channels, 1))
        else:
            self.curve = make_curve(identity.repeat(config.n_head, 1), config)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if self.taps is not None:
            self.taps.copy_(torch.eye(1, self.length))

    def kernel(self) -> Tensor:
        """(C, L): the factor of every lag, for every channel."""
        if self.curve is None:
            return self.taps
        values = self.curve.of(torch.arange(self.length, device=self.curve.weight.device))
        return values.repeat_interleave(self.channels // len(values), 0)

    def forward(self, x: Tensor, places: Places, layer: int, cache: Cache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C); the inputs before the first token are zero."""
        if places.is_text is not None:
            x = x * places.is_text[:, -x.shape[1] :, None]
        before = self.length - 1
        x = F.pad(x, (0, 0, before, 0)) if cache is None else cache.recall(layer, x, before)
        kernel = self.kernel().to(x.dtype).flip(-1)[:, None]  # (C, 1, L)
        return F.conv1d(x.mT, kernel, groups=self.channels).mT


def make_convolution(config: ModelConfig) -> ShortConvolution | None:
    """The convolution of ``model.conv``, if there is one."""
    return None if config.conv == "none" else ShortConvolution(config)
