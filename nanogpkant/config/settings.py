"""RunConfig: all settings of a run, as typed dataclasses that validate themselves.

The text under each field is its ``--help``. A configuration is data: read from YAML and flags,
written to the run folder as ``config.yaml``, never executed.
"""

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from nanogpkant.base.errors import check_seed, refuse
from nanogpkant.config.bounds import FINE, LONG, at_least, at_most, fraction, path_like
from nanogpkant.config.model import ModelConfig
from nanogpkant.kan.bases import BASES

Tracker = Literal["wandb", "tensorboard", "trackio"]


@dataclass(frozen=True)
class DataConfig:
    """The training text."""

    dataset: str = "shakespeare_char"
    """dataset name: see nanogpkant prepare --help"""
    file: str | None = None
    """text file, or folder of texts, to prepare under that name"""
    dir: str = "data"
    """folder of prepared datasets"""

    def __post_init__(self) -> None:
        path_like("data", self, "dataset", "file", "dir")
        if self.file == "":
            refuse("data.file", "''", "must be the path of a text, or null")


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
    """peak learning rate of shared functions, curves of distance and learned slopes; null is
    learning_rate"""
    function_weight_decay: float = 0.0
    """weight decay of shared functions, towards the base function, and of curves, towards zero"""
    ema_decay: float = 0.0
    """decay of an exponential moving average of the weights, which is evaluated and saved in their
    place; 0 is none"""
    grad_clip: float = 1.0
    """maximum norm of the gradient; 0 disables clipping"""

    def __post_init__(self) -> None:
        at_most("optim", self)
        at_least("optim", self, learning_rate=0, min_lr=0, warmup_iters=0, weight_decay=0)
        at_least("optim", self, grad_clip=0, function_weight_decay=0, kan_learning_rate=0)
        at_least("optim", self, kan_weight_decay=0, function_learning_rate=0, decay_iters=1)
        fraction("optim", self, "beta1", "beta2", "ema_decay")
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
    """Changes of spline grids in training; each preserves the functions."""

    update_every: int = 0
    """optimiser steps between updates that fit every layer's grid to its inputs; 0 is never"""
    until: int | None = None
    """last step of grid updates; null is train.max_iters"""
    max_size: int = 64
    """grid intervals that an update may not exceed"""
    refine_at: dict[int, int] = field(default_factory=dict)
    """refinements by step: {1000: 10} gives grids, after step 1000, the spacing of 10 intervals
    over model.kan.grid_range; each size a multiple of the one before. Curves of distance are split
    alike; without model.kan.sites, sizes are of their model.curve.knots - 1 intervals"""

    def __post_init__(self) -> None:
        at_most("grid", self)
        at_least("grid", self, update_every=0, max_size=1, until=0)
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

    def parts_at(self, step: int, grid_size: int) -> int:
        """Parts of each of the model's first ``grid_size`` intervals after a refinement; or 1."""
        return self.refine_at.get(step, grid_size) // grid_size


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
    from_formulas: str | None = None
    """an interpreted run with curves of distance: its formulas become this model's fixed position
    bias (model.position as there), at any size; null is none"""
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
        at_most("train", self)
        at_least("train", self, max_iters=1, batch_size=1, grad_accum_steps=1, eval_interval=1)
        at_least("train", self, timeout=1, eval_tokens=1)
        at_least("train", self, log_interval=1, keep_every=0, sample_tokens=0)
        if self.max_seconds is not None and not 0 < self.max_seconds < math.inf:
            refuse("train.max_seconds", self.max_seconds, "must be above 0")
        check_seed(self.seed, "train.seed")
        path_like("train", self, "init_from", "from_formulas", "device")
        if self.from_formulas is not None and self.init_from != "scratch":
            remedy = f"does not go with --train.init_from {self.init_from}; give one of them"
            refuse("train.from_formulas", self.from_formulas, remedy)
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
    live: bool = False
    """open Trackio's dashboard of the run in a browser, its data in the run folder"""

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
            self._check_curves(f"grid.{flag}", value)
        if value and kan.sites and not BASES[kan.basis].has_grid:
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
        size = self.grid_size
        for finer in grid.refine_at.values():
            if finer <= size or finer % size:
                remedy = f"{finer} must be a multiple of the {size} before it, such as {2 * size}"
                refuse("grid.refine_at", grid.refine_at, remedy)
            size = finer

    @property
    def grid_size(self) -> int:
        """Grid intervals at first: of KAN layers, or of curves of distance where there are none."""
        if self.model.kan.sites or not self.model.curve_lengths:
            return self.model.kan.grid_size
        return self.model.curve.at_most(max(self.model.curve_lengths)) - 1

    def _check_curves(self, flag: str, value: Any) -> None:
        """Refuse changes of grids for a model whose only KAN functions are curves of distance."""
        if not self.model.curve_lengths:
            remedy = "there is no grid without --model.kan.sites or --model.position curve"
            refuse(flag, value, remedy)
        if self.grid.update_every:
            refuse(flag, value, "curves of distance cover all distances already; leave it out")
        longest = max(self.model.curve_lengths)
        self.model.curve.check_refinable(longest, flag, value)
        if max(self.grid.refine_at.values()) >= longest:
            remedy = f"curves of {longest} distances take fewer intervals than that"
            refuse(flag, value, remedy)


def with_changes(config: Any, **changes: Any) -> Any:
    """A copy of a config dataclass with dotted fields replaced: ``{"model.n_layer": 4}``."""
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        value = with_changes(getattr(config, head), **{rest: value}) if rest else value
        config = dataclasses.replace(config, **{head: value})
    return config
