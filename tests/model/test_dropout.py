"""Dropout against torch's own: how often, how much, and when."""

import pytest
import torch
from scipy import stats
from torch import Tensor

from nanogpkant.model.attention import weigh
from nanogpkant.model.dropout import LEVELS, Dropout, keep_mask, seed_of

RATES = (0.001, 0.1, 0.2, 0.5, 0.9, 0.999)
SHAPES = [(), (1,), (3,), (5, 7), (2, 0, 3), (0,), (3, 1, 5)]


@pytest.mark.parametrize("p", RATES)
def test_share_of_zeros_is_p(p: float) -> None:
    draws = 300_001  # not a whole number of 64-bit words
    dropped = draws - int(keep_mask(torch.Size([draws]), p).sum())
    assert stats.binomtest(dropped, draws, round(p * LEVELS) / LEVELS).pvalue > 1e-3


@pytest.mark.parametrize("position", range(4))
def test_each_quarter_of_a_random_word_is_fair(position: int) -> None:
    kept = keep_mask(torch.Size([100_000, 4]), 0.3)[:, position]
    assert stats.binomtest(int(kept.sum()), 100_000, 0.7).pvalue > 1e-3


def test_no_element_follows_from_another() -> None:
    """The mask is correlated with none of its own shifts."""
    mask = keep_mask(torch.Size([2**18]), 0.3).double()
    power = torch.fft.rfft(mask - mask.mean()).abs() ** 2
    correlation = torch.fft.irfft(power)
    correlation /= correlation[0].item()
    assert correlation[1:].abs().max() < 6 / 2**9  # six standard errors


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_are_zero_or_scaled_up(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    y = Dropout(0.25)(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    torch.testing.assert_close(y, torch.where(y == 0, 0.0, x / 0.75))


def test_possible_values_are_torchs() -> None:
    x = torch.full((10_000,), 2.0)
    own, torchs = Dropout(0.2)(x), torch.nn.Dropout(0.2)(x)
    assert torch.equal(own.unique(), torchs.unique())


@pytest.mark.parametrize("p", RATES[1:-1])
def test_the_mean_is_kept(p: float) -> None:
    y = Dropout(p)(torch.ones(200_000))
    standard_error = (p / (1 - p) / 200_000) ** 0.5
    assert abs(y.mean().item() - 1) < 4 * standard_error


def test_values_are_dropped_alike_whatever_the_strides() -> None:
    x = torch.randn(6, 5)
    torch.manual_seed(1)
    plain = Dropout(0.5)(x)
    torch.manual_seed(1)
    assert torch.equal(Dropout(0.5)(x.T.contiguous().T), plain)


def test_a_seed_decides_the_mask() -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return keep_mask(torch.Size([1000]), 0.5)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert not torch.equal(draw(1), keep_mask(torch.Size([1000]), 0.5))  # the stream moves on


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_evaluation_changes_and_draws_nothing(p: float) -> None:
    x, state = torch.randn(100), torch.get_rng_state()
    assert Dropout(p).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_the_gradient_goes_through_the_same_mask() -> None:
    x = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    y = Dropout(0.3)(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, y.detach())  # at ones the output is the mask / (1 - p)
    assert gradient.unique().tolist() == pytest.approx([0.0, 1 / 0.7])


def test_inputs_are_not_written_to() -> None:
    x = torch.ones(100)
    Dropout(0.5)(x)
    assert (x == 1).all()


def test_every_number_makes_another_seed() -> None:
    seeds = {
        seed_of(seed, step, rank) for seed in range(3) for step in range(50) for rank in (0, 1)
    }
    assert len(seeds) == 300
    assert max(seeds) < 2**32

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.rand(4)

    assert torch.equal(drawn(5), drawn((1 << 32) + 5))  # why they are hashed
    assert not torch.equal(drawn(seed_of(0, 5)), drawn(seed_of(1, 5)))


def test_a_function_of_the_scores_drops_weights_where_the_kernel_does() -> None:
    """As on CUDA, where values are not dropped: the mean over draws is attention without it."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, 4, 8, dtype=torch.float64)
    bias = torch.zeros(1, 4, 4, dtype=torch.float64)
    whole = weigh(q, k, v, bias, 0.0, torch.tanh)  # pyright: ignore (any function of scores)
    torch.testing.assert_close(whole, (q @ k.mT / 8**0.5).tanh().softmax(-1) @ v)
    drawn = torch.stack([weigh(q, k, v, bias, 0.5, torch.tanh) for _ in range(4000)])  # pyright: ignore
    assert drawn.std(0).min() > 0.05
    assert ((drawn.mean(0) - whole).abs() < 6 * drawn.std(0) / 4000**0.5).all()
