"""plan: what a run is and costs, and whether it fits, before anything is started."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from nanogpkant.base.errors import UsageError
from nanogpkant.config import RunConfig, with_changes
from nanogpkant.data import TokenData
from nanogpkant.measure.memory import Memory, Sketch, estimate
from nanogpkant.measure.place import Place, Rate, find_place, rate_of
from nanogpkant.measure.remedy import MOST_GPUS, Setup, remedy
from nanogpkant.model.counting import VOCABULARIES, Count, count

# Of a device's memory: the rest is for CUDA's own, NCCL's buffers and the allocator's gaps.
USABLE = 0.9


@dataclass(frozen=True)
class Plan:
    """What a run would be."""

    name: str
    config: RunConfig
    vocab_size: int
    train_tokens: int | None
    """of the prepared text; None where it is not prepared"""
    counted: Count
    setup: Setup
    place: Place
    memory: Memory
    rate: Rate | None
    """None where it does not fit, and so cannot be measured"""
    refusal: str | None
    """why it cannot be, and what could"""

    @property
    def tokens_per_step(self) -> int:
        return self.setup.batch_size * self.setup.passes * self.config.model.block_size

    @property
    def seconds_per_step(self) -> float | None:
        """Of the GPU that has the most to do; what GPUs wait for each other comes on top."""
        if self.rate is None:
            return None
        tokens = self.setup.sequences * self.setup.passes * self.config.model.block_size
        return tokens * self.counted.flops_per_token / self.rate.flops

    @property
    def steps(self) -> int:
        """``train.max_iters``, or as many as ``train.max_seconds`` allows."""
        options = self.config.train
        if options.max_seconds is None or self.seconds_per_step is None:
            return options.max_iters
        return min(options.max_iters, math.ceil(options.max_seconds / self.seconds_per_step))

    @property
    def tokens(self) -> int:
        return self.steps * self.tokens_per_step

    @property
    def epochs(self) -> float | None:
        return self.tokens / self.train_tokens if self.train_tokens else None

    @property
    def seconds(self) -> float | None:
        return None if self.rate is None else self.steps * self.seconds_per_step

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: bytes, seconds, and FLOPs of the whole run; ``memory`` is of one GPU."""
        return {
            "preset": self.name,
            "parameters": self.counted.parameters,
            "parameters_without_positions": self.counted.parameters_without_positions,
            "vocab_size": self.vocab_size,
            "flops_per_token": self.counted.flops_per_token,
            "flops": self.tokens * self.counted.flops_per_token,
            "device": self.place.name,
            "dtype": self.place.dtype,
            "gpus": self.setup.gpus,
            "nodes": self.setup.nodes,
            "parallel": self.setup.parallel,
            "sequences_per_gpu": self.setup.sequences,
            "tokens_per_step": self.tokens_per_step,
            "steps": self.steps,
            "tokens": self.tokens,
            "epochs": self.epochs,
            "memory": asdict(self.memory) | {"total": self.memory.total},
            "memory_limit": self.place.memory,
            "flops_rate": None if self.rate is None else self.rate.flops,
            "flops_rate_source": None if self.rate is None else self.rate.source,
            "seconds_per_step": self.seconds_per_step,
            "seconds": self.seconds,
            "fits": self.refusal is None,
            "refusal": self.refusal,
        }

    def words(self) -> str:
        """The same for a person."""
        setup, block = self.setup, self.config.model.block_size
        of_step = f"{setup.passes} x {setup.batch_size} sequences of {block:,}"
        nodes = f" on {setup.nodes} nodes" if setup.nodes > 1 else ""
        many = f", {setup.parallel}" if setup.world > 1 else ""
        epochs = "" if self.epochs is None else f", {self.epochs:.1f} times the text"
        rows = {
            "parameters": f"{self.counted.parameters / 1e6:,.2f} M",
            "trained on": f"{setup.world} x {self.place.name}{nodes}{many}, {self.place.dtype}",
            "a step": f"{self.tokens_per_step:,} tokens: {of_step}, {setup.sequences} a device",
            "in all": f"{self.tokens:,} tokens in {self.steps:,} steps{epochs}",
            "FLOPs": f"{self.tokens * self.counted.flops_per_token:.3g}, "
            f"{self.counted.flops_per_token / 1e6:,.1f} M a token",
            "memory": f"{size(self.memory.total)} of {size(self.place.memory)} a device",
        }
        rows |= {f"  {key}": size(value) for key, value in vars(self.memory).items()}
        if self.rate is not None:
            rate = f"{self.rate.flops / 1e12:,.3g} TFLOPS a device ({self.rate.source})"
            step = f"{self.seconds_per_step:,.3g} s a step"
            rows["time"] = f"{duration(self.seconds)} of training, {step}, at {rate}"
        return "\n".join(f"{name:<14} {value}" for name, value in rows.items())


def size(count: int) -> str:
    """Bytes as people read them: 10^9 a GB."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def duration(seconds: float) -> str:
    """Seconds in the unit that leaves the fewest digits."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def plan(name: str, config: RunConfig, options: Namespace) -> Plan:
    """``nanogpkant plan``: no model is made, but to time its steps where it would train here.

    Raises:
        UsageError: flags that cannot work, or a model that cannot be.
        UserError: a damaged text.
    """
    check(options, config)
    data = _prepared(config)
    vocab_size = options.vocab_size or _vocab_size(config, data)
    place = find_place(config, options)
    train = config.train
    many = (options.gpus, options.nodes, train.parallel)
    setup = Setup(train.batch_size, train.grad_accum_steps, *many)
    memory_of = partial(_memory, Sketch(config.model, vocab_size), place, config.optim.name)
    memory, refusal = memory_of(setup), _refusal(name, config, setup, place, memory_of)
    rate = None
    if refusal is None or options.flops_rate or not place.is_here:
        rate = rate_of(place, config, vocab_size, setup.sequences, options.flops_rate)
    counted, tokens = count(config.model, vocab_size), None if data is None else len(data.train)
    return Plan(name, config, vocab_size, tokens, counted, setup, place, memory, rate, refusal)


def check(options: Namespace, config: RunConfig) -> None:
    """Refuse what cannot work, before anything is looked at.

    Raises:
        UsageError: naming the flag.
    """
    for flag in ("gpus", "nodes", "vocab_size"):
        value = getattr(options, flag)
        if value is not None and value < 1:
            raise UsageError(f"--{flag} {value}: must be at least 1")
    rate = options.flops_rate
    if rate is not None and not 0 < rate < math.inf:
        raise UsageError(f"--flops_rate {rate}: must be above 0, in TFLOPS")
    world, batch_size = options.gpus * options.nodes, config.train.batch_size
    if world > batch_size:
        problem = f"has fewer sequences than there are GPUs, {world}"
        raise UsageError(f"--train.batch_size {batch_size}: {problem}; raise it, or use fewer GPUs")
    if config.model.kan.sites and config.model.kan.backend == "reference":
        problem = "saves every feature, which plan does not count; use auto"
        raise UsageError(f"--model.kan.backend reference: {problem}")


def _prepared(config: RunConfig) -> TokenData | None:
    """The text, where it is prepared already."""
    folder = Path(config.data.dir) / config.data.dataset
    return TokenData.open(folder) if folder.exists() else None


def _vocab_size(config: RunConfig, data: TokenData | None) -> int:
    name = config.data.dataset
    if data is not None:
        return data.vocab_size
    if name not in VOCABULARIES:
        remedy = "prepare it first, or say how many different tokens it has with --vocab_size"
        raise UsageError(f"--data.dataset {name}: is not prepared in {config.data.dir}; {remedy}")
    return VOCABULARIES[name]


def _memory(model: Sketch, place: Place, optimizer: str, setup: Setup) -> Memory:
    where = (place.dtype, place.device)
    return estimate(model, setup.sequences, *where, setup.shards, setup.passes, optimizer)


def _refusal(
    name: str,
    config: RunConfig,
    setup: Setup,
    place: Place,
    memory_of: Callable[[Setup], Memory],
) -> str | None:
    """Why a setup cannot be and the smallest change that can; None where it fits."""

    def fits(other: Setup) -> bool:
        try:  # fsdp does not go with everything
            with_changes(config, **{"train.parallel": other.parallel})
        except UsageError:
            return False
        return memory_of(other).total <= USABLE * place.memory

    if fits(setup):
        return None
    needed, usable = size(memory_of(setup).total), size(int(USABLE * place.memory))
    usable = f"{usable} of {size(place.memory)} are usable"
    problem = f"{name} does not fit: it needs {needed} a device, {usable}"
    most = MOST_GPUS if place.device == "cuda" else setup.world  # others would share one memory
    changed = remedy(setup, fits, most)
    if changed is None:
        tried = "batch or number of GPUs" if place.device == "cuda" else "batch"
        return f"{problem}; no {tried} helps: lower --model.n_embd or --model.block_size"
    return f"{problem}; {changed.flags(setup)} needs {size(memory_of(changed).total)}"
