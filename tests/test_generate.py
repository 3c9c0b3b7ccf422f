"""Sampling: windows, the cache, and draws against Hugging Face's filters."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nanogpkant.base.errors import UsageError
from nanogpkant.cli import main
from nanogpkant.config import SITES
from nanogpkant.generation import draw, generate, next_logits, window_start
from nanogpkant.model.cache import Cache
from nanogpkant.model.gpt import GPT

ENDS = [(), SITES]  # plain, and KAN everywhere


@given(length=st.integers(1, 10_000), block_size=st.integers(1, 600))
def test_window(length: int, block_size: int) -> None:
    start = window_start(length, block_size)
    window = length - start
    assert 1 <= window <= block_size
    assert window == length or window > block_size // 2  # a long text keeps half a block of context
    assert window_start(length + 1, block_size) >= start


@given(block_size=st.integers(1, 300))
def test_the_window_moves_by_half_blocks(block_size: int) -> None:
    """Between moves a cache stays valid: all but one token in half a block come from it."""
    starts = [window_start(length, block_size) for length in range(1, 10 * block_size)]
    moves = sum(a != b for a, b in pairwise(starts))
    assert moves <= math.ceil(9 * block_size / max(1, block_size // 2))


@pytest.mark.usefixtures("nan_buffers")
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("prompt", [1, 5, 23])
@pytest.mark.parametrize("block_size", [1, 2, 7, 8])
@pytest.mark.parametrize("sites", ENDS, ids=["plain", "kan"])
def test_cached_logits_are_the_uncached_ones(
    tiny_gpt, sites: tuple[str, ...], block_size: int, prompt: int, samples: int
) -> None:
    model = tiny_gpt(sites, block_size=block_size, dropout=0.5).eval()
    text = torch.randint(11, (samples, prompt + 4 * block_size))
    cache = Cache(model.config, samples, torch.device("cpu"), torch.float64)
    for length in range(prompt, text.shape[1] + 1):
        cached = next_logits(model, text[:, :length], cache)
        fresh = next_logits(model, text[:, :length], None)
        torch.testing.assert_close(cached, fresh, rtol=0, atol=1e-6)
        window = text[:, window_start(length, block_size) : length]
        torch.testing.assert_close(fresh, model(window)[:, -1].float())


def continued(model: GPT, prompt: torch.Tensor, tokens: int = 40, **settings) -> torch.Tensor:
    return torch.stack(list(generate(model, prompt, tokens, **settings)), dim=1)


@pytest.fixture(params=ENDS, ids=["plain", "kan"])
def model(request: pytest.FixtureRequest, tiny_gpt) -> GPT:
    return tiny_gpt(request.param).eval()


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"top_k": 5}, {"top_p": 0.8}], ids=str)
def test_the_cache_changes_no_token(model: GPT, settings: dict) -> None:
    prompt = torch.randint(11, (3, 4))
    with_cache = continued(model, prompt, **settings)
    assert torch.equal(with_cache, continued(model, prompt, **settings, use_cache=False))
    assert with_cache.shape == (3, 40)


def test_temperature_zero_takes_the_most_likely_token_every_time(model: GPT) -> None:
    prompt = torch.randint(11, (2, 4))
    text = torch.cat([prompt, continued(model, prompt, temperature=0, seed=1)], dim=1)
    assert torch.equal(text[:, 4:], continued(model, prompt, temperature=0, seed=2))
    for length in range(4, 44):
        best = next_logits(model, text[:, :length], None).argmax(-1)
        assert torch.equal(text[:, length], best)


def test_a_seed_decides_the_text_and_nothing_else_does(model: GPT) -> None:
    prompt, state = torch.randint(11, (2, 4)), torch.get_rng_state()
    first = continued(model, prompt, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert torch.equal(continued(model, prompt, seed=1), first)
    assert not torch.equal(continued(model, prompt, seed=2), first)
    assert not torch.equal(first[0], first[1])  # each sample has draws of its own


def test_generation_works_under_autocast(model: GPT) -> None:
    prompt = torch.randint(11, (2, 4))
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        tokens = continued(model, prompt)
    assert tokens.min() >= 0
    assert tokens.max() < 11


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": -1},
        {"temperature": -0.1},
        {"temperature": math.inf},
        {"temperature": math.nan},
        {"top_k": 0},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"prompt": torch.zeros(1, 0, dtype=torch.int64)},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(tiny_gpt, settings: dict) -> None:
    arguments = {"prompt": torch.zeros(1, 1, dtype=torch.int64), "max_new_tokens": 1}
    assert len(list(generate(tiny_gpt(), **arguments))) == 1
    with pytest.raises(UsageError, match=f"--{next(iter(settings)).replace('max_new_', '')}"):
        next(generate(tiny_gpt(), **arguments | settings))


def reachable(logits: torch.Tensor, top_k: int | None, top_p: float | None) -> torch.Tensor:
    """Which tokens are ever drawn: (V,) logits -> (V,) booleans, from many draws."""
    drawn = draw(logits.expand(40_000, -1), 1.0, top_k, top_p, torch.Generator().manual_seed(0))
    return torch.bincount(drawn, minlength=len(logits)) > 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("top_k", "top_p"),
    [
        (1, None),
        (3, None),
        (12, None),
        (50, None),
        (None, 0.001),
        (None, 0.5),
        (None, 0.9),
        (5, 0.7),
    ],
)
def test_filters_are_hugging_faces(top_k: int | None, top_p: float | None, seed: int) -> None:
    transformers = pytest.importorskip("transformers")
    logits = 1.5 * torch.randn(12, generator=torch.Generator().manual_seed(seed)).clamp(-1.5, 1.5)
    theirs = logits[None]
    if top_k is not None:
        theirs = transformers.TopKLogitsWarper(top_k)(None, theirs)
    if top_p is not None:
        theirs = transformers.TopPLogitsWarper(top_p)(None, theirs)
    assert torch.equal(reachable(logits, top_k, top_p), theirs[0] > -torch.inf)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [None, 4])
def test_frequencies_are_the_softmax(temperature: float, top_k: int | None) -> None:
    logits, draws = torch.tensor([1.0, 0.3, -0.5, 2.0, 0.0, 1.2], dtype=torch.float64), 50_000
    random = torch.Generator().manual_seed(0)
    drawn = draw(logits.expand(draws, -1), temperature, top_k, None, random)
    weights = (logits / temperature).exp()
    if top_k is not None:
        weights[[2, 4]] = 0  # the least likely two
    expected = draws * weights / weights.sum()
    counts = torch.bincount(drawn, minlength=6)
    likely = expected > 0
    assert counts[~likely].sum() == 0
    assert stats.chisquare(counts[likely], expected[likely]).pvalue > 1e-3


def test_no_temperature_is_too_low_to_divide_by() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    assert draw(logits, 1e-320, None, None, torch.Generator()).tolist() == [1]


def test_more_samples_than_memory_are_refused(tiny_run, capsys) -> None:
    assert main(["sample", str(tiny_run), "--samples", "100000000000"]) == 2
    assert "--samples" in capsys.readouterr().err
