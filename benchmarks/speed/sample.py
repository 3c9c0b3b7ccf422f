"""Sampling with and without the cache of keys and values.

Times are given only after both ways have drawn the same text.
"""

from functools import partial

import torch
from jsonargparse import Namespace

from benchmarks.speed.charts import sample_bars
from benchmarks.speed.flags import check
from benchmarks.speed.report import Report, Table
from nanogpkant.base.console import bar
from nanogpkant.base.errors import UserError
from nanogpkant.config import load_preset
from nanogpkant.generation import generate
from nanogpkant.kan import kan_layers
from nanogpkant.machine.device import measured_on, resolve_device
from nanogpkant.measure.timing import interleaved
from nanogpkant.model.counting import SHAKESPEARE_CHARACTERS
from nanogpkant.model.gpt import GPT

COLUMNS = {key: key for key in ("sampling", "tokens/s", "ms/token", "min", "max", "speed-up")}


def run(options: Namespace) -> Report:
    """``nanogpkant bench sample``.

    Raises:
        UserError: the two ways drew different texts.
    """
    check(options, "repeats", "tokens")
    device = resolve_device(options.device, "--device")
    torch.manual_seed(0)
    config = load_preset(options.preset)[1].model
    model = GPT(config, SHAKESPEARE_CHARACTERS).to(device).eval()
    for layer in kan_layers(model).values():
        layer.fold_scale()  # as loading a run for sampling does
    tasks = {
        "uncached": partial(write, model, options.tokens, False, device),
        "cached": partial(write, model, options.tokens, True, device),
    }
    if tasks["cached"]() != tasks["uncached"]():
        raise UserError("bench sample: cached and uncached drew different texts: no times")
    with bar("sampling", "texts") as progress:
        timings = interleaved(tasks, options.repeats, device, progress)
    rows = [
        {
            "sampling": name,
            "tokens/s": 1000 * options.tokens / timing.median,
            "ms/token": timing.median / options.tokens,
            "min": timing.fastest / options.tokens,
            "max": timing.slowest / options.tokens,
            "speed-up": timings["uncached"].median / timing.median,
        }
        for name, timing in timings.items()
    ]
    title = f"{options.tokens} characters from {options.preset}, one text"
    report = Report("sample", title, measured_on(device, f"{options.repeats} rounds"))
    report.tables.append(Table(title, rows, COLUMNS))
    report.draw = partial(sample_bars, rows)
    report.save(options.out)
    return report


def write(model: GPT, tokens: int, use_cache: bool, device: torch.device) -> list[int]:
    prompt = torch.zeros(1, 1, dtype=torch.int64, device=device)
    drawn = generate(model, prompt, tokens, temperature=0.8, seed=1, use_cache=use_cache)
    return [int(token) for token in drawn]
