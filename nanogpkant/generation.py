"""Sampling from a model, one token after another, with a cache of keys and values.

When a text outgrows ``block_size``, the window moves to the last half block and the cache is filled
again, once every half block of tokens. The window of a token depends only on the length of the
text, so logits are the same with and without a cache. A model that knows positions by distance
alone sees the whole text instead. On a CPU tokens go through compiled C, where it knows the
model's settings: see ``model/decoding.py``.
"""

import time
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpkant.base.errors import UsageError, UserError, check_seed, require_positive
from nanogpkant.machine.device import (
    autocast,
    memory_of,
    resolve_device,
    resolve_dtype,
    synchronize,
)
from nanogpkant.model.cache import Cache
from nanogpkant.model.decoding import Decoder, make_decoder
from nanogpkant.model.gpt import GPT
from nanogpkant.run.load import load_model

WORTH_COMPILING = 32  # tokens: compiling takes as long as some hundred tokens


def window_start(length: int, block_size: int) -> int:
    """Index of the first token that a text of ``length`` tokens is continued from."""
    if length <= block_size:
        return 0
    stride = max(1, block_size // 2)
    return -(-(length - block_size) // stride) * stride


def sample_run(
    run: str | Path,
    which: str,
    prompt: str | None,
    device_name: str,
    dtype_name: str,
    samples: int,
    stream: Callable[[str], None] | None,
    **settings: Any,
) -> dict[str, Any]:
    """Let a run's model write.

    Args:
        run, which: the run's name or folder, and its checkpoint.
        prompt: text to continue; None is a new line.
        device_name, dtype_name: device and dtype to run on.
        samples: texts to write at once.
        stream: called with the text as it appears: character by character where there is one
            sample, sample by sample where there are more.
        settings: arguments of ``generate``.

    Returns:
        {"prompt", "texts", "tokens_per_second", "seconds_to_first_token"}. Texts leave the prompt
        out; the rate counts all of them, from the first token on.

    Raises:
        UserError: no such run or checkpoint, or a character that the model has never seen.
        UsageError: a setting out of its range.
    """
    require_positive(samples=samples)
    device = resolve_device(device_name, "--device")
    dtype = resolve_dtype(dtype_name, device, "--dtype")
    trained = load_model(run, which, device)
    shape = trained.config.model
    needed, there = 8 * samples * shape.n_layer * shape.block_size * shape.n_embd, memory_of(device)
    if needed > there:
        problem = f"their keys and values need {needed / 1e9:,.0f} GB, and {device} has"
        raise UsageError(f"--samples {samples}: {problem} {there / 1e9:,.0f} GB; take fewer")
    prompt = trained.tokenizer.start if prompt is None else prompt
    ids = torch.as_tensor(trained.tokenizer.encode(prompt).astype("int64"), device=device)
    drawn = generate(trained.model, ids.repeat(samples, 1), **settings)
    tokens = []
    if stream and samples == 1:
        stream(prompt)
    characters = getincrementaldecoder("utf-8")("replace")  # a token may end within one
    started = first = time.perf_counter()
    with autocast(device, dtype):
        for token in drawn:
            tokens.append(token)
            if len(tokens) == 1:
                synchronize(device)
                first = time.perf_counter()
            if stream and samples == 1:
                stream(characters.decode(trained.tokenizer.decode_bytes(token.tolist())))
    synchronize(device)
    steady = time.perf_counter() - first
    rate = (len(tokens) - 1) / steady if len(tokens) > 1 else 1 / (first - started)
    texts = [trained.tokenizer.decode(row) for row in torch.stack(tokens, dim=1).tolist()]
    if stream:
        rest = characters.decode(b"", final=True)
        stream(f"{rest}\n" if samples == 1 else "".join(f"{prompt}{text}\n---\n" for text in texts))
    return {
        "prompt": prompt,
        "texts": texts,
        "tokens_per_second": round(samples * rate, 1),
        "seconds_to_first_token": round(first - started, 4),
    }


@torch.no_grad()
def next_logits(
    model: GPT, text: Tensor, cache: Cache | None, decoder: Decoder | None = None
) -> Tensor:
    """Logits of the token after a text: (B, length) -> (B, V).

    ``cache`` holds a beginning of the same text's window and is brought up to its end; None does
    without. ``decoder`` is the model's compiled step.
    """
    start = 0
    if not model.config.extrapolates:
        start = window_start(text.shape[1], model.config.block_size)
    if cache is None:
        return model(text[:, start:])[:, -1].float()
    if start != cache.start:
        cache.restart(start)
    new = text[:, start + cache.length :]
    if decoder is not None:
        return decoder(new, cache)
    return model(new, cache=cache)[:, -1].float()


def generate(
    model: GPT,
    prompt: Tensor,
    max_new_tokens: int,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 1337,
    use_cache: bool = True,
) -> Iterator[Tensor]:
    """Continue texts, yielding the (B,) next token ids as they are drawn.

    Args:
        model: in evaluation mode.
        prompt: (B, length) token ids, length at least 1.
        max_new_tokens: tokens to add to each text.
        temperature: divides the logits; 0 always takes the most likely token.
        top_k: draw from the k most likely tokens alone.
        top_p: draw from the fewest tokens that together have at least this probability (nucleus
            sampling, Holtzman et al. 2020).
        seed: of a generator used only for these draws.
        use_cache: keep keys and values; same logits, many times faster.

    Raises:
        UsageError: a setting out of its range, an empty prompt, or ids beyond the vocabulary.
    """
    _check(prompt, max_new_tokens, temperature, top_k, top_p)
    if prompt.min() < 0 or prompt.max() >= model.vocab_size:  # compiled code would not see it
        raise UsageError(f"--prompt: its ids must be from 0 to {model.vocab_size - 1}")
    check_seed(seed)
    random = torch.Generator(device=prompt.device).manual_seed(seed)
    weight = model.tokens.weight
    cache = Cache(model.config, prompt.shape[0], weight.device, weight.dtype) if use_cache else None

    def tokens() -> Iterator[Tensor]:
        text, decoder = prompt, None
        if cache is not None and max_new_tokens >= WORTH_COMPILING:
            decoder = make_decoder(model, len(prompt))
        for _ in range(max_new_tokens):
            logits = next_logits(model, text, cache, decoder)
            # On a GPU only the first: reading more would wait for it at each token.
            is_first = text.shape == prompt.shape
            if (is_first or logits.is_cpu) and not torch.isfinite(logits).all():
                raise UserError("the model's logits are not finite: use another checkpoint")
            token = draw(logits, temperature, top_k, top_p, random)
            text = torch.cat([text, token[:, None]], dim=1)
            yield token

    return tokens()  # an inner generator, so that bad settings are refused at the call


def draw(
    logits: Tensor,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    random: torch.Generator | None,
) -> Tensor:
    """Draw one token a row: (B, V) logits -> (B,) ids."""
    if temperature == 0:
        return logits.argmax(-1)
    # The largest becomes 0 first, so that no temperature above zero is too low to divide by.
    least = torch.finfo(logits.dtype).tiny
    logits = (logits - logits.amax(-1, keepdim=True)) / max(temperature, least)
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(descending=True)
        share = ordered.softmax(-1)
        # A token goes when those before it already reach top_p; the first always stays.
        gone = share.cumsum(-1) - share >= top_p
        gone[:, 0] = False  # also of a top_p that float32 rounds to 0
        logits = logits.masked_fill(gone.scatter(-1, order, gone), -torch.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=random).squeeze(-1)


def _check(
    prompt: Tensor, max_new_tokens: int, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    if prompt.shape[1] == 0:
        raise UsageError("--prompt is empty: a text is continued from at least one character")
    require_positive(tokens=max_new_tokens, top_k=top_k)
    if not 0 <= temperature < float("inf"):
        raise UsageError(f"--temperature {temperature}: must be 0 (most likely token) or above")
    if top_p is not None and not 0 < top_p <= 1:
        raise UsageError(f"--top_p {top_p}: must be above 0 and at most 1")
