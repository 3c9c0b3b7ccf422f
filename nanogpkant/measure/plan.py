"""Size, memory and time of a training run, and whether it fits, before it starts."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanogpkant.base.answer import Answer
from nanogpkant.base.console import warn
from nanogpkant.base.errors import UsageError, refuse, require_positive
from nanogpkant.config import RunConfig, with_changes
from nanogpkant.data import TokenData
from nanogpkant.measure.memory import Memory, Sketch, estimate
from nanogpkant.measure.place import Place, Rate, find_place, rate_of
from nanogpkant.measure.remedy import MOST_GPUS, Setup, remedy
from nanogpkant.model.counting import VOCABULARIES, Count, count

# Of a device's memory: the rest is for CUDA's own, NCCL's buffers and the allocator's gaps.
USABLE = 0.9


@dataclass(frozen=True)
class Plan(Answer):
    """A training run before it starts. Memory is in bytes, per device."""

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
    failure: str | None
    """why it does not fit, and the smallest change that makes it fit"""
    expected: dict[str, Any] | None = None
    """by a scaling law: "loss" of this run, and "best_parameters", "best_tokens" and "best_loss" of
    the best one with as many FLOPs, of its "family"; and whether the law "is_measured" here"""

    @property
    def seconds_per_step(self) -> float | None:
        """Of the GPU that has the most to do; communication comes on top."""
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
        return self.steps * self.config.tokens_per_step

    @property
    def epochs(self) -> float | None:
        return self.tokens / self.train_tokens if self.train_tokens else None

    @property
    def flops(self) -> int:
        return self.tokens * self.counted.flops_per_token

    @property
    def seconds(self) -> float | None:
        return None if self.seconds_per_step is None else self.steps * self.seconds_per_step

    def as_dict(self) -> dict[str, Any]:
        """Bytes, seconds, and FLOPs of the whole run."""
        return {
            "preset": self.name,
            "parameters": self.counted.parameters,
            "parameters_without_positions": self.counted.parameters_without_positions,
            "vocab_size": self.vocab_size,
            "flops_per_token": self.counted.flops_per_token,
            "flops": self.flops,
            "device": self.place.name,
            "dtype": self.place.dtype,
            "gpus": self.setup.gpus,
            "nodes": self.setup.nodes,
            "parallel": self.setup.parallel,
            "sequences_per_gpu": self.setup.sequences,
            "tokens_per_step": self.config.tokens_per_step,
            "steps": self.steps,
            "tokens": self.tokens,
            "epochs": self.epochs,
            "memory": asdict(self.memory) | {"total": self.memory.total},
            "memory_limit": self.place.memory,
            "flops_rate": None if self.rate is None else self.rate.flops,
            "flops_rate_source": None if self.rate is None else self.rate.source,
            "seconds_per_step": self.seconds_per_step,
            "seconds": self.seconds,
            "expected": self.expected,
            "fits": self.failure is None,
            "refusal": self.failure,
        }

    def words(self) -> str:
        setup, block = self.setup, self.config.model.block_size
        a_step = f"{self.config.tokens_per_step:,} tokens: {setup.passes} x {setup.batch_size} "
        a_step += f"sequences of {block:,}, {setup.sequences} a device"
        nodes = f" on {setup.nodes} nodes" if setup.nodes > 1 else ""
        many = f", {setup.parallel}" if setup.world > 1 else ""
        epochs = "" if self.epochs is None else f", {self.epochs:.1f} times the text"
        rows = {
            "parameters": f"{self.counted.parameters / 1e6:,.2f} M",
            "trained on": f"{setup.world} x {self.place.name}{nodes}{many}, {self.place.dtype}",
            "a step": a_step,
            "in all": f"{self.tokens:,} tokens in {self.steps:,} steps{epochs}",
            "FLOPs": f"{self.flops:.3g}, {self.counted.flops_per_token / 1e6:,.1f} M a token",
            "memory": f"{size(self.memory.total)} of {size(self.place.memory)} a device",
        }
        rows |= {f"  {key}": size(value) for key, value in vars(self.memory).items()}
        if self.rate and self.seconds and self.seconds_per_step:
            rate = f"{self.rate.flops / 1e12:,.3g} TFLOPS a device ({self.rate.source})"
            step = f"{self.seconds_per_step:,.3g} s a step"
            rows["time"] = f"{duration(self.seconds)} of training, {step}, at {rate}"
        if law := self.expected:
            beyond = "" if law["is_measured"] else ", beyond what was measured"
            rows["expected loss"] = f"{law['loss']:.3f} by the law of {law['family']}{beyond}"
            rows["best for these"] = (
                f"{law['best_loss']:.3f} with {law['best_parameters']:,.3g} parameters and "
                f"{law['best_tokens']:,.3g} tokens"
            )
        return "\n".join(f"{name:<14} {value}" for name, value in rows.items())


def size(count: int) -> str:
    """Bytes in GB (10^9) or MB."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def duration(seconds: float) -> str:
    """Seconds in the unit that leaves the fewest digits."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def make_plan(
    name: str,
    config: RunConfig,
    gpus: int,
    nodes: int,
    gpu: str,
    memory: str | None,
    flops_rate: float | None,
    vocab_size: int | None,
) -> Plan:
    """Plan a run; see ``verbs.measure.plan``. A model is built only to time its steps here."""
    require_positive(gpus=gpus, nodes=nodes, vocab_size=vocab_size)
    if flops_rate is not None and not 0 < flops_rate < math.inf:
        raise UsageError(f"--flops_rate {flops_rate}: must be above 0, in TFLOPS")
    train, kan = config.train, config.model.kan
    if gpus * nodes > train.batch_size:
        problem = f"has fewer sequences than there are GPUs, {gpus * nodes}; raise it"
        refuse("train.batch_size", train.batch_size, f"{problem}, or use fewer GPUs")
    if kan.sites and kan.backend == "reference":
        problem = "saves every feature, which plan does not count; use auto"
        refuse("model.kan.backend", kan.backend, problem)
    if config.grid.update_every or config.grid.refine_at:
        warn("grids change in training: this is the cost before that, and finer ones cost more")
    data = prepared_data(config)
    vocab_size = vocab_size or vocab_size_of(config)
    place = find_place(config, gpu, gpus, nodes, memory)
    setup = Setup(train.batch_size, train.grad_accum_steps, gpus, nodes, train.parallel)
    sketch = Sketch(config.model, vocab_size)

    def memory_of(setup: Setup) -> Memory:
        shape = setup.sequences, place.dtype, place.device, setup.shards, setup.passes
        return estimate(sketch, *shape, config.optim)

    refusal = _refusal(name, config, setup, place, memory_of)
    rate = None
    if refusal is None or flops_rate or not place.is_here:
        rate = rate_of(place, config, vocab_size, setup.sequences, flops_rate)
    tokens = None if data is None else len(data.train)
    counted, needed = count(config.model, vocab_size), memory_of(setup)
    return Plan(name, config, vocab_size, tokens, counted, setup, place, needed, rate, refusal)


def prepared_data(config: RunConfig) -> TokenData | None:
    """The token files of a run's dataset; None where they are not prepared."""
    folder = Path(config.data.dir) / config.data.dataset
    return TokenData.open(folder) if folder.exists() else None


def vocab_size_of(config: RunConfig) -> int:
    """Number of different tokens: of the prepared data, else of a known dataset.

    Raises:
        UsageError: neither is there.
        UserError: damaged token files.
    """
    name = config.data.dataset
    if (data := prepared_data(config)) is not None:
        return data.vocab_size
    if name not in VOCABULARIES:
        remedy = "prepare it first, or say how many different tokens it has with --vocab_size"
        refuse("data.dataset", name, f"is not prepared in {config.data.dir}; {remedy}")
    return VOCABULARIES[name]


def _refusal(
    name: str, config: RunConfig, setup: Setup, place: Place, memory_of: Callable[[Setup], Memory]
) -> str | None:
    """Why a setup does not fit, and the smallest change that does; None where it fits."""

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
