"""RunConfig: all settings of a run, as typed dataclasses that validate themselves.

The text under each field is its ``--help``. A configuration is data: read from YAML and flags,
written to the run folder as ``config.yaml``, never executed.
"""

import dataclasses
import math
import re
import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from nanogpkant.base.errors import UsageError
from nanogpkant.kan.bases import BASES, parse_share

Site = Literal["qkv", "attn_out", "mlp_in", "mlp_out"]
SITES: tuple[Site, ...] = typing.get_args(Site)
if TYPE_CHECKING:
    BasisName = str
else:
    BasisName = Literal[tuple(BASES)]
Tracker = Literal["wandb", "tensorboard", "trackio"]
TRACKERS: tuple[Tracker, ...] = typing.get_args(Tracker)
# Of earlier versions: keys, and values by key.
FORMER_KEYS = {"model.mlp": "model.activation"}
FORMER_VALUES = {("model.activation", "gated"): "swiglu"}
POSITIONS = ("learned", "rope", "alibi", "slopes", "curve", "none")


LONG = 10**12  # steps, tokens or seconds: no run is longer, and products of two fit an int64
WIDE = 2**20  # one size of a tensor: a square of it in float32 is 4 TB
FINE = 10**4  # functions of an edge, layers: more do not get far in training
BIG = 1e18  # float32 holds its square
MOST: dict[str, float] = {
    **dict.fromkeys(("model.n_embd", "model.n_head", "model.block_size"), WIDE),
    **dict.fromkeys(("model.conv_length", "model.curve.knots"), FINE),
    **dict.fromkeys(("train.batch_size", "train.grad_accum_steps"), WIDE),
    **dict.fromkeys(("model.n_layer", "model.kan.grid_size", "grid.max_size"), FINE),
    **dict.fromkeys(("model.kan.degree", "model.mlp_ratio"), 1000),
    **dict.fromkeys(("optim.warmup_iters", "optim.lr_decay_iters", "train.max_iters"), LONG),
    **dict.fromkeys(("train.max_seconds", "train.eval_interval", "train.eval_tokens"), LONG),
    **dict.fromkeys(("train.keep_every", "train.log_interval", "train.sample_tokens"), LONG),
    **dict.fromkeys(("grid.update_every", "grid.until", "optim.decay_iters"), LONG),
    **dict.fromkeys(("optim.learning_rate", "optim.min_lr", "optim.kan_learning_rate"), BIG),
    **dict.fromkeys(("optim.function_learning_rate", "optim.weight_decay"), BIG),
    **dict.fromkeys(("optim.kan_weight_decay", "optim.function_weight_decay"), BIG),
    **dict.fromkeys(("optim.grad_clip", "model.logit_softcap"), BIG),
    "train.timeout": 10**9,  # 30 years; torch counts nanoseconds
}


def refuse(flag: str, value: Any, remedy: str) -> typing.NoReturn:
    """Raise the one-line error for an invalid setting."""
    raise UsageError(f"--{flag} {value!s:.80}: {remedy}")


def _at_most(section: str, config: Any) -> None:
    for key, most in MOST.items():
        where, _, name = key.rpartition(".")
        value = getattr(config, name) if where == section else None
        if value is not None and value > most:
            refuse(key, value, f"must be at most {most:,}")


def check_seed(seed: int, flag: str = "seed") -> None:
    """Refuse a seed outside the range of any random generator in use."""
    if not 0 <= seed < 2**31:
        refuse(flag, seed, "must be 0 to 2147483647")


def _at_least(section: str, config: Any, **minima: float) -> None:
    for name, least in minima.items():
        value = getattr(config, name)
        if not (value >= least and math.isfinite(value)):
            refuse(f"{section}.{name}", value, f"must be at least {least}")


def _fraction(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            refuse(f"{section}.{name}", value, "must be at least 0 and below 1")


@dataclass(frozen=True)
class KANConfig:
    """Which projections are KAN layers, and their functions."""

    sites: list[Site] = field(default_factory=list)
    """projections that are KAN layers: any of qkv, attn_out, mlp_in, mlp_out; none is the plain
    GPT"""
    basis: BasisName = "bspline"
    """family of one-dimensional functions; hat is piecewise linear; rational and line need a shared
    model.kan.share; line, a control, is a learned slope"""
    share: str = "edge"
    """which edges share a function: edge: none; input: the edges of an input; group:G: those of
    each of G groups of inputs; atoms:K: every edge mixes K functions of the layer"""
    grid_size: int = 5
    """grid intervals of bspline, hat and rbf"""
    spline_order: int = 3
    """polynomial degree of bspline, 1 to 5; 3 is cubic"""
    degree: int = 3
    """highest degree of chebyshev and rational, highest frequency of fourier"""
    grid_range: tuple[float, float] = (-1.0, 1.0)
    """first and last grid point, in units of the layer's input"""
    outside: Literal["zero", "linear"] = "zero"
    """bspline and hat beyond the grid: zero, or linear extrapolation"""
    base: Literal["silu", "gelu", "gelu_tanh", "even", "identity", "none", "gpt"] = "silu"
    """base function added to the splines of every edge, with a learned weight, or to the first
    shared function; gpt: as in the plain GPT: before mlp_out model.activation, identity
    elsewhere and with swiglu"""
    prenorm: Literal["none", "rms"] = "none"
    """normalisation of the layer's input: none, or rms: divide by its root mean square"""
    spline_scale: bool = False
    """one more learned factor on every edge's spline, as in efficient-kan"""
    init: Literal["variance_preserving", "whitened", "original"] = "variance_preserving"
    """initial KAN weights: variance_preserving: unit variance in and out; whitened: the same, with
    all curve shapes equally likely; original: as in efficient-kan"""
    dropout: float = 0.0
    """probability of dropping an input of a KAN layer, with all its functions, in training; 0 to
    below 1"""
    backend: Literal["auto", "triton", "recompute", "reference"] = "auto"
    """implementation: triton: GPU kernels; recompute: saves only the layer's input for the
    backward pass; reference: materialises all features; auto: the fastest that runs"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid_range", tuple(self.grid_range))
        _at_most("model.kan", self)
        _at_least("model.kan", self, grid_size=1, degree=1)
        _fraction("model.kan", self, "dropout")
        try:
            kind, number = parse_share(self.share)
        except ValueError:
            remedy = "must be edge, input, group:G or atoms:K, such as group:8"
            refuse("model.kan.share", self.share, remedy)
        if number > WIDE:
            refuse("model.kan.share", self.share, f"must be of at most {WIDE:,}")
        if self.basis not in BASES:
            refuse("model.kan.basis", self.basis, f"must be one of {', '.join(BASES)}")
        if BASES[self.basis].must_be_shared and kind == "edge":
            refuse("model.kan.basis", self.basis, "has to be shared: --model.kan.share group:8")
        if not 1 <= self.spline_order <= 5:
            refuse("model.kan.spline_order", self.spline_order, "must be 1 to 5")
        low, high = self.grid_range
        if not -BIG <= low < high <= BIG:
            value = f"[{low}, {high}]"
            remedy = f"the first number must be below the second, both within {BIG:g}"
            refuse("model.kan.grid_range", value, remedy)
        if len(set(self.sites)) != len(self.sites):
            refuse("model.kan.sites", self.sites, "names a site twice; name each once")


@dataclass(frozen=True)
class CurveConfig:
    """Learned curves of distance: those of model.position curve, and of model.conv curve."""

    basis: Literal["hat", "bspline", "fourier"] = "hat"
    """functions of a curve: hat is piecewise linear, bspline cubic, fourier cosines and sines"""
    knots: int = 12
    """grid points of hat and bspline, frequencies of fourier; at most as many as distances"""
    scale: Literal["log", "linear", "buckets"] = "log"
    """what is equally spaced: log: log2(1 + distance); linear: distance; buckets: T5's buckets,
    a number each"""
    start: Literal["alibi", "zero"] = "alibi"
    """initial curves: ALiBi's lines, or zero"""
    beyond: Literal["clamp", "linear"] = "clamp"
    """distances beyond block_size: clamp: the last value; linear: along the last slope"""

    def __post_init__(self) -> None:
        least = 1 if self.basis == "fourier" else 2
        _at_most("model.curve", self)
        _at_least("model.curve", self, knots=least)
        if self.scale == "buckets" and self.basis != "hat":
            refuse("model.curve.basis", self.basis, "--model.curve.scale buckets takes hat")
        if self.beyond == "linear" and (self.basis == "fourier" or self.scale == "buckets"):
            remedy = "fourier and buckets have no last slope; use clamp"
            refuse("model.curve.beyond", self.beyond, remedy)

    def at_most(self, distances: int) -> int:
        """Knots of a curve of so many distances."""
        return min(self.knots, distances)


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the GPT. With no KAN sites it is a plain one, by default nanoGPT's."""

    n_layer: int = 6
    """transformer blocks"""
    n_head: int = 6
    """attention heads per block"""
    n_embd: int = 384
    """width of the residual stream; a multiple of n_head"""
    block_size: int = 256
    """context length, in tokens"""
    position: str = "learned"
    """how tokens know their place: learned: an embedding each; rope: rotated queries and keys;
    alibi: fixed slopes of distance in every head; slopes: learned ones; curve: learned curves of
    distance, see model.curve; none; or two with +, such as rope+curve"""
    curve: CurveConfig = field(default_factory=CurveConfig)
    norm: Literal["layer", "rms"] = "layer"
    """normalisation: layer: LayerNorm; rms: RMSNorm"""
    norm_weight: bool = True
    """learn a factor for every channel in norms"""
    qk_norm: bool = False
    """normalise queries and keys in every head, by RMSNorm"""
    activation: Literal[
        "gelu", "gelu_tanh", "silu", "even", "relu2", "leaky_relu2", "xielu", "swiglu"
    ] = "gelu"
    """activation of the MLP: gelu; gelu_tanh: its tanh approximation, as in GPT-2; silu; even:
    x (Phi(x) - 1/2), GELU without its linear part; relu2, leaky_relu2: squares; xielu: with two
    learned numbers; swiglu: SiLU(gate) * value, with twice as many outputs of mlp_in"""
    mlp_ratio: float = 4.0
    """hidden width of each MLP, in units of n_embd"""
    conv: Literal["none", "taps", "curve"] = "none"
    """causal convolution before queries, keys and values: taps: a number for every lag and channel;
    curve: a learned curve of the lag for every head's channels, see model.curve"""
    conv_length: int = 4
    """tokens that the convolution sees"""
    value_residual: bool = False
    """add the first block's values to those of every block, with learned factors"""
    tied: bool = True
    """one matrix for the embedding and the output projection"""
    logit_softcap: float = 0.0
    """soft limit of logits, cap * tanh(logits / cap); 0 is none"""
    dropout: float = 0.2
    """dropout probability in training, 0 to below 1"""
    bias: bool = False
    """biases in norms and projections, as in GPT-2"""
    init: Literal["gpt2", "fan_in", "variance_preserving"] = "gpt2"
    """initial weights of plain projections: gpt2: N(0, 0.02); fan_in: N(0, 1/sqrt(inputs))
    (standard deviations); variance_preserving: the same, after an activation divided by its root
    mean square"""
    residual: Literal["scaled", "zero"] = "scaled"
    """initial projections into the residual stream: scaled: 1/sqrt(2 n_layer) times
    smaller; zero"""
    kan: KANConfig = field(default_factory=KANConfig)

    def __post_init__(self) -> None:
        former = FORMER_VALUES.get(("model.activation", self.activation), self.activation)
        object.__setattr__(self, "activation", former)
        _at_most("model", self)
        _at_least("model", self, n_layer=1, n_head=1, n_embd=1, block_size=1, mlp_ratio=0)
        _at_least("model", self, conv_length=1, logit_softcap=0)
        _fraction("model", self, "dropout")
        if self.n_embd % self.n_head:
            fits = self.n_head * max(1, round(self.n_embd / self.n_head))
            remedy = f"must be a multiple of --model.n_head {self.n_head}; {fits} would be"
            refuse("model.n_embd", self.n_embd, remedy)
        if self.mlp_width < 1:
            refuse("model.mlp_ratio", self.mlp_ratio, "leaves the MLP no width at all")
        self._check_positions()

    def _check_positions(self) -> None:
        named = self.position.split("+")
        biases = [name for name in named if name in ("alibi", "slopes", "curve")]
        if unknown := [name for name in named if name not in POSITIONS]:
            remedy = f"{unknown[0]!r} is none of {', '.join(POSITIONS)}"
            refuse("model.position", self.position, remedy)
        if len(set(named)) < len(named) or len(biases) > 1 or ("none" in named and len(named) > 1):
            remedy = "these exclude each other; give one, or two such as rope+curve"
            refuse("model.position", self.position, remedy)
        head = self.n_embd // self.n_head
        if "rope" in named and head % 2:
            remedy = (
                f"rotates pairs, and a head of {self.n_embd} / {self.n_head} has {head} numbers"
            )
            refuse("model.position", self.position, f"{remedy}; make that even")
        for name, has_curve, flag in (
            ("position", "curve" in named, "block_size"),
            ("conv", self.conv == "curve", "conv_length"),
        ):
            if has_curve and getattr(self, flag) < 2:
                remedy = f"--model.{name} {getattr(self, name)} needs at least 2"
                refuse(f"model.{flag}", getattr(self, flag), remedy)

    @property
    def positions(self) -> list[str]:
        """The kinds of ``position``."""
        return self.position.split("+")

    @property
    def extrapolates(self) -> bool:
        """Whether texts may outgrow block_size: distance alone says where tokens stand."""
        return set(self.positions) <= {"alibi", "slopes", "curve"}

    @property
    def mlp_width(self) -> int:
        """Inputs of an MLP's second projection."""
        return round(self.mlp_ratio * self.n_embd)


@dataclass(frozen=True)
class DataConfig:
    """The training text."""

    dataset: str = "shakespeare_char"
    """dataset name: see nanogpkant prepare --help"""
    file: str | None = None
    """text file, or folder of texts, to prepare under that name"""
    dir: str = "data"
    """folder of prepared datasets"""


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its learning-rate schedule."""

    name: Literal["adamw", "muon"] = "adamw"
    """adamw; or muon: orthogonalised updates, scaled to AdamW's size, for the matrices of the
    blocks, and AdamW for the rest; its best learning rate was two to six times AdamW's in our
    runs"""
    learning_rate: float = 1e-3
    """peak learning rate, after the warm-up"""
    min_lr: float = 1e-4
    """final learning rate"""
    warmup_iters: int = 100
    """optimiser steps of linear warm-up"""
    decay_lr: bool = True
    """decay of the learning rate; otherwise constant after the warm-up"""
    decay: Literal["cosine", "linear"] = "cosine"
    """shape of the decay"""
    decay_iters: int | None = None
    """last optimiser steps, in which the rate decays after a constant one (warmup-stable-decay);
    null is all after the warm-up"""
    lr_decay_iters: int | None = None
    """optimiser step at which min_lr is reached; null is train.max_iters"""
    beta1: float = 0.9
    """AdamW: decay rate of the gradient's running mean"""
    beta2: float = 0.99
    """AdamW: decay rate of the squared gradient's running mean"""
    weight_decay: float = 0.1
    """weight decay of plain matrices; norms, biases and embeddings have none"""
    kan_learning_rate: float | None = None
    """peak learning rate of KAN weights; null is learning_rate"""
    kan_weight_decay: float | None = None
    """weight decay of KAN weights; null is weight_decay"""
    function_learning_rate: float | None = None
    """peak learning rate of shared functions and curves of distance; null is learning_rate"""
    function_weight_decay: float = 0.0
    """weight decay of shared functions, towards the base function, and of curves, towards zero"""
    ema_decay: float = 0.0
    """decay of an exponential moving average of the weights, which is evaluated and saved in their
    place; 0 is none"""
    grad_clip: float = 1.0
    """maximum norm of the gradient; 0 disables clipping"""

    def __post_init__(self) -> None:
        _at_most("optim", self)
        _at_least("optim", self, learning_rate=0, min_lr=0, warmup_iters=0, weight_decay=0)
        _at_least("optim", self, grad_clip=0)
        _fraction("optim", self, "beta1", "beta2", "ema_decay")
        _at_least("optim", self, function_weight_decay=0)
        for name in ("kan_learning_rate", "kan_weight_decay", "function_learning_rate"):
            if getattr(self, name) is not None:
                _at_least("optim", self, **{name: 0})
        for name in ("kan_learning_rate", "function_learning_rate"):
            if getattr(self, name) and not self.learning_rate:
                remedy = "follows the schedule of --optim.learning_rate, which must be above 0"
                refuse(f"optim.{name}", getattr(self, name), remedy)
        if self.decay_lr and self.min_lr > self.learning_rate:
            remedy = f"must not be above --optim.learning_rate {self.learning_rate}"
            refuse("optim.min_lr", self.min_lr, remedy)
        if self.decay_iters is not None:
            _at_least("optim", self, decay_iters=1)
        if self.lr_decay_iters is not None and self.lr_decay_iters <= self.warmup_iters:
            remedy = f"must be above --optim.warmup_iters {self.warmup_iters}"
            refuse("optim.lr_decay_iters", self.lr_decay_iters, remedy)


@dataclass(frozen=True)
class GridConfig:
    """Changes of spline grids in training; each preserves the functions."""

    update_every: int = 0
    """optimiser steps between updates that fit every layer's grid to its inputs; 0 is never"""
    until: int | None = None
    """last step of grid updates; null is train.max_iters"""
    max_size: int = 64
    """grid intervals that an update may not exceed"""
    refine_at: dict[int, int] = field(default_factory=dict)
    """refinements by step: {1000: 10} gives grids, after step 1000, the spacing of 10 intervals
    over model.kan.grid_range; each size a multiple of the one before"""

    def __post_init__(self) -> None:
        _at_most("grid", self)
        _at_least("grid", self, update_every=0, max_size=1)
        if self.until is not None:
            _at_least("grid", self, until=0)
        object.__setattr__(self, "refine_at", dict(sorted(self.refine_at.items())))
        for step, size in self.refine_at.items():
            if step < 1:
                refuse("grid.refine_at", self.refine_at, f"step {step} must be at least 1")
            if step > LONG or size > FINE:
                remedy = f"steps must be at most {LONG:,}, and sizes {FINE:,}"
                refuse("grid.refine_at", self.refine_at, remedy)

    def updates_at(self, step: int) -> bool:
        """Whether grids are fitted to their inputs after this many steps."""
        due = self.update_every > 0 and step > 0 and step % self.update_every == 0
        return due and (self.until is None or step <= self.until)

    def changes_at(self, step: int) -> bool:
        """Whether grids change after this many steps."""
        return self.updates_at(step) or step in self.refine_at

    def splits_at(self, step: int, grid_size: int) -> int:
        """The factor by which grids are refined after this many steps; 1 is unchanged.

        ``grid_size`` is the setting of the model.
        """
        if step not in self.refine_at:
            return 1
        earlier = [size for at, size in self.refine_at.items() if at < step]
        return self.refine_at[step] // (earlier[-1] if earlier else grid_size)


@dataclass(frozen=True)
class TrainConfig:
    """The training loop: length, batches, evaluation, checkpoints and device."""

    max_iters: int = 5000
    """optimiser steps"""
    max_seconds: float | None = None
    """seconds of training steps after which to stop, with the learning rate schedule compressed to
    end then; such a run is not repeatable bit for bit; null is no limit"""
    batch_size: int = 64
    """sequences per forward and backward pass, over all processes"""
    grad_accum_steps: int = 1
    """passes accumulated into one optimiser step"""
    eval_interval: int = 250
    """optimiser steps between evaluations on the validation split, each with a checkpoint"""
    eval_tokens: int | None = None
    """tokens of an evaluation, from the start of the validation split; null is all of it"""
    eval_only: bool = False
    """evaluate the initial model and stop"""
    always_save: bool = True
    """keep a checkpoint of the last evaluation to resume from, even if not the best"""
    keep_every: int = 0
    """also keep the checkpoint of every this many steps; 0 keeps the best and the last"""
    log_interval: int = 10
    """optimiser steps between rows of training loss in metrics.jsonl"""
    sample_tokens: int = 500
    """tokens sampled into samples.txt at the end of training; 0 for none"""
    init_from: str = "scratch"
    """initial weights: scratch, a run (its best checkpoint), a folder of a GPT-2 in the format of
    transformers, or gpt2, gpt2-medium, gpt2-large or gpt2-xl (downloaded); projections that are
    plain there may be KAN here, with their function preserved"""
    seed: int = 1337
    """seed of initial weights, batches and dropout"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """type of matrix products; auto is bfloat16 if measured to be fast on the device"""
    compile: bool = False
    """use torch.compile, if a compiler is installed"""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """with several processes: ddp: every process holds the whole model; fsdp: tensors are sharded,
    for models that do not fit otherwise"""
    timeout: float = 600.0
    """seconds to wait for another process before it counts as lost and the run stops"""

    def __post_init__(self) -> None:
        _at_most("train", self)
        _at_least("train", self, max_iters=1, batch_size=1, grad_accum_steps=1, eval_interval=1)
        _at_least("train", self, timeout=1)
        _at_least("train", self, log_interval=1, keep_every=0, sample_tokens=0)
        if self.max_seconds is not None and not 0 < self.max_seconds < math.inf:
            refuse("train.max_seconds", self.max_seconds, "must be above 0")
        if self.eval_tokens is not None:
            _at_least("train", self, eval_tokens=1)
        check_seed(self.seed, "train.seed")
        if self.keep_every % self.eval_interval:
            remedy = f"must be a multiple of --train.eval_interval {self.eval_interval}"
            refuse("train.keep_every", self.keep_every, remedy)
        if self.dtype == "float16" and not self.device.startswith(("cuda", "auto")):
            refuse("train.dtype", self.dtype, "works on CUDA alone; use bfloat16 or float32")
        if self.parallel == "fsdp" and (self.compile or self.dtype == "float16"):
            what = "--train.compile" if self.compile else "--train.dtype float16"
            refuse("train.parallel", self.parallel, f"does not go with {what}; use ddp")


@dataclass(frozen=True)
class TrackingConfig:
    """Trackers of metrics, besides metrics.jsonl."""

    trackers: list[Tracker] = field(default_factory=list)
    """live trackers: any of wandb, tensorboard, trackio"""
    project: str = "nanogpkant"
    """project name in the trackers"""
    wandb_mode: Literal["offline", "online"] = "offline"
    """offline: W&B's files stay in the run folder, for wandb sync; online needs a login"""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w .-]{0,99}", self.project):
            remedy = "use letters, digits, spaces, _, - and ., at most 100 of them"
            refuse("tracking.project", self.project, remedy)


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run."""

    about: str = ""
    """description of the experiment, in one line"""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimiser step, of all passes and processes together."""
        return self.train.batch_size * self.train.grad_accum_steps * self.model.block_size

    def __post_init__(self) -> None:
        kan, grid = self.model.kan, self.grid
        flag = "update_every" if grid.update_every else "refine_at"
        value = getattr(grid, flag)
        if value and not kan.sites:
            refuse(f"grid.{flag}", value, "there is no grid without --model.kan.sites")
        if value and not BASES[kan.basis].has_grid:
            refuse(f"grid.{flag}", value, f"--model.kan.basis {kan.basis} has no grid of splines")
        if value and self.train.parallel == "fsdp":
            remedy = f"grids cannot change in shards: use ddp, or leave --grid.{flag} out"
            refuse("train.parallel", "fsdp", remedy)
        if self.optim.ema_decay and (value or self.train.parallel == "fsdp"):
            remedy = "no average over shards or changing grids"
            refuse("optim.ema_decay", self.optim.ema_decay, remedy)
        if self.optim.name == "muon":
            if self.train.parallel == "fsdp":
                refuse("train.parallel", "fsdp", "--optim.name muon needs whole matrices; use ddp")
            if self.train.dtype == "float16":
                refuse("train.dtype", "float16", "does not go with --optim.name muon; use bfloat16")
        size = kan.grid_size
        for finer in grid.refine_at.values():
            if finer <= size or finer % size:
                remedy = f"{finer} must be a multiple of the {size} before it, such as {2 * size}"
                refuse("grid.refine_at", grid.refine_at, remedy)
            size = finer


def with_changes(config: Any, **changes: Any) -> Any:
    """A copy of a config dataclass with dotted fields replaced: ``{"model.n_layer": 4}``."""
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        value = with_changes(getattr(config, head), **{rest: value}) if rest else value
        config = dataclasses.replace(config, **{head: value})
    return config
