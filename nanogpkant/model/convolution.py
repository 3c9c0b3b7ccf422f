"""A short causal convolution of every channel, before queries, keys and values."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.config import ModelConfig
from nanogpkant.kan.curve import DistanceCurve
from nanogpkant.model.cache import Cache
from nanogpkant.model.positions import Places, make_curve


class Taps(nn.Module):
    """A free number for every lag of every channel, at first 1 at lag 0 and 0 elsewhere."""

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, length))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.weight.copy_(torch.eye(1, self.weight.shape[1]))

    def of(self, lag: Tensor) -> Tensor:
        """(L,) lags -> (C, L)."""
        return self.weight[:, lag]


class Decay(nn.Module):
    """1 at lag 0, and a e^(-lag / b) at every lag: two numbers a head, at first a = 0, b = 1."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.size, self.log_length = (nn.Parameter(torch.empty(heads)) for _ in range(2))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.size.zero_()
        self.log_length.zero_()

    def of(self, lag: Tensor) -> Tensor:
        """(L,) lags -> (H, L)."""
        tail = torch.exp(-lag * torch.exp(-self.log_length[:, None]))
        return (lag == 0) + self.size[:, None] * tail


class Convolution(nn.Module):
    """y_t = sum over lags l of k(l) * x_(t - l), which starts as the identity.

    Args:
        kernel: of every channel, or of every head's channels.

    Source: convolutions of a few tokens in attention are from Primer (So et al., arXiv 2109.08668).
    """

    def __init__(self, kernel: Taps | Decay | DistanceCurve, length: int) -> None:
        super().__init__()
        self.kernel, self.length = kernel, length

    def forward(self, x: Tensor, places: Places, layer: int, cache: Cache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C); the inputs before the first token are zero."""
        if places.is_text is not None:
            x = x * places.is_text[:, -x.shape[1] :, None]
        before, channels = self.length - 1, x.shape[-1]
        x = F.pad(x, (0, 0, before, 0)) if cache is None else cache.recall(layer, x, before)
        values = self.kernel.of(torch.arange(before, -1, -1, device=x.device))  # (C or H, L)
        weight = values.repeat_interleave(channels // len(values), 0).to(x.dtype)
        return F.conv1d(x.mT, weight[:, None], groups=channels).mT


def make_convolution(config: ModelConfig) -> Convolution | None:
    """The convolution of ``model.conv``, if there is one."""
    if config.conv == "none":
        return None
    if config.conv == "taps":
        return Convolution(Taps(config.n_embd, config.conv_length), config.conv_length)
    if config.conv == "decay":
        return Convolution(Decay(config.n_head), config.conv_length)
    identity = torch.eye(1, config.conv_length, device="cpu").repeat(config.n_head, 1)
    return Convolution(make_curve(identity, config), config.conv_length)
