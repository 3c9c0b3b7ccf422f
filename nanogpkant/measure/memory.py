"""Bytes of one device in a training step, by arithmetic: nothing is run.

With P parameters, N tokens in a pass on one device, C = n_embd, W the MLP's width, V the
vocabulary, H heads, and h bytes a number of the matrix products (2 under autocast, else 4):

- weights 4 P, gradients 4 P, and AdamW's two moments 8 P and a step count for every tensor; Muon
  has one moment alone of each matrix in the blocks. DDP
  holds all three whole on every device, the gradients once: they are views into its buckets. FSDP2
  holds a device's rows of every tensor, and whole, for as long as they are used: what is outside
  the blocks, two blocks' weights (one is fetched while the other works) and one's gradients; or all
  gradients where a step has several passes, because only the last one shares them out.
- activations, which autograd saves in the forward pass of every block, for each token:
  both norms' inputs 2 (4 C + 8); the inputs of qkv and of the MLP, 2 h C where those are plain and
  8 C where they are KAN, which take the norm's float32 as it is; queries, keys, values and
  attention's output 4 h C with 4 H of its sums, since the fused kernels never write out the
  weights; the MLP's hidden numbers, h W for the second projection, which a KAN layer saves no more
  than, and h W for GELU where that is plain, or 3 h W for a gate. Then the last norm 4 C + 8 + h C
  and, by far the most with a large vocabulary, the 4 V logarithms of the loss. Under autocast there
  is also a copy of every plain weight, 2 bytes a number. Masks of dropout, and what a KAN layer's
  prenorm and spline_scale keep, are counted below.
- workspace, held for a moment at the peak: the loss's backward pass has two more arrays of 4 V N
  bytes; or one layer's own gradients and, where it is KAN, the features of a chunk of tokens.

What torch.compile saves instead is not known here. Sources: what torch's saved-tensor hooks and its
memory tracker see (tests/preflight holds this to both); PyTorch's documentation of
DistributedDataParallel's gradient_as_bucket_view and of fully_shard; that attention's weights are
never stored is FlashAttention (arXiv 2205.14135); the accounting follows Korthikanti et al.
(arXiv 2205.05198), section 4.
"""

import math
from dataclasses import dataclass

import torch

from nanogpkant.config import SITES, ModelConfig, Site, with_changes
from nanogpkant.kan.backends.recompute import CHUNK_FEATURES, CHUNK_FEATURES_GPU
from nanogpkant.model.gpt import GPT
from nanogpkant.model.projection import features_at, site_shape
from nanogpkant.training.muon import matrices_in

FULL = 4  # bytes of a float32
INDEX = 8  # of an int64


@dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """what autograd saves for the backward pass, the loss's included"""
    workspace: int
    """held only for a moment, at the peak"""

    @property
    def total(self) -> int:
        return sum(vars(self).values())


class Sketch:
    """The shapes of a model's tensors: of one block, which stands for all, and of the rest.

    ``matrices`` are those of the block that Muon steps.

    Raises:
        UsageError: layers that cannot be.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        self.config, self.vocab_size = config, vocab_size
        with torch.device("meta"):  # nothing is held
            model = GPT(with_changes(config, n_layer=1), vocab_size)
        self.block = [p.shape for p in model.blocks.parameters()]
        matrices = matrices_in(model)
        self.matrices = [p.shape for p in model.blocks.parameters() if id(p) in matrices]
        named = model.named_parameters()
        self.outside = [p.shape for name, p in named if not name.startswith("blocks.")]


def estimate(
    model: Sketch,
    sequences: int,
    dtype: str,
    device: str,
    shards: int = 1,
    passes: int = 1,
    optimizer: str = "adamw",
) -> Memory:
    """What a step takes on the fullest device.

    Args:
        sequences: of block_size tokens, in one pass on that device.
        dtype: "float32", or "bfloat16" or "float16" under autocast.
        device: "cpu", "cuda" or "mps".
        shards: how many devices FSDP deals the model out to; 1 where each holds all of it.
        passes: forward and backward passes in a step.
        optimizer: "adamw" or "muon".
    """
    tokens = sequences * model.config.block_size
    half = FULL if dtype == "float32" else 2
    return Memory(
        *_states(model, shards, passes, optimizer),
        saved(model.config, model.vocab_size, tokens, half, device),
        _workspace(model.config, model.vocab_size, tokens, half, device),
    )


def _states(model: Sketch, shards: int, passes: int, optimizer: str) -> tuple[int, int, int]:
    """Weights, gradients and optimiser state."""
    layers = model.config.n_layer
    own = layers * _numbers(model.block, shards) + _numbers(model.outside, shards)
    tensors = layers * len(model.block) + len(model.outside)
    weights, gradients = own, own
    if shards > 1:
        block, outside = _numbers(model.block), _numbers(model.outside)
        weights += outside + min(2, layers) * block
        gradients += outside + (1 if passes == 1 else layers) * block
    moments = 2 * own + tensors
    if optimizer == "muon":
        moments -= layers * _numbers(model.matrices, shards)
    return FULL * weights, FULL * gradients, FULL * moments


def _numbers(shapes: list[torch.Size], shards: int = 1) -> int:
    """Of the first of so many shards, which is the largest: FSDP2 deals out rows."""
    return sum(shape.numel() // shape[0] * math.ceil(shape[0] / shards) for shape in shapes)


def saved(config: ModelConfig, vocab_size: int, tokens: int, half: int, device: str) -> int:
    """What autograd saves in a forward pass.

    Args:
        tokens: in the pass.
        half: bytes of a number of the matrix products, 4 without autocast.
    """
    width = config.n_embd
    norm = FULL * width + 2 * FULL  # its input, the mean and the standard deviation
    attention = 4 * half * width + FULL * config.n_head
    drops = config.dropout > 0
    if drops and device != "cuda":  # there the kernel drops, elsewhere a copy of the values does
        attention += half * (width + config.n_head)
    sites = sum(_input(site, config, half) for site in SITES)
    block = 2 * norm + attention + sites + _between(config, half) + drops * 2 * width
    ends = norm + half * width + drops * width + FULL * vocab_size + 2 * INDEX
    copies = sum(_copy(site, config, half) for site in SITES) * config.n_layer
    copies += 2 * vocab_size * width * (half < FULL)
    return tokens * (config.n_layer * block + ends) + copies + INDEX * config.block_size


def _input(site: Site, config: ModelConfig, half: int) -> int:
    """Bytes a token that a projection keeps of its input; attention keeps attn_out's anyway."""
    n, kan = site_shape(site, config)[0], config.kan
    is_attention = site == "attn_out"
    if site not in kan.sites:
        return 0 if is_attention else half * n
    given = FULL if site in ("qkv", "mlp_in") else half  # norms hand on float32
    kept = 0 if is_attention else given * n
    if kan.prenorm == "rms":  # its result, the float32 that it read, and its root mean square
        kept = given * n + FULL * n * (not is_attention or given < FULL) + FULL
    return kept + given * n * (kan.dropout > 0)


def _between(config: ModelConfig, half: int) -> int:
    """Bytes a token that stay of what is between an MLP's projections, their inputs left out."""
    if config.mlp == "swiglu":  # gate and value, and the gate's SiLU
        return 3 * half * config.mlp_width
    return 0 if "mlp_out" in config.kan.sites else half * config.mlp_width


def _copy(site: Site, config: ModelConfig, half: int) -> int:
    """Bytes of what is made of a projection's weight and kept: autocast's copy of a plain one."""
    n_in, n_out = site_shape(site, config)
    if site not in config.kan.sites:
        return 2 * n_in * n_out * (half < FULL)
    scaled = config.kan.spline_scale  # the product of the two is what the layer works with
    return FULL * features_at(site, config).size * n_in * n_out if scaled else 0


def _workspace(config: ModelConfig, vocab_size: int, tokens: int, half: int, device: str) -> int:
    """The most that the backward pass holds for a moment: at the loss, or in one projection."""
    return max(
        2 * FULL * vocab_size * tokens,
        *(_at_work(site, config, tokens, half, device) for site in SITES),
    )


def _at_work(site: Site, config: ModelConfig, tokens: int, half: int, device: str) -> int:
    n_in, n_out = site_shape(site, config)
    gradients = tokens * (half * (n_in + n_out) + FULL * config.n_embd)
    if site not in config.kan.sites:
        return gradients + half * n_in * n_out
    size = features_at(site, config).size
    chunk = CHUNK_FEATURES_GPU if device == "cuda" else CHUNK_FEATURES
    features = half * min(tokens * size * n_in, chunk)
    weights = (2 * half + FULL) * size * n_in * n_out  # packed, a chunk's gradient, the sum
    return gradients + features + weights
