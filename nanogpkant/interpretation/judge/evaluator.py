"""Loss and KL divergence of a model with some of its modules swapped."""

from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.data import Batches, blocks
from nanogpkant.interpretation.judge.lookup import swapped
from nanogpkant.model.gpt import GPT

TOKENS = 16384  # per forward pass, which rebuilds all tables
PROBABILITIES = 1 << 25  # written out at a time
KEPT_PROBABILITIES = 1 << 26  # of the original, above which they are worked out again each time


@dataclass(frozen=True)
class Score:
    """Loss and divergence of a changed model."""

    loss: float
    """mean cross-entropy of the changed model, nats per token"""
    kl: float
    """mean Kullback-Leibler divergence of its predictions from the original's, nats per token"""
    tokens: int
    """predictions made"""

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


class SwapEvaluator:
    """Evaluates a model with swapped modules on a text, against the unchanged model.

    Args:
        model: in evaluation mode; it is put back as it was after every score.
        text: (length,) token ids, more than the model's ``block_size``.
        budget: tokens to predict, in whole windows drawn at random; 0 is the whole text, in order.
        seed: decides the windows.
    """

    def __init__(self, model: GPT, text: np.ndarray, budget: int = 0, seed: int = 0) -> None:
        self.model = model
        size, device = model.config.block_size, model.tokens.weight.device
        at_once = max(1, min(TOKENS, PROBABILITIES // model.vocab_size) // size)
        if 0 < budget < len(text):
            drawn = Batches(text, size, max(1, budget // size), seed).batch(0, device)
            self.batches = list(zip(*(part.split(at_once) for part in drawn), strict=True))
        else:
            self.batches = list(blocks(text, size, at_once, device))
        self.tokens = sum(y.numel() for _, y in self.batches)

    @cached_property
    def original(self) -> Score:
        """Of the unchanged model."""
        return self.score({})

    @cached_property
    def _before(self) -> list[Tensor]:
        """The original's log-probabilities of each batch, unless that is too many to keep."""
        if self.tokens * self.model.vocab_size > KEPT_PROBABILITIES:
            return []
        return [self._log_probabilities(x) for x, _ in self.batches]

    @torch.no_grad()
    def _log_probabilities(self, x: Tensor) -> Tensor:
        """(B, T) -> (B * T, V)."""
        return self.model(x).float().log_softmax(-1).flatten(0, 1)

    def row(self, modules: dict[str, nn.Module]) -> dict[str, float]:
        """``score`` as a table row, with ``added``: the loss above the original's."""
        score = self.score(modules)
        return score.as_dict() | {"added": score.loss - self.original.loss}

    def score(self, modules: dict[str, nn.Module]) -> Score:
        """Evaluate the text with these modules in place of the model's, by name."""
        loss = kl = 0.0
        for number, (x, y) in enumerate(self.batches):
            before = self._before[number] if self._before else self._log_probabilities(x)
            with swapped(self.model, modules):
                after = self._log_probabilities(x) if modules else before
            loss += F.nll_loss(after, y.flatten(), reduction="sum").item()
            kl += F.kl_div(after, before, reduction="sum", log_target=True).item()
        return Score(loss / self.tokens, kl / self.tokens, self.tokens)
