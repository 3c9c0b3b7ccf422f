"""match: the GPT of the other kind that costs as much as a preset.

Parameters and FLOPs are counted, without building anything. Step time and memory are measured on
this device: the steps of both models in turn, so that what slows the machine slows both.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from nanogpkant.base.console import bar
from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.base.files import write_atomic
from nanogpkant.config import ModelConfig, RunConfig, load_preset, to_yaml, with_changes
from nanogpkant.machine.device import measured_on, resolve_device, resolve_dtype
from nanogpkant.measure.step import Job, step, step_memory
from nanogpkant.measure.timing import interleaved
from nanogpkant.model.counting import count
from nanogpkant.model.gpt import GPT

TOLERANCE = 0.01  # of the reference's cost: what a match may miss it by
# How a match is described: what both have alike, and the unit that it is written in.
UNITS = {
    "params": ("of as many parameters as", 1e-6, "M"),
    "flops": ("of as many training FLOPs a token as", 1e-6, "M"),
    "step_time": ("with training steps as long as those of", 1.0, " ms"),
    "memory": ("with training steps of as much memory as those of", 1e-6, " MB"),
}


@dataclass(frozen=True)
class Cost:
    """What a candidate costs, and what the reference does, in the same unit."""

    value: float
    reference: float
    check: float | None = None
    """the ratio of the two by another statistic, which differs where the machine is busy"""

    @property
    def ratio(self) -> float:
        return self.value / self.reference


Coster = Callable[[ModelConfig], Cost]


@dataclass(frozen=True)
class Match:
    """The model that was found."""

    reference: str
    by: str
    vary: list[str]
    config: RunConfig
    cost: Cost

    @property
    def mismatch(self) -> float:
        """How much more it costs than the reference, as a share of that."""
        return self.cost.ratio - 1

    @property
    def is_close(self) -> bool:
        return abs(self.mismatch) <= TOLERANCE

    def as_dict(self) -> dict[str, Any]:
        return {
            "reference": self.reference,
            "by": self.by,
            "vary": self.vary,
            "value": self.cost.value,
            "reference_value": self.cost.reference,
            "mismatch": self.mismatch,
            "mismatch_of_medians": None if self.cost.check is None else self.cost.check - 1,
            "within_tolerance": self.is_close,
            "config": asdict(self.config),
        }

    def words(self) -> str:
        """How close the match is and, where that is not close, what would bring it closer."""
        if self.is_close:
            return self.config.about
        missed = f"{self.config.about}: this misses {TOLERANCE:.0%}"
        others = [name for name in ("n_layer", "n_embd", "mlp_ratio") if name not in self.vary]
        if not others:
            return f"{missed}, and is the nearest"
        return f"{missed}; --vary {' '.join([*self.vary, others[-1]])} may come closer"


def match(options: Namespace) -> Match:
    """``nanogpkant match``.

    Raises:
        UsageError: flags that cannot work.
        UserError: a model that does not fit into memory, or a file that cannot be written.
    """
    out = None if options.out is None else Path(options.out)
    check(options, out)
    name, base = load_preset(options.preset)
    config = of_kind(base, options.to, load_preset(options.kan)[1])
    if options.by in ("params", "flops"):
        cost, where = counted(options.by, base.model, options.vocab_size), ""
        model = closest(config.model, options.vary, cost)
    else:
        near = counted("flops", base.model, options.vocab_size)
        model = closest(config.model, options.vary, near)
        cost, where = measured(options, base)
        model = closest(model, options.vary, cost, good=TOLERANCE / 2)
    with torch.device("meta"):  # a width that the groups of a KAN do not divide is refused here
        GPT(model, options.vocab_size)
    # What is reported is measured afresh: that which ended the search was chosen for being close.
    found = Match(name, options.by, options.vary, with_changes(config, model=model), cost(model))
    found = replace(found, config=with_changes(found.config, about=describe(found, where)))
    if out is not None:
        write_atomic(out, to_yaml(found.config))
    return found


def check(options: Namespace, out: Path | None) -> None:
    """Refuse flags that cannot work, before anything is measured."""
    for name in ("vocab_size", "repeats", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: must be at least 1")
    if len(set(options.vary)) != len(options.vary):
        raise UsageError(f"--vary {' '.join(options.vary)}: names a number twice; name each once")
    if out is not None and out.suffix not in (".yaml", ".yml"):
        raise UsageError(f"--out {out}: name a file that ends in .yaml")
    if out is not None and out.exists():
        raise UsageError(f"--out {out}: exists; remove it, or name another file")


def of_kind(config: RunConfig, to: str | None, kan: RunConfig) -> RunConfig:
    """The same experiment with a plain GPT, or with the KAN layers and grids of another one.

    Args:
        to: "plain" or "kan"; None is the kind that ``config`` is not.

    Raises:
        UsageError: KAN layers are wanted of a preset that has none.
    """
    if to == "plain" or (to is None and config.model.kan.sites):
        kan = RunConfig()
    elif not kan.model.kan.sites:
        raise UsageError("--kan: names a preset without KAN layers; nanogpkant presets lists all")
    return replace(config, model=replace(config.model, kan=kan.model.kan), grid=kan.grid)


def counted(by: str, reference: ModelConfig, vocab_size: int) -> Coster:
    """Parameters or FLOPs, by arithmetic."""
    attribute = {"params": "parameters", "flops": "flops_per_token"}[by]

    def of(model: ModelConfig) -> int:
        return getattr(count(model, vocab_size), attribute)

    return lambda model: Cost(of(model), of(reference))


def measured(options: Namespace, base: RunConfig) -> tuple[Coster, str]:
    """Step time or memory on this device, and a few words on how it was measured."""
    device = resolve_device(options.device, "--device")
    dtype = resolve_dtype(options.dtype, device, "--dtype")
    batch_size = options.batch_size or base.train.batch_size
    words = f"batch {batch_size} x {base.model.block_size}, {measured_on(device, dtype)}"

    def job(model: ModelConfig) -> Job:
        flags = (batch_size, str(device), dtype, base.train.compile, options.vocab_size)
        return Job("", model, *flags, base.optim)

    if options.by == "memory":
        own = _memory(job(base.model))
        return lambda model: Cost(_memory(job(model)), own), words
    reference = step(job(base.model))

    def step_time(model: ModelConfig) -> Cost:
        tasks = {"reference": reference, "candidate": step(job(model))}
        with bar("timing steps", "steps") as progress:
            timings = interleaved(tasks, options.repeats, device, progress)
        own, other = timings["reference"], timings["candidate"]
        return Cost(other.fastest, own.fastest, other.median / own.median)

    return step_time, words


def _memory(job: Job) -> int:
    """Bytes that a training step of a model takes.

    Raises:
        UserError: it takes more than there is, or too little to be seen.
    """
    peak = step_memory(job)
    if peak is None:
        raise UserError("--by memory: a training step did not fit here; lower --batch_size")
    if peak == 0:
        raise UserError("--by memory: a training step is too small to see; raise --batch_size")
    return peak


def closest(model: ModelConfig, vary: list[str], cost: Coster, good: float = 0.0) -> ModelConfig:
    """The model with the first number changed so that its cost comes nearest the reference's.

    The next number is changed only where that is not within the tolerance, and where it helps.

    Args:
        good: how near to 1 a ratio of costs ends the search.
    """
    for name in vary:
        size, ratio = nearest_size(
            lambda size, model=model, name=name: cost(resized(model, name, size)).ratio,
            size_of(model, name),
            good,
        )
        model = resized(model, name, size)
        if abs(ratio - 1) <= TOLERANCE:
            break
    return model


def nearest_size(ratio: Callable[[int], float], start: int, good: float) -> tuple[int, float]:
    """The whole number, at least 1, at which a growing ratio is nearest to 1, and that ratio.

    Strides that double until 1 lies between two sizes, then bisection.
    """
    low, high, size, stride = 0, math.inf, start, max(1, start // 10)
    tried: dict[int, float] = {}
    while high - low > 1:
        tried[size] = ratio(size)
        if abs(tried[size] - 1) <= good:
            break
        low, high = (size, high) if tried[size] < 1 else (low, size)
        if low > 0 and high < math.inf:
            size = (low + high) // 2
        else:
            size = max(1, size + stride if high == math.inf else size - stride)
            stride *= 2
    best = min(tried, key=lambda size: abs(math.log(tried[size])))
    return best, tried[best]


def size_of(model: ModelConfig, name: str) -> int:
    """The number that is varied, in the smallest steps that it can take."""
    sizes = {
        "n_layer": model.n_layer,
        "n_embd": model.n_embd // model.n_head,
        "mlp_ratio": model.mlp_width,
    }
    return sizes[name]


def resized(model: ModelConfig, name: str, size: int) -> ModelConfig:
    """The model with one number at ``size`` of those steps."""
    values = {
        "n_layer": size,
        "n_embd": size * model.n_head,
        "mlp_ratio": round(size / model.n_embd, 6),
    }
    return with_changes(model, **{name: values[name]})


def describe(found: Match, where: str) -> str:
    """One line on what was matched and how well."""
    model, cost = found.config.model, found.cost
    alike, scale, unit = UNITS[found.by]
    kind = "a KAN" if model.kan.sites else "the plain GPT"
    value, reference = (f"{scale * each:,.2f}{unit}" for each in (cost.value, cost.reference))
    more = "more" if found.mismatch > 0 else "less"
    shape = f"n_layer {model.n_layer}, n_embd {model.n_embd}, mlp_ratio {model.mlp_ratio:g}"
    words = f"{kind} {alike} {found.reference}: {value} against {reference}"
    missed = f"{abs(found.mismatch):.2%} {more}"
    if cost.check is not None:
        missed += f" by the fastest rounds, {cost.check - 1:+.2%} by the medians"
    words = f"{words} ({missed}), {shape}"
    return f"{words}; {where}" if where else words
