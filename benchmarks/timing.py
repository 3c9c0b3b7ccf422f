"""Timing things against each other: interleaved, several times over, medians."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nanogpkant.device import synchronize


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a few repeats."""

    median: float
    fastest: float
    slowest: float


def interleaved(
    tasks: dict[str, Callable[[], Any]], repeats: int, device: torch.device
) -> dict[str, Timing]:
    """Time every task once in turn, ``repeats`` times over, after one round to warm up.

    What slows the machine for a while then slows all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for round_ in range(repeats + 1):
        for name, task in tasks.items():
            synchronize(device)
            started = time.perf_counter()
            task()
            synchronize(device)
            if round_ > 0:
                times[name].append(1000 * (time.perf_counter() - started))
    return {name: Timing(statistics.median(t), min(t), max(t)) for name, t in times.items()}


def matmul_rate(dtype: torch.dtype, device: torch.device, size: int = 2048) -> float:
    """FLOP/s of a square matrix product, the best of ten."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    timing = interleaved({"product": lambda: a @ a}, 10, device)["product"]
    return 2 * size**3 / (timing.fastest / 1000)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as a Markdown table; floats to three figures."""
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[_cell(value) for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def machine(device: torch.device) -> str:
    """One line on what this was measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
    return f"{name or platform.machine()}{threads}, torch {torch.__version__}"


def arguments(about: str, **defaults: Any) -> argparse.Namespace:
    """The flags that every benchmark has, and those of its own with their defaults."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    return parser.parse_args()


def report(title: str, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the rows, and write them where ``--json`` says."""
    where = machine(torch.device(options.device))
    print(f"\n## {title}\n\n{where}; medians of {options.repeats} interleaved rounds\n")
    print(markdown(rows), flush=True)
    if options.json:
        document = {"title": title, "machine": where, "repeats": options.repeats, "rows": rows}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
