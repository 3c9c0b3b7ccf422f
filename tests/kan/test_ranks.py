"""Two processes: gradients of a layer are their mean, and changes of its grid are the same."""

import gc
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from nanogpkant import BSpline, KANLinear

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs torch.distributed, gloo"
)
LAYER, GRADIENTS, CHANGED = "layer.pt", "gradients-{}.pt", "changed-{}.pt"


def one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    meeting = (folder / "meeting").as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    save_gradients(rank, folder)
    save_changed_layer(rank, folder)
    # Before the process group: whoever frees it last joins gloo's threads, which may wait for the
    # GIL that the destructor of DistributedDataParallel holds: a deadlock.
    gc.collect()
    dist.destroy_process_group()


def save_gradients(rank: int, folder: Path) -> None:
    layer, x = torch.load(folder / LAYER, weights_only=False)
    wrapped = nn.parallel.DistributedDataParallel(layer)
    wrapped(x.chunk(2)[rank]).square().mean().backward()
    torch.save([p.grad for p in layer.parameters()], folder / GRADIENTS.format(rank))


def save_changed_layer(rank: int, folder: Path) -> None:
    """Changed by samples of this rank's own."""
    torch.manual_seed(0)
    layer = KANLinear(4, 3, basis=BSpline(5, 3), spline_scale=True)
    torch.manual_seed(rank)
    samples = (1 + 2 * rank) * torch.randn(100 + 50 * rank, 4)
    results = [layer.update_grid(samples), layer.refine(2 * layer.features.basis.grid_size)]
    try:
        layer.update_grid(samples if rank else samples * math.nan)  # refused on both ranks
    except ValueError:
        results.append("refused")
    torch.save([str(results), dict(layer.state_dict())], folder / CHANGED.format(rank))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a layer and an input, and what two processes made of them."""
    folder = tmp_path_factory.mktemp("ranks")
    options = {"bias": True, "spline_scale": True, "init": "original"}
    layer = KANLinear(4, 3, **options, dtype=torch.float64)
    torch.save((layer, torch.randn(10, 4, dtype=torch.float64)), folder / LAYER)
    torch.multiprocessing.spawn(one_of_two, (folder,), nprocs=2)
    return folder


def test_two_processes_share_the_mean_gradient(ranks: Path) -> None:
    layer, x = torch.load(ranks / LAYER, weights_only=False)
    layer(x).square().mean().backward()
    for rank in range(2):
        shared = torch.load(ranks / GRADIENTS.format(rank), weights_only=True)
        torch.testing.assert_close(shared, [p.grad for p in layer.parameters()])


def test_all_ranks_get_the_same_grid_and_weights(ranks: Path) -> None:
    (ours, weights), (theirs, others) = (torch.load(ranks / CHANGED.format(r)) for r in range(2))
    assert ours == theirs
    assert "refused" in ours
    torch.testing.assert_close(weights, others, rtol=0, atol=0)
