"""load: a trained model in Python, ready to write, to be measured and to be looked into."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nanogpkant.config import RunConfig
    from nanogpkant.data import Tokenizer
    from nanogpkant.evaluation import Evaluation
    from nanogpkant.model.gpt import GPT


@dataclass(frozen=True)
class LoadedRun:
    """A run's model with its tokenizer and settings."""

    name: str
    model: "GPT"
    """in evaluation mode"""
    tokenizer: "Tokenizer"
    config: "RunConfig"
    step: int
    """optimiser steps that its weights are of"""

    def generate(
        self,
        prompt: str | None = None,
        *,
        tokens: int = 500,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 1337,
    ) -> str:
        """Continue a text; returns the new text, without the prompt.

        Arguments and errors are those of ``nanogpkant.sample``.
        """
        import torch

        from nanogpkant.generation import generate

        text = self.tokenizer.start if prompt is None else prompt
        ids = torch.as_tensor(self.tokenizer.encode(text).astype("int64"), device=self._device)
        drawn = generate(self.model, ids[None], tokens, temperature, top_k, top_p, seed)
        return self.tokenizer.decode([int(token) for token in drawn])

    def evaluate(self, text_or_split: str = "val", *, batch_size: int = 64) -> "Evaluation":
        """Loss, perplexity, bits per character and accuracy of predicting a text.

        Args:
            text_or_split: a text, or train, val or test of the data that the run was trained on.
            batch_size: sequences at a time.

        Raises:
            UserError: the data is gone or is not the run's, or the text is too short.
        """
        from nanogpkant.data import SPLITS, check_length
        from nanogpkant.evaluation import evaluate
        from nanogpkant.run.folder import open_run
        from nanogpkant.run.load import open_run_data

        if text_or_split in SPLITS:
            ids = open_run_data(open_run(self.name), self.config.data).split(text_or_split)
        else:
            ids = self.tokenizer.encode(text_or_split)
        check_length(ids, self.config.model.block_size, "text")
        return evaluate(self.model, ids, batch_size)

    def edges(self, layer: str, x: "Tensor | None" = None) -> "tuple[Tensor, Tensor]":
        """The learned functions of a KAN layer, one for each edge.

        Args:
            layer: name of a KAN layer, such as blocks.0.mlp.into.
            x: (points,) inputs, or None for 101 points from -3 to 3.

        Returns:
            The points, and the values at them: (points, out_features, in_features).

        Raises:
            UserError: no KAN layer of that name; the error lists those that there are.
        """
        import torch

        from nanogpkant.base.errors import UserError
        from nanogpkant.kan import kan_layers

        layers = kan_layers(self.model)
        if layer not in layers:
            known = ", ".join(layers) or "none: this is a plain GPT"
            raise UserError(f"{layer}: not a KAN layer of {self.name}, which has {known}")
        points = torch.linspace(-3, 3, 101, device=self._device) if x is None else x
        with torch.no_grad():
            return points, layers[layer].edges(points)

    @property
    def _device(self) -> "torch.device":
        return self.model.tokens.weight.device


def load(run: str, *, checkpoint: str = "best", device: str = "auto") -> LoadedRun:
    """Load a trained model.

    Args:
        run: a run's name or folder, pretrained:NAME, or an exported folder.
        checkpoint: best, last, or step-NNNNNN.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        UserError: no such run or checkpoint, or one that is damaged.
        UsageError: a device that is not here.

    Examples:
        >>> import nanogpkant as ng
        >>> model = ng.load("pretrained:shakespeare-mini-kan", device="cpu")
        >>> len(model.generate("ROMEO:", tokens=20, seed=1))
        20
        >>> x, y = model.edges("blocks.0.mlp.into")
        >>> y.shape[0] == x.shape[0]
        True
    """
    from nanogpkant.machine.device import resolve_device
    from nanogpkant.run.load import load_model

    loaded = load_model(run, checkpoint, resolve_device(device, "--device"))
    return LoadedRun(run, loaded.model, loaded.tokenizer, loaded.config, loaded.step)
