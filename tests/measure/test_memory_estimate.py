"""The estimate against what torch itself sees: saved tensors, optimiser state, its memory tracker.

Weights, gradients and optimiser state are exact. Activations and the peak may be off by a little.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import distributed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from nanogpkant.config import SITES, ModelConfig, OptimConfig, load_preset, with_changes
from nanogpkant.measure.memory import Sketch, estimate
from nanogpkant.model.counting import GPT2_TOKENS
from nanogpkant.model.gpt import GPT
from nanogpkant.training.optim import make_optimizer

TOLERANCE = 0.03  # how far an estimate may be off
SMALL = ModelConfig(n_layer=2, n_head=4, n_embd=64, block_size=32, dropout=0.0)
SHARED = {"kan.basis": "chebyshev", "kan.share": "group:8", "kan.base": "gpt"}
MODELS = {
    "gelu": {},
    "biased": {"bias": True},
    "gated": {"activation": "swiglu", "mlp_ratio": 2.625},
    "wide": {"n_embd": 256, "n_layer": 1},
    "narrow": {"n_embd": 16, "n_layer": 3, "mlp_ratio": 1.0},
    "dropout": {"dropout": 0.2},
    "curve": {"position": "curve", "activation": "even"},
    "rope": {"position": "rope", "norm": "rms", "qk_norm": True},
    "convolution": {"conv": "taps", "value_residual": True, "activation": "xielu"},
    "deep": {"value_residual": True, "n_layer": 12},
    "kan": {"kan.sites": list(SITES)},
    "kan mlp_out": {"kan.sites": ["mlp_out"]},
    "kan mlp_in": {"kan.sites": ["mlp_in"], "kan.basis": "fourier"},
    "kan shared": {"kan.sites": list(SITES), **SHARED},
    "kan scaled": {"kan.sites": ["mlp_in", "mlp_out"], "kan.spline_scale": True},
    "kan rms": {"kan.sites": list(SITES), "kan.prenorm": "rms"},
    "kan dropout": {"kan.sites": list(SITES), "kan.dropout": 0.1, "dropout": 0.1},
    "kan gated": {"kan.sites": ["mlp_out"], "activation": "swiglu", "kan.prenorm": "rms"},
}
VOCAB, SEQUENCES = 101, 3


def loss_of(model: GPT, sequences: int, dtype: str) -> torch.Tensor:
    idx = torch.zeros(sequences, model.config.block_size, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        return model(idx, idx)


def saved_bytes(model: GPT, sequences: int, dtype: str) -> int:
    """Of all storages that a forward pass saves, the parameters' own left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage  # kept, so that no address is used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(model, sequences, dtype)
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_activations_are_what_autograd_saves(name, dtype):
    model = GPT(with_changes(SMALL, **MODELS[name]), VOCAB)
    measured = saved_bytes(model, SEQUENCES, dtype)
    estimated = estimate(Sketch(model.config, VOCAB), SEQUENCES, dtype, "cpu").activations
    assert estimated == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("name", ["biased", "kan shared", "kan scaled"])
def test_weights_gradients_and_moments_are_exact(name, kind):
    model = GPT(with_changes(SMALL, **MODELS[name]), VOCAB)
    optimizer = make_optimizer(model, OptimConfig(name=kind))
    loss_of(model, 1, "float32").backward()
    gradients = sum(p.grad.nbytes for p in model.parameters())
    optimizer.step()
    sketch = Sketch(model.config, VOCAB)
    found = estimate(sketch, 1, "float32", "cpu", optim=OptimConfig(name=kind))
    state = [t for entry in optimizer.state.values() for t in entry.values()]
    assert found.weights == sum(p.nbytes for p in model.parameters())
    assert found.gradients == gradients
    assert found.optimizer == sum(t.nbytes for t in state)
    averaged = estimate(sketch, 1, "float32", "cpu", optim=OptimConfig(name=kind, ema_decay=0.9))
    assert averaged.optimizer == found.optimizer + found.weights


def tracked_peak(config: ModelConfig, vocab_size: int, sequences: int, dtype: str) -> int:
    """Bytes at the peak of a second step, as torch's tracker counts them; nothing is computed."""
    with torch.device("meta"):
        model = GPT(config, vocab_size)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        optimizer = make_optimizer(model, OptimConfig())
        tracker = MemTracker()
        tracker.track_external(model, optimizer)
        with tracker:
            for _ in range(2):
                loss_of(model, sequences, dtype).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)  # as several passes of a step have them
                tracker.reset_mod_stats()
        return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


@pytest.mark.parametrize(
    ("name", "sequences"), [("gpt2", 2), ("gpt2_kan", 2), ("quickstart_gpt", 16)]
)
def test_the_peak_is_the_trackers(name, sequences):
    config = with_changes(load_preset(name)[1].model, n_layer=2)
    vocab_size = GPT2_TOKENS if name.startswith("gpt2") else 65
    measured = tracked_peak(config, vocab_size, sequences, "bfloat16")
    total = estimate(Sketch(config, vocab_size), sequences, "bfloat16", "cpu").total
    assert total == pytest.approx(measured, rel=0.05)


@pytest.fixture
def eight_devices() -> Iterator[DeviceMesh]:
    """A world whose other seven processes do not exist: torch's own stand-in for tests."""
    distributed.init_process_group("fake", rank=0, world_size=8, store=FakeStore())
    yield init_device_mesh("cpu", (8,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("passes", [1, 2])
def test_the_sharded_peak_is_at_most_the_estimate(passes, eight_devices):
    """The estimate has all gradients and all activations at once, which the peak has not quite."""
    config = with_changes(load_preset("gpt2")[1].model, n_layer=3)
    with torch.device("meta"):
        model = GPT(config, VOCAB)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        for block in model.blocks:
            fully_shard(block, mesh=eight_devices)
        fully_shard(model, mesh=eight_devices)
        # Fused, AdamW would be taken to hold its tensors whole where nothing is computed.
        optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
        tracker = FSDPMemTracker(model, optimizer)
        tracker.track_inputs(())
        with tracker:
            for step_and_pass in range(2 * passes):
                is_last = step_and_pass % passes == passes - 1
                model.set_requires_gradient_sync(is_last)
                loss_of(model, 1, "bfloat16").backward()
                tracker.reset_mod_stats()
                if is_last:
                    optimizer.step()
                    optimizer.zero_grad()
    measured = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    found = estimate(Sketch(config, VOCAB), 1, "bfloat16", "cpu", shards=8, passes=passes)
    assert measured < found.total < 1.25 * measured
