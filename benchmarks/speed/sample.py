"""Sampling with and without the key-value cache, which must give the same text, and one token.

A token cannot take less time than reading the weights once, from memory or from the cache that they
fit into: that is measured beside it, by torch's sum of as many numbers.
"""

from functools import partial

import torch
from torch import Tensor

from benchmarks.speed.charts import sample_bars
from benchmarks.speed.report import Report, Table, require_above_zero
from nanogpkant.base.console import bar
from nanogpkant.base.errors import UserError
from nanogpkant.config import load_preset
from nanogpkant.machine.device import measured_on, resolve_device
from nanogpkant.measure.sampling import sampling_rows, untrained
from nanogpkant.measure.timing import Task, interleaved
from nanogpkant.model.cache import Cache
from nanogpkant.model.counting import SHAKESPEARE_CHARACTERS
from nanogpkant.model.decoding import make_decoder
from nanogpkant.model.gpt import GPT
from nanogpkant.report.table import Row

COLUMNS = {key: key for key in ("sampling", "tokens/s", "ms/token", "min", "max", "speed-up")}

PRESETS = (
    "quickstart_gpt",
    "quickstart_kan",
    "shakespeare_char_micro",
    "shakespeare_char_micro_kan",
    "shakespeare_char_matched",
)
TOKEN_COLUMNS = {
    "model": "model",
    "texts": "texts",
    "torch": "torch, ms",
    "compiled": "compiled, ms",
    "tokens/s": "tokens/s",
    "speed-up": "speed-up",
    "reading": "reading the weights once, ms",
    "over reading": "over reading",
}


def run(
    *,
    preset: str = "shakespeare_char_micro_kan",
    tokens: int = 1000,
    device: str = "auto",
    repeats: int = 7,
    out: str | None = None,
) -> Report:
    """Time sampling with and without the cache.

    Args:
        preset: model that writes, untrained.
        tokens: characters to write.
        device: auto, cpu, cuda, cuda:N or mps.
        repeats: timed rounds; slow ways get fewer, at least 3.
        out: folder for the tables (.json, .md) and the chart (.png).

    Raises:
        UserError: the two texts differ.
    """
    require_above_zero(repeats=repeats, tokens=tokens)
    where = resolve_device(device, "--device")
    model = untrained(load_preset(preset)[1].model, SHAKESPEARE_CHARACTERS, where)
    rows = sampling_rows([(preset, model)], tokens, repeats, where)
    title = f"{tokens} characters from {preset}, one text"
    report = Report("sample", title, measured_on(where, f"{repeats} rounds"))
    report.tables.append(Table(title, rows, COLUMNS))
    if where.type == "cpu":
        report.tables.append(Table("One token", token_rows(repeats), TOKEN_COLUMNS))
    report.draw = partial(sample_bars, rows)
    report.save(out)
    return report


@torch.no_grad()
def token_rows(repeats: int) -> list[Row]:
    """Times of one token of 1 and of 16 texts behind 64 others, by torch and compiled.

    Raises:
        UserError: the logits differ by more than 1e-4.
    """
    tasks: dict[tuple[str, int, str], Task] = {}
    for preset in PRESETS:
        model = untrained(load_preset(preset)[1].model, SHAKESPEARE_CHARACTERS, torch.device("cpu"))
        weights = [p.detach().flatten() for p in model.parameters()]
        for texts in (1, 16):
            ways = token_tasks(preset, model, texts) | {"reading": partial(read, weights)}
            tasks |= {(preset, texts, way): task for way, task in ways.items()}
    with bar("one token", "calls") as progress:
        timings = interleaved(tasks, repeats, torch.device("cpu"), progress)
    rows: list[Row] = []
    for preset, texts in dict.fromkeys(key[:2] for key in tasks):
        ms = {way: timings[preset, texts, way].median for way in ("torch", "compiled", "reading")}
        ratios = {
            "tokens/s": 1000 * texts / ms["compiled"],
            "speed-up": ms["torch"] / ms["compiled"],
            "over reading": ms["compiled"] / ms["reading"],
        }
        rows.append({"model": preset, "texts": texts, **ms, **ratios})
    return rows


def token_tasks(name: str, model: GPT, texts: int) -> dict[str, Task]:
    """One more token by torch's operations and by the compiled step, with equal logits."""
    cache = Cache(model.config, texts, torch.device("cpu"), torch.float32)
    ids = torch.randint(model.vocab_size, (texts, 65))
    model(ids[:, :64], cache=cache)
    decoder, new = make_decoder(model, texts), ids[:, 64:]
    if decoder is None:
        raise UserError(f"{name}: there is no compiled step; is there a C compiler?")

    def by_torch() -> Tensor:
        cache.length = 64
        return model(new, cache=cache)[:, -1]

    def compiled() -> Tensor:
        cache.length = 64
        return decoder(new, cache)

    if not torch.allclose(by_torch(), compiled(), rtol=0, atol=1e-4):
        raise UserError(f"{name}, {texts} texts: torch and the compiled step differ: no times")
    return {"torch": by_torch, "compiled": compiled}


def read(weights: list[Tensor]) -> None:
    """Read every number once."""
    for weight in weights:
        weight.sum()
