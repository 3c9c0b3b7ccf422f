"""The model settings: the shape of the GPT, its curves of distance and its KAN layers."""

import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from nanogpkant.base.errors import refuse
from nanogpkant.config.bounds import BIG, WIDE, at_least, at_most, fraction
from nanogpkant.kan.bases import BASES, parse_share

Site = Literal["qkv", "attn_out", "mlp_in", "mlp_out"]
SITES: tuple[Site, ...] = typing.get_args(Site)
if TYPE_CHECKING:
    BasisName = str
else:
    BasisName = Literal[tuple(BASES)]
# Of earlier versions: keys, and values by key.
FORMER_KEYS = {"model.mlp": "model.activation"}
RETIRED_KEYS = {"train.formulas": "fixed"}  # and the value that runs without the key have
FORMER_VALUES = {("model.activation", "gated"): "swiglu"}
PLAIN_ACTIVATIONS = ("even_cosine", "xielu")  # no base functions of edges
POSITIONS = ("learned", "rope", "alibi", "slopes", "curve", "none")


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
        at_most("model.kan", self)
        at_least("model.kan", self, grid_size=1, degree=1)
        fraction("model.kan", self, "dropout")
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
    """Learned curves of distance, for model.position curve and model.conv curve."""

    basis: Literal["hat", "bspline", "fourier"] = "hat"
    """functions of a curve: hat is piecewise linear, bspline cubic, fourier cosines and sines"""
    knots: int = 12
    """grid points of hat and bspline, frequencies of fourier; at most as many as distances"""
    scale: Literal["log", "linear", "buckets"] = "log"
    """what is equally spaced: log: log2(1 + distance); linear: distance; buckets: T5's buckets,
    a number each"""
    start: Literal["alibi", "zero"] = "alibi"
    """initial curves: ALiBi's lines, or zero"""
    learned: bool = True
    """false: curves keep their initial values, or the formulas of train.from_formulas"""
    beyond: Literal["clamp", "linear"] = "clamp"
    """distances beyond block_size: clamp: the last value; linear: along the last slope"""

    def __post_init__(self) -> None:
        least = 1 if self.basis == "fourier" else 2
        at_most("model.curve", self)
        at_least("model.curve", self, knots=least)
        if self.scale == "buckets" and self.basis != "hat":
            refuse("model.curve.basis", self.basis, "--model.curve.scale buckets takes hat")
        if self.beyond == "linear" and (self.basis == "fourier" or self.scale == "buckets"):
            remedy = "fourier and buckets have no last slope; use clamp"
            refuse("model.curve.beyond", self.beyond, remedy)

    def check_refinable(self, distances: int, flag: str, value: Any) -> None:
        """Refuse to refine curves of so many distances that have no grid, or none to refine."""
        if self.basis == "fourier":
            refuse(flag, value, "--model.curve.basis fourier has no grid of splines")
        if self.scale == "buckets":
            refuse(flag, value, "--model.curve.scale buckets has a number for every bucket already")
        if self.knots >= distances:
            remedy = f"--model.curve.knots {self.knots} is a number for every distance already"
            refuse(flag, value, remedy)

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
    score_degree: int = 0
    """attention scores: 0: scaled products of queries and keys; 1: their cosine times a learned
    temperature a head; above: a learned polynomial of the cosine, of this degree"""
    activation: Literal[
        "gelu",
        "gelu_tanh",
        "silu",
        "even",
        "even_cosine",
        "relu2",
        "leaky_relu2",
        "xielu",
        "swiglu",
    ] = "gelu"
    """activation of the MLP: gelu; gelu_tanh: its tanh approximation, as in GPT-2; silu; even:
    x (Phi(x) - 1/2), GELU without its linear part; even_cosine: even(x) - 0.8 cos x - 0.7 cos 2x;
    relu2, leaky_relu2: squares; xielu: with two learned numbers; swiglu: SiLU(gate) * value, with
    twice as many outputs of mlp_in"""
    mlp_ratio: float = 4.0
    """hidden width of each MLP, in units of n_embd"""
    conv: Literal["none", "taps", "decay", "curve"] = "none"
    """causal convolution before queries, keys and values: taps: a number for every lag and channel;
    decay: an exponential of the lag for every head's channels; curve: a learned curve of it, see
    model.curve"""
    conv_length: int = 4
    """tokens that the convolution sees"""
    value_residual: bool = False
    """mix the first block's values into every block's, with learned factors"""
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
        at_most("model", self)
        at_least("model", self, n_layer=1, n_head=1, n_embd=1, block_size=1, mlp_ratio=0)
        at_least("model", self, conv_length=1, logit_softcap=0, score_degree=0)
        fraction("model", self, "dropout")
        if 0 < self.logit_softcap < 1e-3:  # logits / cap would overflow
            refuse("model.logit_softcap", self.logit_softcap, "must be 0, or at least 0.001")
        if self.n_embd % self.n_head:
            fits = self.n_head * max(1, round(self.n_embd / self.n_head))
            remedy = f"must be a multiple of --model.n_head {self.n_head}; {fits} would be"
            refuse("model.n_embd", self.n_embd, remedy)
        if self.mlp_width < 1:
            refuse("model.mlp_ratio", self.mlp_ratio, "leaves the MLP no width at all")
        if self.score_degree and self.qk_norm:
            remedy = "--model.score_degree norms queries and keys itself; leave one out"
            refuse("model.qk_norm", self.qk_norm, remedy)
        is_base = "mlp_out" in self.kan.sites and self.kan.base == "gpt"
        if is_base and self.activation in PLAIN_ACTIVATIONS:
            remedy = "is no base function of edges; give another, or --model.kan.base even"
            refuse("model.activation", self.activation, remedy)
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
            remedy = f"rotates pairs: a head of {self.n_embd} / {self.n_head} numbers must be even"
            refuse("model.position", self.position, remedy)
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
    def curve_lengths(self) -> list[int]:
        """Distances that the curves of the model are of: the positions', and the convolution's."""
        lengths = [self.block_size] if "curve" in self.positions else []
        return lengths + ([self.conv_length] if self.conv == "curve" else [])

    @property
    def extrapolates(self) -> bool:
        """Whether texts may outgrow block_size: distance alone says where tokens stand."""
        return set(self.positions) <= {"alibi", "slopes", "curve"}

    @property
    def mlp_width(self) -> int:
        """Inputs of an MLP's second projection."""
        return round(self.mlp_ratio * self.n_embd)
