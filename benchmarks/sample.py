"""Sampling with and without the cache of keys and values.

    python benchmarks/sample.py --preset shakespeare_char_micro_kan --tokens 1000

Times are printed only after both ways have drawn the same text.
"""

import time

import torch
from timing import arguments, report

from nanogpkant.counting import SHAKESPEARE_CHARACTERS
from nanogpkant.generate import generate
from nanogpkant.kan import KANLinear
from nanogpkant.model import GPT
from nanogpkant.presets import load_preset


def main() -> None:
    options = arguments(__doc__.splitlines()[0], preset="shakespeare_char_micro_kan", tokens=1000)
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = GPT(load_preset(options.preset)[1].model, SHAKESPEARE_CHARACTERS).to(device).eval()
    for module in model.modules():
        if isinstance(module, KANLinear):
            module.fold_scale()  # as loading a run for sampling does
    rates: dict[bool, list[float]] = {True: [], False: []}
    texts = {}
    for _ in range(options.repeats):
        for use_cache, measured in rates.items():
            started = time.perf_counter()
            texts[use_cache] = write(model, options.tokens, use_cache, device)
            measured.append(options.tokens / (time.perf_counter() - started))
    if texts[True] != texts[False]:
        raise SystemExit("the two ways drew different texts: no times")
    median = {cache: sorted(measured)[len(measured) // 2] for cache, measured in rates.items()}
    rows = [
        {
            "sampling": "cached" if cache else "uncached",
            "tokens/s": median[cache],
            "ms/token": 1000 / median[cache],
            "speed-up": median[cache] / median[False],
        }
        for cache in (False, True)
    ]
    report(f"{options.tokens} characters from {options.preset}", rows, options)


def write(model: GPT, tokens: int, use_cache: bool, device: torch.device) -> list[int]:
    prompt = torch.zeros(1, 1, dtype=torch.int64, device=device)
    drawn = generate(model, prompt, tokens, temperature=0.8, seed=1, use_cache=use_cache)
    return [int(token) for token in drawn]


if __name__ == "__main__":
    main()
