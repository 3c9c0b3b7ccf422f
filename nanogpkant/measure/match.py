"""The GPT of another kind that costs as much as a preset.

Parameters and FLOPs are counted. Step time and memory are measured on this device, the steps of
both models in turn, so that other load on the machine slows both alike.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from nanogpkant.base.answer import Answer
from nanogpkant.base.console import bar
from nanogpkant.base.errors import UsageError, UserError, require_positive
from nanogpkant.config import ModelConfig, RunConfig, load_preset, to_yaml
from nanogpkant.kan.bases import parse_share
from nanogpkant.machine.device import measured_on, resolve_device, resolve_dtype
from nanogpkant.measure.step import Job, job_of, step, step_memory
from nanogpkant.measure.timing import interleaved
from nanogpkant.model.counting import count
from nanogpkant.model.gpt import GPT

TOLERANCE = 0.01  # largest mismatch of a close match, as a share of the reference's cost
VARIED = ("n_layer", "n_embd", "mlp_ratio")
COUNTED = {"params": "parameters", "flops": "flops_per_token"}
# The words for a match, and the unit of its cost.
UNITS = {
    "params": ("of as many parameters as", 1e-6, "M"),
    "flops": ("of as many training FLOPs a token as", 1e-6, "M"),
    "step_time": ("with training steps as long as those of", 1.0, " ms"),
    "memory": ("with training steps of as much memory as those of", 1e-6, " MB"),
}


@dataclass(frozen=True)
class Cost:
    """Cost of a candidate and of the reference, in the same unit."""

    value: float
    reference: float
    check: float | None = None
    """ratio of the medians, for a time: it differs where the machine is busy"""

    @property
    def ratio(self) -> float:
        return self.value / self.reference


Coster = Callable[[ModelConfig], Cost]


@dataclass(frozen=True)
class Match(Answer):
    """The model that was found; its words are the YAML of its configuration."""

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
        return to_yaml(self.config).rstrip("\n")

    def advice(self) -> str:
        """How close the match is and, where it is not, what could bring it closer."""
        if self.is_close:
            return self.config.about
        missed = f"{self.config.about}: this misses {TOLERANCE:.0%}"
        others = [name for name in VARIED if name not in self.vary]
        if not others:
            return f"{missed}, and is the nearest"
        return f"{missed}; --vary {' '.join([*self.vary, others[-1]])} may come closer"


class SavedMatch(Match):
    """A match that was written to a file; its words say how close it is."""

    on_stdout = False

    def words(self) -> str:
        return self.advice()


def find_match(
    preset: str,
    by: str,
    vary: Sequence[str],
    kind: str | None,
    kan: str,
    vocab_size: int,
    device: str,
    dtype: str,
    batch_size: int | None,
    repeats: int,
) -> Match:
    """Find the model of another kind that costs as much; see ``verbs.measure.match``."""
    require_positive(vocab_size=vocab_size, repeats=repeats, batch_size=batch_size)
    if by not in UNITS:
        raise UsageError(f"--by {by}: must be one of {', '.join(UNITS)}")
    if unknown := set(vary) - set(VARIED):
        raise UsageError(f"--vary {unknown.pop()}: must be any of {', '.join(VARIED)}")
    if len(set(vary)) != len(vary):
        raise UsageError(f"--vary {' '.join(vary)}: names a number twice; name each once")
    name, base = load_preset(preset)
    config, where = of_kind(base, kind, load_preset(kan)[1]), ""
    if by in COUNTED:
        cost = counted(by, base.model, vocab_size)
        model = closest(config.model, vary, cost)
    else:
        on = resolve_device(device, "--device")
        job = job_of("", base, vocab_size, on, resolve_dtype(dtype, on, "--dtype"), batch_size)
        where = f"; batch {job.batch_size} x {base.model.block_size}, {measured_on(on, job.dtype)}"
        near = closest(config.model, vary, counted("flops", base.model, vocab_size))
        cost = timed(job, repeats) if by == "step_time" else weighed(job)
        model = closest(near, vary, cost, good=TOLERANCE / 2)
    with torch.device("meta"):  # a width that the groups of a KAN do not divide is refused here
        GPT(model, vocab_size)
    # Measured afresh for the report: the search ended at a value because it was close.
    found = Match(name, by, list(vary), replace(config, model=model), cost(model))
    return replace(found, config=replace(found.config, about=describe(found) + where))


def of_kind(config: RunConfig, kind: str | None, kan: RunConfig) -> RunConfig:
    """The same experiment with a plain GPT, or with the KAN layers and grids of another one.

    Args:
        kind: "plain" or "kan"; None is the kind that ``config`` is not.

    Raises:
        UsageError: KAN layers are wanted of a preset that has none.
    """
    if kind == "plain" or (kind is None and config.model.kan.sites):
        kan = RunConfig()
    elif not kan.model.kan.sites:
        raise UsageError("--kan: names a preset without KAN layers; nanogpkant presets lists all")
    return replace(config, model=replace(config.model, kan=kan.model.kan), grid=kan.grid)


def counted(by: str, reference: ModelConfig, vocab_size: int) -> Coster:
    """Parameters, or FLOPs per token, by arithmetic."""

    def of(model: ModelConfig) -> int:
        return getattr(count(model, vocab_size), COUNTED[by])

    return lambda model: Cost(of(model), of(reference))


def timed(job: Job, repeats: int) -> Coster:
    """Milliseconds of a step, timed in turn with the reference's step."""
    reference, device = step(job), torch.device(job.device)

    def cost(model: ModelConfig) -> Cost:
        tasks = {"reference": reference, "candidate": step(replace(job, config=model))}
        with bar("timing steps", "steps") as progress:
            timings = interleaved(tasks, repeats, device, progress)
        own, other = timings["reference"], timings["candidate"]
        return Cost(other.fastest, own.fastest, other.median / own.median)

    return cost


def weighed(job: Job) -> Coster:
    """Peak bytes of a step.

    Raises:
        UserError: it takes more than there is, or too little to measure.
    """

    def of(model: ModelConfig) -> int:
        peak = step_memory(replace(job, config=model))
        if peak is None:
            raise UserError("--by memory: a training step did not fit here; lower --batch_size")
        if peak == 0:
            raise UserError("--by memory: a training step is too small to see; raise --batch_size")
        return peak

    own = of(job.config)
    return lambda model: Cost(of(model), own)


def closest(
    model: ModelConfig, vary: Sequence[str], cost: Coster, good: float = 0.0
) -> ModelConfig:
    """Change the first number until the cost is nearest the reference's, then the next if needed.

    Args:
        good: distance of the ratio from 1 that ends the search early.
    """
    for name in vary:
        size_of, resized = SIZES[name]
        size, ratio = nearest_size(
            lambda size, model=model, resized=resized: cost(resized(model, size)).ratio,
            size_of(model),
            good,
        )
        model = resized(model, size)
        if abs(ratio - 1) <= TOLERANCE:
            break
    return model


def unit(model: ModelConfig) -> int:
    """The smallest step of n_embd: whole heads, pairs in them for rope, whole groups of a KAN."""
    heads = model.n_head * (2 if "rope" in model.positions else 1)
    kind, groups = parse_share(model.kan.share)
    return math.lcm(heads, groups) if kind == "group" and model.kan.sites else heads


# A number's size in its smallest steps, and the model with another size.
SIZES: dict[str, tuple[Callable[[ModelConfig], int], Callable[[ModelConfig, int], ModelConfig]]] = {
    "n_layer": (lambda m: m.n_layer, lambda m, n: replace(m, n_layer=n)),
    "n_embd": (lambda m: max(1, m.n_embd // unit(m)), lambda m, n: replace(m, n_embd=n * unit(m))),
    "mlp_ratio": (lambda m: m.mlp_width, lambda m, n: replace(m, mlp_ratio=round(n / m.n_embd, 6))),
}


def nearest_size(ratio: Callable[[int], float], start: int, good: float) -> tuple[int, float]:
    """The integer, at least 1, at which an increasing ratio is nearest to 1, and that ratio.

    Doubles its strides until 1 is bracketed, then bisects.
    """
    low, high, size, stride = 0, None, start, max(1, start // 10)
    tried: dict[int, float] = {}
    while high is None or high - low > 1:
        tried[size] = ratio(size)
        if abs(tried[size] - 1) <= good:
            break
        if tried[size] < 1:
            low = size
        else:
            high = size
        if high is None:
            size += stride
        elif low == 0:
            size = max(1, size - stride)
        else:
            size = (low + high) // 2
        stride *= 2
    best = min(tried, key=lambda size: abs(math.log(tried[size])))
    return best, tried[best]


def describe(found: Match) -> str:
    """One line on what was matched and how well."""
    model, cost = found.config.model, found.cost
    alike, scale, unit = UNITS[found.by]
    kind = "a KAN" if model.kan.sites else "the plain GPT"
    value, reference = (f"{scale * each:,.2f}{unit}" for each in (cost.value, cost.reference))
    missed = f"{abs(found.mismatch):.2%} {'more' if found.mismatch > 0 else 'less'}"
    if cost.check is not None:
        missed += f" by the fastest rounds, {cost.check - 1:+.2%} by the medians"
    shape = f"n_layer {model.n_layer}, n_embd {model.n_embd}, mlp_ratio {model.mlp_ratio:g}"
    return f"{kind} {alike} {found.reference}: {value} against {reference} ({missed}), {shape}"
