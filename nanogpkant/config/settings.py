"""RunConfig: everything that decides a run, as typed dataclasses that refuse what cannot work.

The text under each field is its ``--help``. A configuration is data: it is read from YAML and from
flags, written to the run folder as ``config.yaml``, and never executed.
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


def refuse(flag: str, value: Any, remedy: str) -> typing.NoReturn:
    """Raise the one-line error for a setting that can never work."""
    raise UsageError(f"--{flag} {value}: {remedy}")


def check_seed(seed: int, flag: str = "seed") -> None:
    """Refuse a seed that some random stream cannot take."""
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
    """Which projections are KAN layers, and what those layers are."""

    sites: list[Site] = field(default_factory=list)
    """projections that are KAN: any of qkv, attn_out, mlp_in, mlp_out; none is the plain GPT"""
    basis: BasisName = "bspline"
    """family of one-dimensional functions; hat is piecewise linear; rational has to be shared, and
    so has line, a control: no more than a learned factor"""
    share: str = "edge"
    """edge: every edge has functions of its own; input: the edges of an input share one learned
    function; group:G: each of G groups of inputs shares one; atoms:K: the whole layer shares K"""
    grid_size: int = 5
    """intervals of the grid of bspline, hat and rbf"""
    spline_order: int = 3
    """degree of the pieces of bspline, 1 to 5; 3 is cubic"""
    degree: int = 3
    """highest degree of chebyshev and rational, highest frequency of fourier"""
    grid_range: tuple[float, float] = (-1.0, 1.0)
    """first and last grid point, in units of the layer's input"""
    outside: Literal["zero", "linear"] = "zero"
    """beyond the grid bspline and hat run out and are zero, or go on in straight lines"""
    base: Literal["silu", "gelu", "gelu_tanh", "identity", "none", "gpt"] = "silu"
    """function added to every edge's own, with a weight of its own, or to the first shared one;
    gpt is what the plain GPT has there: before mlp_out the gelu that model.mlp says, unless gated,
    identity elsewhere"""
    prenorm: Literal["none", "rms"] = "none"
    """divide every input vector by its root mean square before the functions, or not"""
    spline_scale: bool = False
    """learn one more factor for every edge's spline, as efficient-kan does"""
    init: Literal["variance_preserving", "whitened", "original"] = "variance_preserving"
    """how KAN weights start: unit variance in, unit variance out; that with all shapes of curve
    equally likely (whitened); or efficient-kan's way"""
    dropout: float = 0.0
    """share of a KAN layer's inputs whose functions are all dropped in training, 0 to below 1"""
    backend: Literal["auto", "triton", "recompute", "reference"] = "auto"
    """how the layer runs: triton is for GPUs, recompute saves only the layer's input, reference
    writes out every feature; auto is the best that can run"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid_range", tuple(self.grid_range))
        _at_least("model.kan", self, grid_size=1, degree=1)
        _fraction("model.kan", self, "dropout")
        try:
            kind, _ = parse_share(self.share)
        except ValueError:
            remedy = "must be edge, input, group:G or atoms:K, such as group:8"
            refuse("model.kan.share", self.share, remedy)
        if self.basis not in BASES:
            refuse("model.kan.basis", self.basis, f"must be one of {', '.join(BASES)}")
        if BASES[self.basis].must_be_shared and kind == "edge":
            refuse("model.kan.basis", self.basis, "has to be shared: --model.kan.share group:8")
        if not 1 <= self.spline_order <= 5:
            refuse("model.kan.spline_order", self.spline_order, "must be 1 to 5")
        low, high = self.grid_range
        if not (math.isfinite(high - low) and low < high):
            value = f"[{low}, {high}]"
            refuse("model.kan.grid_range", value, "the first number must be below the second")
        if len(set(self.sites)) != len(self.sites):
            refuse("model.kan.sites", self.sites, "names a site twice; name each once")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the GPT. With no KAN sites it is nanoGPT's plain model."""

    n_layer: int = 6
    """transformer blocks"""
    n_head: int = 6
    """attention heads a block"""
    n_embd: int = 384
    """width of the residual stream; a multiple of n_head"""
    block_size: int = 256
    """longest context, tokens"""
    mlp: Literal["gelu", "gelu_tanh", "gated"] = "gelu"
    """what is between an MLP's projections: gelu; gelu_tanh, the approximation to it that GPT-2
    has; or gated: of twice as many numbers one half, after SiLU, multiplies the other (SwiGLU)"""
    mlp_ratio: float = 4.0
    """width inside each MLP, where mlp_out reads, in units of n_embd"""
    dropout: float = 0.2
    """share of activations dropped in training, 0 to below 1"""
    bias: bool = False
    """biases in norms and projections, as GPT-2 has"""
    init: Literal["gpt2", "fan_in"] = "gpt2"
    """plain projections start as N(0, 0.02) (gpt2) or N(0, 1/sqrt(inputs)) (fan_in)"""
    kan: KANConfig = field(default_factory=KANConfig)

    def __post_init__(self) -> None:
        _at_least("model", self, n_layer=1, n_head=1, n_embd=1, block_size=1, mlp_ratio=0)
        _fraction("model", self, "dropout")
        if self.n_embd % self.n_head:
            fits = self.n_head * max(1, round(self.n_embd / self.n_head))
            remedy = f"must be a multiple of --model.n_head {self.n_head}; {fits} would be"
            refuse("model.n_embd", self.n_embd, remedy)
        if self.mlp_width < 1:
            refuse("model.mlp_ratio", self.mlp_ratio, "leaves the MLP no width at all")

    @property
    def mlp_width(self) -> int:
        """Numbers that an MLP's second projection reads."""
        return round(self.mlp_ratio * self.n_embd)


@dataclass(frozen=True)
class DataConfig:
    """What the model reads."""

    dataset: str = "shakespeare_char"
    """name of a dataset: see nanogpkant prepare --help"""
    file: str | None = None
    """a text, or a folder of texts, to use as that dataset, instead of its own source"""
    dir: str = "data"
    """folder that prepared datasets lie in"""


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its learning-rate schedule."""

    name: Literal["adamw", "muon"] = "adamw"
    """adamw; or muon: orthogonal steps, as large as AdamW's, for the matrices inside the blocks and
    AdamW for the rest; in our runs a learning rate two to six times that of adamw was best"""
    learning_rate: float = 1e-3
    """highest learning rate, reached after the warm-up"""
    min_lr: float = 1e-4
    """learning rate at the end of the decay"""
    warmup_iters: int = 100
    """iterations of linear warm-up"""
    decay_lr: bool = True
    """lower the rate along a cosine after the warm-up; otherwise keep it"""
    lr_decay_iters: int | None = None
    """iteration at which min_lr is reached; null is train.max_iters"""
    beta1: float = 0.9
    """AdamW's decay of the mean gradient"""
    beta2: float = 0.99
    """AdamW's decay of the mean squared gradient"""
    weight_decay: float = 0.1
    """decay of plain weight matrices; norms, biases and embeddings are never decayed"""
    kan_learning_rate: float | None = None
    """highest learning rate of KAN weights, on the same schedule; null is learning_rate"""
    kan_weight_decay: float | None = None
    """decay of KAN weights; null is weight_decay"""
    function_learning_rate: float | None = None
    """highest learning rate of the functions that KAN edges share; null is learning_rate"""
    function_weight_decay: float = 0.0
    """decay of the functions that KAN edges share, towards the base function"""
    grad_clip: float = 1.0
    """largest norm of the whole gradient; 0 switches clipping off"""

    def __post_init__(self) -> None:
        _at_least("optim", self, learning_rate=0, min_lr=0, warmup_iters=0, weight_decay=0)
        _at_least("optim", self, grad_clip=0)
        _fraction("optim", self, "beta1", "beta2")
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
        if self.lr_decay_iters is not None and self.lr_decay_iters <= self.warmup_iters:
            remedy = f"must be above --optim.warmup_iters {self.warmup_iters}"
            refuse("optim.lr_decay_iters", self.lr_decay_iters, remedy)


@dataclass(frozen=True)
class GridConfig:
    """When the spline grids of KAN layers change in training; the functions stay as they are."""

    update_every: int = 0
    """steps between updates, which let every layer's grid follow its inputs; 0 is never"""
    until: int | None = None
    """last step at which grids are updated; null is train.max_iters"""
    max_size: int = 64
    """intervals beyond which an update lets no grid grow"""
    refine_at: dict[int, int] = field(default_factory=dict)
    """after which steps grids become finer: {1000: 10} gives them, after 1000 steps, the spacing of
    10 intervals over model.kan.grid_range; each a multiple of the one before"""

    def __post_init__(self) -> None:
        _at_least("grid", self, update_every=0, max_size=1)
        if self.until is not None:
            _at_least("grid", self, until=0)
        object.__setattr__(self, "refine_at", dict(sorted(self.refine_at.items())))
        for step in self.refine_at:
            if step < 1:
                refuse("grid.refine_at", self.refine_at, f"step {step} must be at least 1")

    def updates_at(self, step: int) -> bool:
        """Whether grids follow their inputs after this many steps."""
        due = self.update_every > 0 and step > 0 and step % self.update_every == 0
        return due and (self.until is None or step <= self.until)

    def changes_at(self, step: int) -> bool:
        """Whether anything happens to grids after this many steps."""
        return self.updates_at(step) or step in self.refine_at

    def splits_at(self, step: int, grid_size: int) -> int:
        """Into how many parts every interval is split after this many steps; 1 leaves it whole.

        ``grid_size`` is that of the model's configuration.
        """
        if step not in self.refine_at:
            return 1
        earlier = [size for at, size in self.refine_at.items() if at < step]
        return self.refine_at[step] // (earlier[-1] if earlier else grid_size)


@dataclass(frozen=True)
class TrainConfig:
    """The loop: how long, how much at a time, what is written when, and on what it runs."""

    max_iters: int = 5000
    """optimiser steps"""
    max_seconds: float | None = None
    """also stop after this many seconds in training steps, with the learning rate at its end by
    then; such a run cannot be repeated bit for bit; null is no limit"""
    batch_size: int = 64
    """sequences in one forward and backward pass, of all processes together"""
    grad_accum_steps: int = 1
    """passes summed into one optimiser step"""
    eval_interval: int = 250
    """steps between evaluations on the whole validation split; a checkpoint goes with each"""
    eval_tokens: int | None = None
    """tokens that each evaluation predicts, from the validation split's start; null is all of it"""
    eval_only: bool = False
    """evaluate the starting model and stop"""
    always_save: bool = True
    """keep a checkpoint of the last evaluation, to resume from, even where it is not the best"""
    keep_every: int = 0
    """also keep the checkpoint of every this many steps; 0 keeps only the best and the last"""
    log_interval: int = 10
    """steps between rows of training loss in metrics.jsonl"""
    sample_tokens: int = 500
    """tokens written to samples.txt when training ends; 0 for none"""
    init_from: str = "scratch"
    """scratch, or whose weights training starts from: a run folder (its best), a local folder of a
    GPT-2 as transformers saves it, or gpt2, gpt2-medium, gpt2-large or gpt2-xl, which are
    downloaded; projections that are plain there may be KAN here, with the function kept"""
    seed: int = 1337
    """decides the initial weights, the batches and the dropout"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """of the matrix products; auto is bfloat16 where the device is measured to be fast at it"""
    compile: bool = False
    """compile the model with torch.compile where a compiler is at hand"""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """what several processes do: ddp, each holds the whole model; fsdp, each holds a part of every
    tensor, for models that do not fit otherwise; one process alone is the same either way"""
    timeout: float = 600.0
    """seconds after which a process that the others wait for counts as lost, and the run stops"""

    def __post_init__(self) -> None:
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
    """Where metrics go besides metrics.jsonl, which is always written."""

    trackers: list[Tracker] = field(default_factory=list)
    """live trackers: any of wandb, tensorboard, trackio"""
    project: str = "nanogpkant"
    """name of the project in the trackers"""
    wandb_mode: Literal["offline", "online"] = "offline"
    """offline keeps W&B's files in the run folder, for wandb sync to send; online needs a login"""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w .-]{0,99}", self.project):
            remedy = "use letters, digits, spaces, _, - and ., at most 100 of them"
            refuse("tracking.project", self.project, remedy)


@dataclass(frozen=True)
class RunConfig:
    """A whole experiment."""

    about: str = ""
    """one line that says what this experiment is"""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

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
