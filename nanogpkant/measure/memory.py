"""Bytes of one device in a training step, without running one.

- Weights, gradients and optimiser state are counted: float32, and AdamW's two moments and a step
  count per tensor; Muon keeps one moment of each matrix in the blocks; an average of the weights
  (optim.ema_decay) is a copy of them. With DDP each device holds
  all of it, the gradients once (they are views into the buckets). With FSDP2 it holds its rows of
  every tensor, and for a while whole tensors: those outside the blocks, the weights of two blocks
  (one is fetched while the other computes) and the gradients of one; or all gradients where a step
  has several passes, because only the last pass scatters them.
- Activations are the tensors that autograd saves in a forward pass of the same model on fake
  tensors, which have shapes and no data. They are a CPU's; on CUDA, dropout happens within the
  attention kernel and saves nothing.
- Workspace is held for a moment at the peak: two more arrays of logits in the backward pass of the
  loss; or the gradients of one layer and, where it is KAN, the features of a chunk of tokens.

Not counted: what torch.compile saves instead. torch's MemTracker agrees (tests/measure), but takes
seconds per estimate, knows no CUDA without a GPU, and does not see into the KAN layer's operator.
"""

import math
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nanogpkant.config import SITES, ModelConfig, OptimConfig, Site, with_changes
from nanogpkant.kan.backends.recompute import CHUNK_FEATURES, CHUNK_FEATURES_GPU
from nanogpkant.model.attention import Attention
from nanogpkant.model.gpt import GPT
from nanogpkant.model.projection import features_at, site_shape
from nanogpkant.training.muon import matrices_in

FULL = 4  # bytes of a float32


@dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """saved by autograd for the backward pass, the loss included"""
    workspace: int
    """held only for a moment, at the peak"""

    @property
    def total(self) -> int:
        return sum(vars(self).values())


class Sketch:
    """Shapes of a model's tensors, for estimates at any batch size and number of devices.

    Raises:
        UsageError: layers that cannot be.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        self.config, self.vocab_size = config, vocab_size
        with torch.device("meta"):  # allocates nothing
            model = GPT(with_changes(config, n_layer=1), vocab_size)
        matrices = matrices_in(model)
        self.block = [p.shape for p in model.blocks.parameters()]
        self.matrices = [p.shape for p in model.blocks.parameters() if id(p) in matrices]
        named = model.named_parameters()
        self.outside = [p.shape for name, p in named if not name.startswith("blocks.")]
        self._saved: dict[tuple[int, str, str], list[int]] = {}

    def saved(self, sequences: int, dtype: str, device: str) -> int:
        """Bytes that autograd saves: linear in the layers from the second on, so from 2 and 3."""
        key, first = (sequences, dtype, device), min(2, self.config.n_layer)
        if key not in self._saved:
            models = [with_changes(self.config, n_layer=layers) for layers in (first, first + 1)]
            self._saved[key] = [
                saved_bytes(config, self.vocab_size, sequences, dtype, device) for config in models
            ]
        shallow, deep = self._saved[key]
        return shallow + (self.config.n_layer - first) * (deep - shallow)


def estimate(
    model: Sketch,
    sequences: int,
    dtype: str,
    device: str,
    shards: int = 1,
    passes: int = 1,
    optim: OptimConfig | None = None,
) -> Memory:
    """Estimate a step on the device that has the most to do.

    Args:
        sequences: of block_size tokens, in one pass on that device.
        dtype: "float32", or "bfloat16" or "float16" under autocast.
        device: "cpu", "cuda" or "mps".
        shards: devices that FSDP shards the model over; 1 where each holds all of it.
        passes: forward and backward passes in a step.
        optim: the optimiser, AdamW unless given; an average of the weights counts too.
    """
    layers = model.config.n_layer
    own = layers * _numbers(model.block, shards) + _numbers(model.outside, shards)
    weights, gradients = own, own
    if shards > 1:
        block, outside = _numbers(model.block), _numbers(model.outside)
        weights += outside + min(2, layers) * block
        gradients += outside + (1 if passes == 1 else layers) * block
    optim = optim or OptimConfig()
    moments = (2 + bool(optim.ema_decay)) * own + layers * len(model.block) + len(model.outside)
    if optim.name == "muon":
        moments -= layers * _numbers(model.matrices, shards)
    workspace = _workspace(model, sequences * model.config.block_size, dtype, device)
    activations = model.saved(sequences, dtype, device)
    return Memory(FULL * weights, FULL * gradients, FULL * moments, activations, workspace)


def _numbers(shapes: list[torch.Size], shards: int = 1) -> int:
    """Numbers in the first of so many shards, which is the largest: FSDP2 shards rows."""
    return sum(shape.numel() // shape[0] * math.ceil(shape[0] / shards) for shape in shapes)


def saved_bytes(
    config: ModelConfig, vocab_size: int, sequences: int, dtype: str, device: str
) -> int:
    """Bytes of all storages that a forward pass saves, parameters left out."""
    config = with_changes(config, **{"kan.backend": "auto"})  # Triton has no CPU
    with torch.device("meta"):
        model = GPT(config, vocab_size)
    storages: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        for module in model.modules():
            if isinstance(module, Attention) and device == "cuda":
                module.dropout.p = 0.0  # the kernel drops, and saves no mask
            if isinstance(module, Attention) and device != "cpu":
                module.is_always_fused = True
        idx = torch.zeros(sequences, config.block_size, dtype=torch.int64)
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=dtype != "float32"):
            model(idx, idx)
    for parameter in model.parameters():
        storages.pop(parameter.untyped_storage()._cdata, None)
    return sum(storage.nbytes() for storage in storages.values())


def _workspace(model: Sketch, tokens: int, dtype: str, device: str) -> int:
    """The most that the backward pass holds for a moment: at the loss, or in one projection."""
    half = FULL if dtype == "float32" else 2  # bytes of a number of the matrix products
    at_loss = 2 * FULL * model.vocab_size * tokens
    return max(at_loss, *(_at_work(site, model.config, tokens, half, device) for site in SITES))


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
