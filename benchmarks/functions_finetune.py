"""Fine-tune a small language model on another text: its functions alone, or as others do.

    python -m benchmarks.functions_finetune --shakespeare FILE --enwik8 FILE --out FILE

A character GPT trained on Shakespeare continues on enwik8 (its letters, as the same 65 characters),
and one trained on enwik8's bytes with Shakespeare. Every method but "all weights" has 1,920 numbers
to train, three seeds, and the best of three learning rates (of seed 0, by another part of the
text). PEFT does LoRA and IA3. Writes a row of JSON for each run.
"""

import argparse
import copy
import gzip
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from peft import IA3Config, LoraConfig, get_peft_model
from torch import Tensor, nn

import nanogpkant as ng
from nanogpkant import BSpline
from nanogpkant.config import ModelConfig
from nanogpkant.model.gpt import GPT

BLOCK, BATCH, FIRST, MORE, SEEDS, JUDGED = 128, 8, 2000, 200, (0, 1, 2), 16_384
FUNCTIONS = BSpline(12, 3, (-4.0, 4.0))  # 16 numbers a function, with its line
RATES = {
    "functions": (1e-2, 3e-2, 1e-1),
    "LoRA r=1": (1e-3, 3e-3, 1e-2),
    "BitFit": (1e-3, 3e-3, 1e-2),
    "IA3": (1e-2, 3e-2, 1e-1),
    "all weights": (1e-4, 3e-4, 1e-3),
}


def prepared(model: GPT, method: str) -> nn.Module:
    """A copy in which only what the method trains has gradients."""
    model = copy.deepcopy(model)
    if method == "functions":  # 3 * (8 + 32) * 16 numbers
        ng.kanify(model, where=["*.mlp.into"], share="group:8", basis=FUNCTIONS)
        ng.kanify(model, where=["*.mlp.out"], share="group:32", basis=FUNCTIONS)
        ng.train_only(model, "functions")
    elif method == "LoRA r=1":  # 3 * (512 + 128)
        return get_peft_model(model, LoraConfig(r=1, lora_alpha=1, target_modules=["mlp.out"]))
    elif method == "IA3":  # 3 * (512 into the MLP's last layer + 128 out of attention's)
        parts = {"target_modules": ["mlp.out", "attention.out"], "feedforward_modules": ["mlp.out"]}
        return get_peft_model(model, IA3Config(**parts))
    elif method == "BitFit":  # 3 * (512 + 128): the biases of the MLPs
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("mlp" in name and name.endswith("bias"))
    return model


def batches(ids: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(ids) - BLOCK - 1, (BATCH,), generator=random)
        rows = torch.stack([ids[i : i + BLOCK + 1] for i in starts])
        yield rows[:, :-1], rows[:, 1:]


def train(model: nn.Module, ids: Tensor, steps: int, rate: float, seed: int) -> float:
    """Adam with a cosine schedule; returns seconds a step."""
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, rate, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.05)
    started = time.perf_counter()
    for _, (x, y) in zip(range(steps), batches(ids, seed), strict=False):
        optimizer.zero_grad()
        model(x, y).backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
    return (time.perf_counter() - started) / steps


@torch.no_grad()
def loss(model: nn.Module, ids: Tensor) -> float:
    """Nats per token on whole blocks."""
    blocks = (len(ids) - 1) // BLOCK
    x, y = (ids[i : i + blocks * BLOCK].view(-1, BLOCK) for i in (0, 1))
    parts = zip(x.split(64), y.split(64), strict=True)
    return sum(model(*part).item() * len(part[0]) for part in parts) / len(x)


def split(ids: Tensor) -> dict[str, Tensor]:
    """Training, a part to choose rates by, and one to judge by."""
    rest, most = len(ids) - 2 * JUDGED, JUDGED
    return {"train": ids[:rest], "choose": ids[rest : rest + most], "judge": ids[rest + most :]}


def tasks(shakespeare: bytes, enwik8: bytes) -> dict[str, tuple[int, Tensor, Tensor]]:
    """{task: (vocabulary, first text, second text)}."""
    letters = {byte: i for i, byte in enumerate(sorted(set(shakespeare)))}
    same = bytes(byte for byte in enwik8 if byte in letters)

    def encode(text: bytes, known: Callable[[int], int]) -> Tensor:
        return torch.tensor([known(byte) for byte in text])

    characters = [encode(text, letters.__getitem__) for text in (shakespeare, same)]
    byte = [encode(text, int) for text in (enwik8, shakespeare)]
    names = "Shakespeare, then enwik8 in its 65 characters", "enwik8's bytes, then Shakespeare"
    return {names[0]: (65, *characters), names[1]: (256, *byte)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("shakespeare", "enwik8", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    with gzip.open(options.enwik8) as opened:
        enwik8 = opened.read(4_000_000)
    for task, (size, first, second) in tasks(options.shakespeare.read_bytes(), enwik8).items():
        first, second = split(first), split(second)
        torch.manual_seed(0)
        shape = {"n_layer": 3, "n_head": 4, "n_embd": 128, "block_size": BLOCK, "bias": True}
        model = GPT(ModelConfig(**shape, dropout=0.0, activation="gelu"), size)
        train(model, first["train"], FIRST, 3e-3, 0)
        before = {"first_before": loss(model, first["judge"])}
        before["second_before"] = loss(model, second["judge"])
        for method, rates in RATES.items():
            tried = [tune(model, method, second, SEEDS[0], rate) for rate in rates]
            best = min(tried, key=lambda row: row["choose"])
            more = (tune(model, method, second, seed, best["rate"]) for seed in SEEDS[1:])
            for row in (best, *more):
                found = row.pop("model")
                row["first"] = loss(found, first["judge"])
                row["second"] = loss(found, second["judge"])
                row |= before | {"task": task, "method": method}
                print(json.dumps(row), flush=True)
                with open(options.out, "a") as opened:
                    opened.write(json.dumps(row) + "\n")


def tune(model: GPT, method: str, text: dict[str, Tensor], seed: int, rate: float) -> dict:
    torch.manual_seed(seed)
    tuned = prepared(model, method)
    numbers = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    seconds = train(tuned, text["train"], MORE, rate, seed + 1)
    found = {"model": tuned, "numbers": numbers, "seconds_per_step": seconds}
    found |= {"rate": rate, "seed": seed}
    return found | {"choose": loss(tuned, text["choose"])}


if __name__ == "__main__":
    main()
