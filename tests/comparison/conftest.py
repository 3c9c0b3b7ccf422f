"""Runs with losses of our choosing: copies of a real one with other metrics."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nanogpkant.comparison.runs import Run, load_run
from nanogpkant.config import load_config, save_config, with_changes
from nanogpkant.run.folder import open_run
from nanogpkant.run.metrics import read_metrics


@pytest.fixture
def make_run(tiny_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a run folder: its name, its losses at steps 0, 4, 8 and so on, and what is special."""

    def make(
        name: str,
        losses: list[float],
        seed: int = 1,
        second_halves: list[float] | None = None,
        seconds_per_step: float = 0.5,
        fingerprint: str | None = None,
        tokens: int | None = 100,
        **changes: object,
    ) -> Path:
        folder = tmp_path / name
        shutil.copytree(tiny_run, folder)
        run = open_run(folder)
        last = 4 * (len(losses) - 1)
        config = with_changes(load_config(run.config_file), **{"train.seed": seed})
        config = with_changes(config, **{"train.max_iters": max(1, last)} | changes)
        save_config(config, run.config_file)
        rows = []
        for number, loss in enumerate(losses):
            row = {"step": 4 * number, "split": "val", "loss": loss, "perplexity": 2.0}
            row |= {"bits_per_char": loss, "accuracy": 0.5}
            row |= {} if tokens is None else {"tokens": tokens}
            if second_halves is not None:
                second = second_halves[number]
                first = 2 * loss - second
                row |= {"loss_first_half": first, "loss_second_half": second}
                row |= {"loss_parts": [first] * 8 + [second] * 8}
            rows.append(row | {"seconds": 4 * number * seconds_per_step, "memory_bytes": 10**6})
        if config.model.kan.sites:
            earlier = read_metrics(tiny_run / "metrics.jsonl")
            rows += [row for row in earlier if row["split"] == "grid" and row["step"] <= last]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        run.metrics_file.write_text(text, encoding="utf-8")
        run.index_file.write_text(json.dumps({"last": f"step-{last:06d}"}), encoding="utf-8")
        if fingerprint is not None:
            environment = json.loads(run.environment_file.read_text(encoding="utf-8"))
            environment["data_fingerprint"] = fingerprint
            run.environment_file.write_text(json.dumps(environment), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def loaded(make_run: Callable[..., Path]) -> Callable[..., Run]:
    """The same, read."""

    def make(name: str, losses: list[float], **settings: object) -> Run:
        return replace(load_run(make_run(name, losses, **settings)), name=name)

    return make
