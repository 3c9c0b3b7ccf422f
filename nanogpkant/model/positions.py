"""How attention knows where tokens stand: rotary embeddings, and biases of distance."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nanogpkant.config import ModelConfig
from nanogpkant.kan.curve import DistanceCurve

THETA = 10000.0  # of RoPE's slowest rotation


@dataclass
class Places:
    """The places of the S tokens of a forward pass; the last T of them are new, others cached.

    Padding takes no position and is visible only to itself: a row that sees nothing would be NaN.
    """

    new: int
    """T"""
    position: Tensor
    """(S,), or (B, S) where there is padding"""
    is_text: Tensor | None = None
    """(B, S), False at padding; None: no padding"""
    first_value: Tensor | None = None
    """(B, H, T, D) values of the first block, for ``value_residual``"""

    @staticmethod
    def of(new: int, total: int, device: torch.device, mask: Tensor | None) -> "Places":
        """The places of ``total`` tokens; ``mask`` (B, total) is 0 at padding."""
        if mask is None:
            return Places(new, torch.arange(total, device=device))
        is_text = mask.bool()
        return Places(new, (is_text.cumsum(-1) - 1).clamp(min=0), is_text)

    @property
    def new_position(self) -> Tensor:
        """(T,) or (B, T)."""
        return self.position[..., self.position.shape[-1] - self.new :]

    def visible(self, start: int, end: int) -> Tensor:
        """(T', S'), or (B, T', S') with padding: which tokens each of a range of new ones may see.

        S' are the tokens up to the last of the range.
        """
        total = self.position.shape[-1] - self.new + end  # S'
        order = torch.arange(total, device=self.position.device)
        rows = order[total - end + start :, None]
        if self.is_text is None:
            return order <= rows
        return (order <= rows) & self.is_text[:, None, :total] | (order == rows)

    def distance(self, start: int, end: int) -> Tensor:
        """Distances of the tokens of ``visible`` that may be seen; S stands for all others."""
        total = self.position.shape[-1] - self.new + end
        keys = self.position[..., :total]
        rows = keys[..., total - end + start :, None]
        distance = (rows - keys[..., None, :]).clamp(min=0)
        return distance.masked_fill(~self.visible(start, end), self.position.shape[-1])


def rotate(x: Tensor, position: Tensor) -> Tensor:
    """Rotary embedding of queries or keys: (B, H, T, D) and (T,) or (B, T) -> (B, H, T, D).

    Source: Su et al., RoFormer (arXiv 2104.09864), with the halves of a head paired, as in Llama.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    cos, sin = (w.to(x.dtype) for w in rotations(position[..., None, :], x.shape[-1], wide))
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def rotations(
    position: Tensor, head: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles of heads of D numbers: (...) -> twice (..., D / 2)."""
    half = head // 2
    frequency = THETA ** (-torch.arange(half, dtype=dtype, device=position.device) / half)
    angle = position[..., None] * frequency
    return angle.cos(), angle.sin()


def alibi_slopes(heads: int) -> Tensor:
    """(heads,) slopes 2^(-8 h / heads); between powers of two, those of the next one are added.

    Source: Press et al., ALiBi (arXiv 2108.12409).
    """
    whole = 2 ** (heads.bit_length() - 1)
    slopes = 2.0 ** (-8 * torch.arange(1, whole + 1, device="cpu") / whole)
    more = 2.0 ** (-4 * torch.arange(1, 1 + 2 * (heads - whole), 2, device="cpu") / whole)
    return torch.cat([slopes, more])


class Slopes(nn.Module):
    """ALiBi: every head's score falls linearly with distance, by a fixed or a learned slope."""

    def __init__(self, heads: int, learned: bool) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.empty(heads), requires_grad=learned)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.slopes.copy_(alibi_slopes(len(self.slopes)))

    def of(self, distance: Tensor) -> Tensor:
        """(L,) distances -> (heads, L)."""
        return -self.slopes[:, None] * distance


def make_bias(config: ModelConfig) -> Slopes | DistanceCurve | None:
    """What is added to the scores of a block's attention, a function of distance for every head."""
    if "alibi" in config.positions or "slopes" in config.positions:
        return Slopes(config.n_head, learned="slopes" in config.positions)
    if "curve" not in config.positions:
        return None
    line = -alibi_slopes(config.n_head)[:, None] * torch.arange(config.block_size, device="cpu")
    start = line if config.curve.start == "alibi" else torch.zeros_like(line)
    return make_curve(start, config)


def make_curve(start: Tensor, config: ModelConfig) -> DistanceCurve:
    """The curves of ``model.curve`` that start at (heads, distances) values."""
    curve, knots = config.curve, config.curve.at_most(start.shape[1])
    made = DistanceCurve(start, curve.basis, knots, curve.scale, curve.beyond)
    made.weight.requires_grad_(curve.learned)
    return made
