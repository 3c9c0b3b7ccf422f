"""What a run would train on: how much memory a device has, and how fast it trains.

Rates are FLOP/s that training reaches, as ``counting`` counts them, not what a data sheet promises.
Here they are measured, in steps of the very model. For cards that are not here they are a share of
the peak: nanoGPT's GPT-2 takes about 4 days on 8 A100 (its README) for 600,000 steps of 491,520
tokens of 0.86 GFLOP, which is 92 TFLOPS a card, 0.3 of the peak. A run may well reach more.

Peaks are of dense products, from NVIDIA's data sheets of the A100, H100 SXM and H200 SXM, and its
white paper of the Ada architecture (bfloat16 with float32 sums).
"""

import re
from dataclasses import dataclass

import psutil
import torch
from jsonargparse import Namespace

from nanogpkant.base.console import bar
from nanogpkant.base.errors import UsageError
from nanogpkant.config import RunConfig
from nanogpkant.machine.device import processor, resolve_device, resolve_dtype
from nanogpkant.measure.step import Job, step
from nanogpkant.measure.timing import interleaved
from nanogpkant.model.counting import count

SHARE_OF_PEAK = 0.3
ASSUMED = "a100"
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


CARDS = {
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


def find_place(config: RunConfig, options: Namespace) -> Place:
    """The devices that ``plan``'s flags ask for.

    Raises:
        UsageError: a device that is not here, or an amount of memory that is none.
    """
    given = None if options.memory is None else bytes_of(options.memory)
    asks = options.gpus * options.nodes > 1 or given is not None
    name = options.gpu
    if name == "auto":
        elsewhere = asks and config.train.device == "auto" and not torch.cuda.is_available()
        name = ASSUMED if elsewhere else "here"
    if name == "here":
        device = resolve_device(config.train.device)
        memory = given or _memory_of(device, options.gpus)
        dtype = resolve_dtype(config.train.dtype, device)
        return Place(_name_of(device), device.type, dtype, memory, is_here=True)
    dtype = "bfloat16" if config.train.dtype == "auto" else config.train.dtype
    return Place(name, "cuda", dtype, given or CARDS[name].memory, is_here=False)


def bytes_of(text: str) -> int:
    """An amount of memory: GB is 10^9 bytes and GiB is 2^30, and so on.

    Raises:
        UsageError: text that is no such amount.
    """
    units = {unit.lower(): size for unit, size in UNITS.items()}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.strip().lower())
    amount = float(found[1]) * units.get(found[2], 0) if found else 0
    if amount < 1:
        raise UsageError(f"--memory {text}: must be a number above 0 and {', '.join(UNITS)}")
    return int(amount)


def _memory_of(device: torch.device, processes: int) -> int:
    """Bytes for each process; those of a machine share its main memory."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total // processes


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def rate_of(
    place: Place, config: RunConfig, vocab_size: int, sequences: int, given: float | None
) -> Rate:
    """How fast a device trains a model that fits.

    Args:
        sequences: in one pass on that device.
        given: TFLOPS that a person knows it to reach.
    """
    if given is not None:
        return Rate(given * 1e12, "given")
    if place.is_here:
        return _measured(place, config, vocab_size, sequences)
    card = CARDS[place.name]
    peak = card.full if place.dtype == "float32" else card.half
    source = f"{SHARE_OF_PEAK:.0%} of the {place.name}'s peak, assumed"
    return Rate(SHARE_OF_PEAK * peak * 1e12, source)


def _measured(place: Place, config: RunConfig, vocab_size: int, sequences: int) -> Rate:
    """The median of a few steps of this very model, the first left out."""
    device = resolve_device(config.train.device)
    if device.type == "cpu":
        of_one = count(config.model, vocab_size).flops_per_token * config.model.block_size
        sequences = max(1, min(sequences, int(MOST_FLOPS // of_one)))
    flags = (sequences, str(device), place.dtype, config.train.compile, vocab_size, config.optim)
    job = Job("", config.model, *flags)
    with bar("timing a step", "steps") as progress:
        timing = interleaved({"": step(job)}, ROUNDS, device, progress)[""]
    return Rate(1000 * job.flops / timing.median, f"steps of {sequences} sequences, measured here")
