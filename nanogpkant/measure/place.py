"""The device that a run would train on: its memory, and its rate of training.

Rates are FLOP/s reached in training, as ``model.counting`` counts them, not peaks of a data sheet.
For this machine they are measured in steps of the same model, for other cards assumed as a share of
the peak: nanoGPT's GPT-2 takes about 4 days on 8 A100 (its README) for 600,000 steps of 491,520
tokens of 0.86 GFLOP, which is 92 TFLOPS a card, 0.3 of the peak. A run may well reach more.

Peaks are of dense products, from NVIDIA's data sheets of the A100, H100 SXM and H200 SXM, and its
white paper of the Ada architecture (bfloat16 with float32 sums).
"""

import re
from dataclasses import dataclass

import torch

from nanogpkant.base.console import bar
from nanogpkant.base.errors import UsageError
from nanogpkant.config import RunConfig
from nanogpkant.machine.device import memory_of, name_of, resolve_device, resolve_dtype
from nanogpkant.measure.step import job_of, step
from nanogpkant.measure.timing import interleaved
from nanogpkant.model.counting import count

SHARE_OF_PEAK = 0.3
ASSUMED = "a100"  # where there is no GPU here
ROUNDS = 3
MOST_FLOPS = 1e11  # in a timed step on a CPU; more sequences would hardly change the rate
UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@dataclass(frozen=True)
class Card:
    """A GPU by its data sheet."""

    memory: int
    """bytes"""
    half: float
    """peak TFLOPS of bfloat16 and float16 products"""
    full: float
    """the same of float32 ones"""


CARDS: dict[str, Card] = {
    "h100": Card(80 * 10**9, 989.4, 66.9),
    "h200": Card(141 * 10**9, 989.4, 66.9),
    "a100": Card(80 * 10**9, 312.0, 19.5),
    "4090": Card(24 * 10**9, 165.2, 82.6),
}


@dataclass(frozen=True)
class Place:
    """One of the devices that a run would train on."""

    name: str
    device: str
    """its kind: cpu, cuda or mps"""
    dtype: str
    memory: int
    """bytes that it has"""
    is_here: bool


@dataclass(frozen=True)
class Rate:
    """How fast a device trains."""

    flops: float
    """a second"""
    source: str
    """where the number comes from, in words"""


def find_place(config: RunConfig, gpu: str, gpus: int, nodes: int, memory: str | None) -> Place:
    """The devices that a run would train on.

    Args:
        gpu: a known card, "here", or "auto": see ``nanogpkant plan``.
        memory: of a device, as in "80GB"; None is what the device has.

    Raises:
        UsageError: a device or card that is unknown or not here, or a bad amount of memory.
    """
    given = None if memory is None else bytes_of(memory)
    if gpu == "auto":
        asks = gpus * nodes > 1 or given is not None
        elsewhere = asks and config.train.device == "auto" and not torch.cuda.is_available()
        gpu = ASSUMED if elsewhere else "here"
    if gpu == "here":
        device = resolve_device(config.train.device)
        dtype = resolve_dtype(config.train.dtype, device)
        # Processes of a machine share its main memory.
        has = memory_of(device) // (1 if device.type == "cuda" else gpus)
        return Place(name_of(device), device.type, dtype, given or has, is_here=True)
    if gpu not in CARDS:
        raise UsageError(f"--gpu {gpu}: must be auto, here, {', '.join(CARDS)}")
    dtype = "bfloat16" if config.train.dtype == "auto" else config.train.dtype
    return Place(gpu, "cuda", dtype, given or CARDS[gpu].memory, is_here=False)


def bytes_of(text: str) -> int:
    """Bytes of an amount such as "80GB": GB is 10^9 bytes, GiB is 2^30, and so on.

    Raises:
        UsageError: the text is no such amount.
    """
    units = {unit.lower(): size for unit, size in UNITS.items()}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.strip().lower())
    amount = float(found[1]) * units.get(found[2], 0) if found else 0
    if amount < 1:
        raise UsageError(f"--memory {text}: must be a number above 0 and {', '.join(UNITS)}")
    return int(amount)


def rate_of(
    place: Place, config: RunConfig, vocab_size: int, sequences: int, given: float | None
) -> Rate:
    """How fast a device trains a model that fits in it.

    Args:
        sequences: in one pass on that device.
        given: known TFLOPS of it, which are then believed.
    """
    if given is not None:
        return Rate(given * 1e12, "given")
    if not place.is_here:
        card = CARDS[place.name]
        peak = card.full if place.dtype == "float32" else card.half
        source = f"{SHARE_OF_PEAK:.0%} of the {place.name}'s peak, assumed"
        return Rate(SHARE_OF_PEAK * peak * 1e12, source)
    # The median of a few steps of the same model, after one to warm up.
    device = resolve_device(config.train.device)
    if device.type == "cpu":
        of_one = count(config.model, vocab_size).flops_per_token * config.model.block_size
        sequences = max(1, min(sequences, int(MOST_FLOPS // of_one)))
    job = job_of("", config, vocab_size, device, place.dtype, sequences)
    with bar("timing a step", "steps") as progress:
        timing = interleaved({"": step(job)}, ROUNDS, device, progress)[""]
    return Rate(1000 * job.flops / timing.median, f"steps of {sequences} sequences, measured here")
