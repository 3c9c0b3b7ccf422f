"""Evaluation against a slow loop over single tokens."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nanogpkant.config import SITES
from nanogpkant.data import Batches
from nanogpkant.evaluation import PARTS, Evaluation, estimate, evaluate
from nanogpkant.model.gpt import GPT

BLOCK = 8


@pytest.fixture(params=[(), SITES], ids=["plain", "kan"])
def model(request: pytest.FixtureRequest, tiny_gpt) -> GPT:
    model = tiny_gpt(request.param, dropout=0.5)
    torch.nn.init.normal_(model.tokens.weight, std=0.5)  # far from knowing nothing
    return model


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(11, size=53).astype(np.uint16)


@torch.no_grad()
def one_token_at_a_time(
    model: GPT, tokens: np.ndarray, window: int = BLOCK
) -> tuple[np.ndarray, float]:
    """Losses (len - 1,) and accuracy, each prediction from the tokens of its own window alone."""
    model.eval()
    losses, hits = [], []
    for index in range(len(tokens) - 1):
        seen = tokens[index // window * window : index + 1].astype(np.int64)
        probability = model(torch.from_numpy(seen)[None])[0, -1].softmax(-1)
        losses.append(-math.log(probability[tokens[index + 1]]))
        hits.append(int(probability.argmax()) == tokens[index + 1])
    return np.array(losses), np.mean(hits)


@pytest.mark.parametrize("length", [2, 8, 9, 10, 17, 53])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_evaluation_is_that_of_a_slow_loop(
    model: GPT, tokens: np.ndarray, length: int, batch_size: int
) -> None:
    result = evaluate(model, tokens[:length], batch_size)
    losses, accuracy = one_token_at_a_time(model, tokens[:length])
    assert result.loss == pytest.approx(losses.mean(), rel=1e-6)
    first, second = np.array_split(losses, 2)  # the first has the odd one
    number = np.arange(len(losses)) * PARTS // len(losses)
    parts = [losses[number == part].mean() if part in number else 0.0 for part in range(PARTS)]
    assert result.parts() == {
        "loss_parts": pytest.approx(parts, rel=1e-6),
        "loss_first_half": pytest.approx(first.mean(), rel=1e-6),
        "loss_second_half": pytest.approx(second.mean() if len(second) else 0.0, rel=1e-6),
    }
    assert result.accuracy == pytest.approx(accuracy)
    assert result.tokens == length - 1


@pytest.mark.parametrize("position", ["rope", "alibi", "curve", "none"])
@pytest.mark.parametrize("window", [3, 20])
def test_windows_of_any_length(tiny_gpt, tokens: np.ndarray, position: str, window: int) -> None:
    model = tiny_gpt(position=position, **{"curve.knots": 4})
    losses, _ = one_token_at_a_time(model, tokens, window)
    assert evaluate(model, tokens, 4, length=window).loss == pytest.approx(losses.mean())


def test_progress_reaches_the_end(model: GPT, tokens: np.ndarray) -> None:
    calls = []
    evaluate(model, tokens, 4, lambda done, total: calls.append((done, total)))
    assert calls == [(32, 52), (48, 52), (52, 52)]


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_random_streams_are_left_as_they_were(
    model: GPT, tokens: np.ndarray, training: bool
) -> None:
    model.train(training)
    torchs, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    evaluate(model, tokens, 4)
    estimate(model, tokens, batch_size=4, iters=3, seed=5)
    assert all(module.training is training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), torchs)
    assert np.array_equal(np.random.get_state()[1], numpys)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_estimate_is_the_mean_over_the_seeds_batches(model: GPT, tokens: np.ndarray) -> None:
    result = estimate(model, tokens, batch_size=4, iters=3, seed=5)
    drawn = Batches(tokens, BLOCK, 4, 5)
    model.eval()
    logits, targets = zip(*((model(x), y) for x, y in map(drawn.batch, range(3))), strict=True)
    logits, targets = torch.cat(logits).flatten(0, 1), torch.cat(targets).flatten()
    assert result.loss == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-6)
    assert result.accuracy == pytest.approx((logits.argmax(-1) == targets).double().mean().item())
    assert result.tokens == 3 * 4 * BLOCK
    assert estimate(model, tokens, 4, 3, seed=5) == result
    assert estimate(model, tokens, 4, 3, seed=6) != result


def test_units() -> None:
    loss = math.log(8)  # eight equal choices
    uniform = Evaluation(loss, accuracy=0.125, tokens=10, loss_of_parts=(loss,) * PARTS)
    assert uniform.perplexity == pytest.approx(8)
    assert uniform.bits_per_char == pytest.approx(3)
    assert uniform.as_dict() == {
        "loss": uniform.loss,
        "perplexity": uniform.perplexity,
        "bits_per_char": uniform.bits_per_char,
        "accuracy": 0.125,
        "tokens": 10,
    }
    assert Evaluation(1e9, 0.0, 1, (1e9, 0.0)).perplexity == math.inf
