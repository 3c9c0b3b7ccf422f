"""Tokens per second of sampling, with and without the cache of keys and values."""

from functools import partial

import torch

from nanogpkant.base.console import bar
from nanogpkant.base.errors import UserError
from nanogpkant.config import ModelConfig
from nanogpkant.generation import generate
from nanogpkant.kan import kan_layers
from nanogpkant.measure.timing import interleaved
from nanogpkant.model.gpt import GPT
from nanogpkant.report.table import Row


def untrained(config: ModelConfig, vocab_size: int, device: torch.device) -> GPT:
    """A model with seeded random weights, prepared for sampling as a loaded run is."""
    torch.manual_seed(0)
    model = GPT(config, vocab_size).to(device).eval()
    for layer in kan_layers(model).values():
        layer.fold_scale()
    return model


def sampling_rows(
    models: list[tuple[str, GPT]], tokens: int, repeats: int, device: torch.device
) -> list[Row]:
    """Time the sampling of one text of ``tokens`` tokens: two rows per model, without cache first.

    Raises:
        UserError: a model draws another text with the cache than without.
    """
    tasks = {
        (number, use_cache): partial(write, model, tokens, use_cache, device)
        for number, (_, model) in enumerate(models)
        for use_cache in (False, True)
    }
    for number, (name, _) in enumerate(models):
        if tasks[number, True]() != tasks[number, False]():
            raise UserError(f"{name}: cached and uncached sampling drew different texts: no times")
    with bar("sampling", "texts") as progress:
        timings = interleaved(tasks, repeats, device, progress)
    return [
        {
            "model": models[number][0],
            "sampling": "cached" if use_cache else "uncached",
            "tokens/s": 1000 * tokens / timing.median,
            "ms/token": timing.median / tokens,
            "min": timing.fastest / tokens,
            "max": timing.slowest / tokens,
            "speed-up": timings[number, False].median / timing.median,
            "over first": timing.median / timings[0, use_cache].median,
        }
        for (number, use_cache), timing in timings.items()
    ]


def write(model: GPT, tokens: int, use_cache: bool, device: torch.device) -> list[int]:
    """Token ids of one text."""
    prompt = torch.zeros(1, 1, dtype=torch.int64, device=device)
    drawn = generate(model, prompt, tokens, temperature=0.8, seed=1, use_cache=use_cache)
    return [int(token) for token in drawn]
