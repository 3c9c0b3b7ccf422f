"""The loss of a model with some of its modules swapped for others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.data import Batches, Ids, blocks
from nanogpkant.model.gpt import GPT

TOKENS = 16384  # of one forward pass; lookup tables are computed anew for each
PROBABILITIES = 1 << 25  # computed at a time
KEPT_PROBABILITIES = 1 << 26  # of the original; above, they are computed again for each swap


@dataclass(frozen=True)
class Score:
    """Loss and divergence of a changed model."""

    loss: float  # mean cross-entropy, nats per token
    kl: float  # mean Kullback-Leibler divergence from the original's predictions, nats per token
    tokens: int  # predictions made


class SwapEvaluator:
    """A text, and the original model's predictions of it.

    Args:
        model: in evaluation mode; restored after every score.
        text: (length,) token ids, more than the model's ``block_size``.
        budget: tokens to predict, in whole windows drawn at random; 0 is the whole text, in order.
        seed: decides the windows.
    """

    def __init__(self, model: GPT, text: Ids, budget: int = 0, seed: int = 0) -> None:
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
        """The original's log-probabilities of each batch; empty where too many to keep."""
        if self.tokens * self.model.vocab_size > KEPT_PROBABILITIES:
            return []
        return [self._log_probabilities(x) for x, _ in self.batches]

    @torch.no_grad()
    def _log_probabilities(self, x: Tensor) -> Tensor:
        """(B, T) -> (B * T, V)."""
        return self.model(x).float().log_softmax(-1).flatten(0, 1)

    def score(
        self, modules: dict[str, nn.Module], progress: Callable[[int], None] = lambda done: None
    ) -> Score:
        """Predict the text with these modules in place of those of the same names.

        Args:
            progress: called with the batches done.
        """
        loss = kl = 0.0
        for number, (x, y) in enumerate(self.batches):
            before = self._before[number] if self._before else self._log_probabilities(x)
            with swapped(self.model, modules):
                after = self._log_probabilities(x) if modules else before
            loss += F.nll_loss(after, y.flatten(), reduction="sum").item()
            kl += F.kl_div(after, before, reduction="sum", log_target=True).item()
            progress(number + 1)
        return Score(loss / self.tokens, kl / self.tokens, self.tokens)


@dataclass(frozen=True)
class Intervention:
    """A change to the model whose effect is measured."""

    labels: dict[str, Any]  # first columns of its row
    modules: Callable[[], dict[str, nn.Module]]  # makes the modules to swap in
    name: str = ""  # key of its result on disk; the values of the labels unless given


def measure(
    evaluator: SwapEvaluator,
    interventions: list[Intervention],
    remember: Callable[[str, Callable[[], Any]], Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Measure every intervention whose result is not on disk yet.

    Args:
        remember: ``Stage.result``: takes a name, and a function that computes its result.
        progress: called with (batches done, batches in all).

    Returns:
        a row for each intervention: its labels, ``loss``, ``kl``, ``tokens``, and ``added``, the
        loss above the original's.
    """
    rows, total, start = [], len(interventions) * len(evaluator.batches), 0
    for each in interventions:

        def score(each: Intervention = each, start: int = start) -> dict[str, float]:
            found = evaluator.score(each.modules(), lambda done: progress(start + done, total))
            return asdict(found) | {"added": found.loss - evaluator.original.loss}

        progress(start, total)
        start += len(evaluator.batches)
        name = each.name or " ".join(map(str, each.labels.values()))
        rows.append(each.labels | remember(name, score))
    return rows


@contextmanager
def swapped(model: nn.Module, modules: dict[str, nn.Module]) -> Iterator[None]:
    """Put other modules into a model, by name, for as long as the context lasts."""
    originals = {name: model.get_submodule(name) for name in modules}
    try:
        for name, module in modules.items():
            model.set_submodule(name, module)
        yield
    finally:
        for name, module in originals.items():
            model.set_submodule(name, module)
