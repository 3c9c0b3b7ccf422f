import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpkant.base.errors import UserError
from nanogpkant.data import Batches, blocks, check_length

# --- check_length


def test_check_length():
    check_length(np.zeros(9, dtype=np.uint16), 8, "val")
    with pytest.raises(UserError, match=r"--model.block_size 8 needs 9 tokens .* val split has 8"):
        check_length(np.zeros(8, dtype=np.uint16), 8, "val")


# --- Batches


@given(
    length=st.integers(2, 300),
    block_size=st.integers(1, 50),
    batch_size=st.integers(1, 8),
    seed=st.integers(0, 2**32),
    index=st.integers(0, 10**9),
)
def test_targets_are_inputs_one_token_later(length, block_size, batch_size, seed, index):
    block_size = min(block_size, length - 1)
    tokens = np.arange(length, dtype=np.uint16)
    x, y = Batches(tokens, block_size, batch_size, seed).batch(index)
    assert x.shape == y.shape == (batch_size, block_size)
    assert x.dtype == y.dtype == torch.int64
    assert x.is_contiguous() and y.is_contiguous()
    assert torch.equal(y, x + 1)  # the tokens count up, so this checks the whole window
    assert torch.equal(x, x[:, :1] + torch.arange(block_size))
    assert x.min() >= 0
    assert y.max() < length


def test_a_batch_depends_on_seed_and_index_alone():
    tokens = np.arange(1000, dtype=np.uint16)
    in_order = [Batches(tokens, 8, 4, seed=1).batch(i) for i in range(20)]
    resumed = Batches(tokens, 8, 4, seed=1)
    for index in reversed(range(20)):
        assert torch.equal(resumed.batch(index)[0], in_order[index][0])
    inputs = torch.stack([x for x, _ in in_order])
    assert len(inputs.flatten(1).unique(dim=0)) == 20
    assert not torch.equal(Batches(tokens, 8, 4, seed=2).batch(0)[0], in_order[0][0])


@given(batch_size=st.integers(1, 40), world=st.integers(1, 40), index=st.integers(0, 99))
def test_processes_share_out_the_very_same_batch(batch_size, world, index):
    """No row twice, none left out, whatever the numbers; and the shares are those of the rows."""
    tokens = np.arange(1000, dtype=np.uint16)
    whole, _ = Batches(tokens, 4, batch_size, seed=1).batch(index)
    ranks = [Batches(tokens, 4, batch_size, 1, rank, world) for rank in range(world)]
    parts = [each.batch(index)[0] for each in ranks]
    assert torch.equal(torch.cat(parts), whole)
    rows = [len(part) for part in parts]
    assert max(rows) - min(rows) <= 1
    assert [each.share * batch_size / world for each in ranks] == pytest.approx(rows)


@pytest.mark.parametrize(("length", "block_size"), [(12, 4), (5, 4), (100, 1)])
def test_every_start_is_possible_and_equally_likely(length, block_size):
    starts = length - block_size
    tokens = np.arange(length, dtype=np.uint16)
    x, _ = Batches(tokens, block_size, 1000 * starts, seed=0).batch(0)
    counts = torch.bincount(x[:, 0])
    assert len(counts) == starts
    assert (counts - 1000).abs().max() < 6 * 1000**0.5  # six standard deviations


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_a_device():
    batches = Batches(np.arange(1000, dtype=np.uint16), 8, 4, seed=0)
    for on_cpu, on_device in zip(batches.batch(3), batches.batch(3, "cuda"), strict=True):
        assert on_device.is_cuda
        assert torch.equal(on_device.cpu(), on_cpu)


# --- blocks


@settings(max_examples=200)
@given(length=st.integers(1, 200), block_size=st.integers(1, 50), batch_size=st.integers(1, 8))
def test_blocks_ask_for_each_prediction_once_in_order(length, block_size, batch_size):
    tokens = np.random.default_rng(0).integers(1000, size=length).astype(np.uint16)
    pairs = list(blocks(tokens, block_size, batch_size))
    inputs = [x.flatten() for x, _ in pairs]
    targets = [y.flatten() for _, y in pairs]
    assert torch.cat([torch.empty(0), *inputs]).tolist() == tokens[:-1].tolist()
    assert torch.cat([torch.empty(0), *targets]).tolist() == tokens[1:].tolist()
    full, rest = divmod(length - 1, block_size)
    rows = [x.shape for x, _ in pairs]
    assert rows == [
        *[(batch_size, block_size)] * (full // batch_size),
        *[(full % batch_size, block_size)] * (full % batch_size > 0),
        *[(1, rest)] * (rest > 0),
    ]
