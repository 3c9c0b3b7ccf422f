"""A short causal convolution of every channel, before queries, keys and values."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.config import ModelConfig
from nanogpkant.model.cache import Cache
from nanogpkant.model.positions import Places, make_curve


class Convolution(nn.Module):
    """y_t = sum over lags l of k(l) * x_(t - l), which starts as the identity.

    A free number for every lag of every channel; ``LagCurve`` has other kernels.

    Source: convolutions of a few tokens in attention are from Primer (So et al., arXiv 2109.08668).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.length, self.channels = config.conv_length, config.n_embd
        self._make_kernel(config)

    def _make_kernel(self, config: ModelConfig) -> None:
        self.taps = nn.Parameter(torch.empty(self.channels, self.length))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.taps.copy_(torch.eye(1, self.length))

    def kernel(self) -> Tensor:
        """(C, L): the factor of every lag, for every channel."""
        return self.taps

    def forward(self, x: Tensor, places: Places, layer: int, cache: Cache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C); the inputs before the first token are zero."""
        if places.is_text is not None:
            x = x * places.is_text[:, -x.shape[1] :, None]
        before = self.length - 1
        x = F.pad(x, (0, 0, before, 0)) if cache is None else cache.recall(layer, x, before)
        kernel = self.kernel().to(x.dtype).flip(-1)[:, None]  # (C, 1, L)
        return F.conv1d(x.mT, kernel, groups=self.channels).mT


class LagCurve(Convolution):
    """A convolution whose kernel is a learned curve of the lag, for the channels of each head."""

    def _make_kernel(self, config: ModelConfig) -> None:
        identity = torch.eye(1, self.length, device="cpu").repeat(config.n_head, 1)
        self.curve = make_curve(identity, config)

    def reset_parameters(self) -> None:
        """The curve's own."""

    def kernel(self) -> Tensor:
        values = self.curve.of(torch.arange(self.length, device=self.curve.weight.device))
        return values.repeat_interleave(self.channels // len(values), 0)


def make_convolution(config: ModelConfig) -> Convolution | None:
    """The convolution of ``model.conv``, if there is one."""
    kinds = {"none": None, "taps": Convolution, "curve": LagCurve}
    kind = kinds[config.conv]
    return kind(config) if kind else None
