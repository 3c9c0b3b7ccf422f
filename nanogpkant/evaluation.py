"""Loss, perplexity, bits per character and accuracy over a whole split."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpkant.base.console import bar
from nanogpkant.base.errors import UsageError, UserError, check_seed, require_positive
from nanogpkant.data import Batches, Blocks, Ids, Tokenizer, check_length
from nanogpkant.machine.device import autocast, resolve_device, resolve_dtype
from nanogpkant.machine.distributed import ALONE, World
from nanogpkant.model.gpt import GPT
from nanogpkant.model.modes import evaluating
from nanogpkant.run.folder import open_run
from nanogpkant.run.load import load_model, open_run_data

COUNTED = 1 << 20  # tokens at a time
PADDED = {"cuda"}  # devices where a last, smaller batch would have kernels tuned for its shape
PARTS = 16  # of a text, an even number, whose losses are told apart


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text."""

    loss: float
    """mean cross-entropy, nats per token"""
    accuracy: float
    """share of tokens that were the most likely one"""
    tokens: int
    """predictions made"""
    loss_of_parts: tuple[float, ...]
    """the same loss over each of ``PARTS`` consecutive parts of the text; 0 for an empty one"""
    bytes: int | None = None
    """UTF-8 bytes of the text that was predicted, where they were counted"""

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens with the same uncertainty."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_char(self) -> float:
        """loss in bits, where a token is a character or a byte; per token otherwise."""
        return self.loss / math.log(2)

    def as_dict(self) -> dict[str, float]:
        """The figures by name; bits per byte compare models whatever their tokens are."""
        values = {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "bits_per_char": self.bits_per_char,
            "accuracy": self.accuracy,
            "tokens": self.tokens,
        }
        if self.bytes:
            values["bits_per_byte"] = self.bits_per_char * (self.tokens / self.bytes)
        return values

    def words(self) -> str:
        """The figures as one line."""
        values = self.as_dict()
        bits = f"{self.bits_per_char:.4f} bits/token"
        if self.bytes:
            bits = f"{values['bits_per_byte']:.4f} bits/byte"
        return (
            f"loss {self.loss:.4f} nats, perplexity {self.perplexity:.3f}, {bits}, "
            f"accuracy {self.accuracy:.1%} over {self.tokens:,} tokens"
        )

    def parts(self) -> dict[str, Any]:
        """For choosing on one half of the text and reporting on the other, and for a bootstrap."""
        sizes = np.diff(part_ends(self.tokens), prepend=0)
        halves = np.split(np.array(self.loss_of_parts) * sizes, 2)
        first, second = (
            float(half.sum() / max(1, size.sum()))
            for half, size in zip(halves, np.split(sizes, 2), strict=True)
        )
        parts = list(self.loss_of_parts)
        return {"loss_first_half": first, "loss_second_half": second, "loss_parts": parts}


def part_ends(total: int) -> list[int]:
    """The end of each part of ``total`` predictions."""
    return [-(-total * part // PARTS) for part in range(1, PARTS + 1)]


def evaluate(
    model: GPT,
    tokens: Ids,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
    world: World = ALONE,
    length: int | None = None,
) -> Evaluation:
    """Predict every token of a split once, in consecutive windows of ``length``.

    Nothing is random: each of the len - 1 next-token predictions is made exactly once. Several
    processes take batches in turn; all sums are added in the order of the text, so that the result
    does not depend on the number of processes.

    Args:
        model: in evaluation mode during the call; device and autocast are the caller's.
        tokens: (len,) token ids.
        batch_size: windows evaluated at a time.
        progress: called with (predictions made, predictions in all).
        world: the processes that share the work; all of them call.
        length: of a window, in tokens; the model's block_size without it.
    """
    text = Blocks(tokens, length or model.config.block_size, batch_size)
    starts = [text.start(number) for number in range(len(text))]
    with evaluating(model):
        return _score(model, text.batch, starts, len(tokens) - 1, progress, world)


def estimate(
    model: GPT, tokens: Ids, batch_size: int, iters: int, seed: int, length: int | None = None
) -> Evaluation:
    """The original's estimate: the mean over ``iters`` random batches, drawn from ``seed``."""
    length = length or model.config.block_size
    drawn = Batches(tokens, length, batch_size, seed)
    each = batch_size * length
    starts = [number * each for number in range(iters)]
    with evaluating(model):
        return _score(model, drawn.batch, starts, iters * each, None, ALONE)


def evaluate_run(
    run: str | Path,
    which: str,
    split: str,
    device_name: str,
    dtype_name: str,
    batch_size: int,
    random_batches: int,
    seed: int,
    length: int | None,
) -> Evaluation:
    """Evaluate a run's checkpoint on the data that it was trained on.

    Args:
        run, which: the run's name or folder, and its checkpoint.
        split: "train", "val", or "test" where the data has one.
        device_name, dtype_name: device and dtype to run on.
        batch_size: sequences at a time.
        random_batches: 0 reads the whole split; more estimates from that many random batches.
        seed: decides the random batches.
        length: of a window, in tokens; the run's block_size without it.

    Raises:
        UserError: no such run, checkpoint or data, or data other than the run's.
        UsageError: a setting out of its range, or a length beyond learned positions.
    """
    require_positive(batch_size=batch_size, length=length)
    if random_batches < 0:
        raise UsageError(f"--random_batches {random_batches}: must be 0 (read all) or above")
    require_positive(random_batches=random_batches or None)
    check_seed(seed)
    device = resolve_device(device_name, "--device")
    dtype = resolve_dtype(dtype_name, device, "--dtype")
    trained = load_model(run, which, device)
    data = open_run_data(open_run(run), trained.config.data)
    tokens = data.split(split)
    shape = trained.config.model
    if length and length > shape.block_size and "learned" in shape.positions:
        remedy = f"positions were learned for {shape.block_size} tokens: give at most that"
        raise UsageError(f"--length {length}: {remedy}")
    flag = "--length" if length else "--model.block_size"
    length = length or shape.block_size
    check_length(tokens, length, split, flag)
    with autocast(device, dtype):
        if random_batches:
            result = estimate(trained.model, tokens, batch_size, random_batches, seed, length)
        else:
            with bar("evaluating", "tokens") as progress:
                result = evaluate(trained.model, tokens, batch_size, progress, length=length)
            result = replace(result, bytes=count_bytes(trained.tokenizer, tokens[1:]))
    if not math.isfinite(result.loss):
        raise UserError(f"{run}: its loss is {result.loss}; use another checkpoint")
    return result


def count_bytes(tokenizer: Tokenizer, tokens: Ids) -> int:
    """Number of UTF-8 bytes of the decoded tokens; ``<|endoftext|>`` has none."""
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for start in range(0, len(tokens), COUNTED):
        some = np.asarray(tokens[start : start + COUNTED])
        counts += np.bincount(some, minlength=tokenizer.vocab_size)
    return int(counts @ tokenizer.byte_lengths)


@torch.no_grad()
def _score(
    model: GPT,
    batch: Callable[[int], tuple[Tensor, Tensor]],
    starts: Sequence[int],
    total: int,
    progress: Callable[[int, int], None] | None,
    world: World,
) -> Evaluation:
    """Score numbered batches; ``starts`` has the number of the first prediction of each."""
    device = model.tokens.weight.device
    ends = part_ends(total)
    sums, largest = [], None
    for first in range(0, len(starts), world.size):
        # Every rank makes the same number of passes, since gathering sharded weights is collective:
        # a rank without a batch repeats the last one and drops the result.
        number = min(first + world.rank, len(starts) - 1)
        x, y = batch(number)
        x, y = x.to(device), y.to(device).flatten()
        (rows, length), largest = x.shape, largest or x.shape
        if device.type in PADDED:  # behind the text, which does not see it
            x = F.pad(x, (0, largest[1] - length, 0, largest[0] - rows))
        logits = model(x)[:rows, :length].float().flatten(0, 1)
        losses = F.cross_entropy(logits, y, reduction="none")  # (rows * T,), in the text's order
        cuts = [min(max(0, end - starts[number]), len(losses)) for end in ends[:-1]]
        parts = [part.sum() for part in losses.tensor_split(cuts)]
        sums.append(torch.stack([*parts, (logits.argmax(-1) == y).sum()]))
        if progress is not None:
            progress(starts[number] + y.numel(), total)
    # Batches are summed in float64 on the CPU: some devices have none.
    table = torch.zeros(len(starts), PARTS + 1, dtype=torch.float64, device="cpu")
    own = range(world.rank, len(starts), world.size)
    table[world.rank :: world.size] = torch.stack(sums)[: len(own)].cpu().double()
    *parts, correct = world.sum(table).sum(0).tolist()
    sizes = np.diff(ends, prepend=0).clip(min=1)
    means = tuple((np.array(parts) / sizes).tolist())
    return Evaluation(sum(parts) / total, correct / total, total, means)
