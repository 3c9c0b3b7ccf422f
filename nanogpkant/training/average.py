"""An exponential moving average of the weights, evaluated and saved in their place."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nanogpkant.base.errors import UserError


class WeightAverage:
    """The average of a model's parameters over its steps.

    The decay after step t is at most (1 + t) / (10 + t), so that the initial weights are soon
    forgotten.

    Source: Polyak & Juditsky (1992); the ramp is TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.parameters, self.decay = dict(model.named_parameters()), decay
        # The average; while that is in place, the weights in training.
        self.values = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after so many steps into the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, weights = list(self.values.values()), list(self.parameters.values())
        torch._foreach_lerp_(averages, weights, 1 - decay)  # pyright: ignore

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights within."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Resume: the model holds the average, and ``weights`` are those in training.

        Raises:
            UserError: they are not of the model's parameters.
        """
        ours = {name: (p.shape, p.dtype) for name, p in self.parameters.items()}
        dense = isinstance(weights, dict) and all(
            isinstance(w, Tensor) and w.layout == torch.strided for w in weights.values()
        )
        fits = dense and {name: (w.shape, w.dtype) for name, w in weights.items()} == ours
        if not (fits and all(torch.isfinite(w).all() for w in weights.values())):
            raise UserError("the weights in training are not of this model: use another checkpoint")
        for name, parameter in self.parameters.items():
            self.values[name].copy_(parameter.data)
            parameter.data.copy_(weights[name])

    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.data, self.values[name] = self.values[name], parameter.data
