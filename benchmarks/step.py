"""Whole training steps of the original's three models, and what dropout costs.

    python benchmarks/step.py --batch_size 8

Steps of all models are timed in turn; peak memory is each one's own, in a process of its own.
"""

import multiprocessing
from collections.abc import Callable

import torch
from timing import arguments, interleaved, report

from nanogpkant.config import ModelConfig, with_changes
from nanogpkant.counting import SHAKESPEARE_CHARACTERS, count
from nanogpkant.device import DTYPES, peak_memory, resolve_dtype
from nanogpkant.model import GPT
from nanogpkant.optim import make_optimizer
from nanogpkant.presets import load_preset

MODELS = (
    "shakespeare_char_micro_kan",
    "shakespeare_char_micro",
    "shakespeare_char_micro_boosted_parameters",
    "shakespeare_char_matched",
)


def main() -> None:
    options = arguments(__doc__.splitlines()[0], batch_size=8)
    device = torch.device(options.device)
    dtype = resolve_dtype("auto", device)
    tasks, configs = {}, {}
    for name in MODELS:
        for dropout in (0.0, 0.2):
            config = with_changes(load_preset(name)[1].model, dropout=dropout)
            tasks[name, dropout] = step(config, options.batch_size, device, dtype)
            configs[name, dropout] = config
    times = interleaved(tasks, options.repeats, device)
    rows = []
    for (name, dropout), timing in times.items():
        flops = count(configs[name, dropout], SHAKESPEARE_CHARACTERS).flops_per_token
        tokens = options.batch_size * configs[name, dropout].block_size
        measure = (configs[name, dropout], options.batch_size, options.device, dtype)
        rows.append(
            {
                "model": name,
                "dropout": dropout,
                "ms": timing.median,
                "fastest": timing.fastest,
                "slowest": timing.slowest,
                "over dropout 0": timing.median / times[name, 0.0].median,
                "GFLOP/s": flops * tokens / timing.median / 1e6,
                "peak GB": in_a_process_of_its_own(peak_of_a_step, *measure) / 1e9,
            }
        )
    report(f"training step, batch {options.batch_size} x 256, {dtype}", rows, options)


def step(
    config: ModelConfig, batch_size: int, device: torch.device, dtype: str
) -> Callable[[], None]:
    """Forward, backward, clipping and AdamW, as training does them."""
    torch.manual_seed(0)
    model = GPT(config, SHAKESPEARE_CHARACTERS).to(device)
    optimizer = make_optimizer(model, load_preset(MODELS[0])[1].optim)
    tokens = torch.randint(
        SHAKESPEARE_CHARACTERS, (batch_size, config.block_size + 1), device=device
    )

    def task() -> None:
        with torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "float32"):
            loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return task


def peak_of_a_step(config: ModelConfig, batch_size: int, device: str, dtype: str) -> int:
    task = step(config, batch_size, torch.device(device), dtype)
    task()
    task()
    return peak_memory(torch.device(device))


def in_a_process_of_its_own(function: Callable[..., int], *values: object) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, values)


if __name__ == "__main__":
    main()
