"""Kills, overlaps and hours of use: slow, so ``make soak`` runs it and ``make test`` does not.

``python tests/soak/soak.py --minutes 20`` prints a table of what was tried and what was lost.
``--share 0.05`` tries a twentieth.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from nanogpkant.base.errors import UserError
from nanogpkant.run.load import load_model

NANOGPKANT = [sys.executable, "-m", "nanogpkant.cli"]
ORPHANS = "is being trained by another process"  # runs that a killed experiment leaves at work
TIMES = ("seconds", "tokens_per_second", "memory_bytes", "peak_memory_bytes")
PRESET = """\
model: {n_layer: 2, n_head: 2, n_embd: 16, block_size: 16, dropout: 0.2,
  kan: {sites: [mlp_in, mlp_out], grid_size: 2}}
data: {dataset: corpus, file: corpus.txt, dir: data}
optim: {learning_rate: 1e-2, min_lr: 1e-3, warmup_iters: 2}
train: {max_iters: 60, batch_size: 4, eval_interval: 4, log_interval: 1, sample_tokens: 20,
  device: cpu, dtype: float32}
"""
EXPERIMENT = """\
name: trial
variants: [{name: kan, preset: tiny.yaml}]
seeds: [1, 2]
budget: {iterations: 30}
"""


@dataclass
class Row:
    """One line of the table."""

    what: str
    tries: int = 0
    lost: int = 0
    note: str = ""


@dataclass(frozen=True)
class Work:
    """A command to kill: the flags that resume it, what it writes, and what counts of that."""

    command: list[str]
    again: list[str]
    written: str
    counted: tuple[str, ...]


WORKS = {
    "train": Work(
        ["train", "tiny.yaml", "--out", "r"],
        ["--auto_resume"],
        "r",
        ("checkpoints/*/model.safetensors", "metrics.jsonl", "samples.txt"),
    ),
    "experiment": Work(
        ["experiment", "trial.yaml", "--out", "trials"],
        [],
        "trials",
        ("**/checkpoints/*/model.safetensors",),
    ),
    "prepare": Work(
        ["prepare", "large", "--file", "large.txt", "--tokenizer", "byte"],
        [],
        "data/large",
        ("*.bin", "tokenizer.json", "meta.json"),
    ),
    "interpret": Work(
        ["interpret", "base", "--budget", "16", "--top", "2", "--out", "i"],
        [],
        "i",
        ("export/edges.csv", "export/formulas.json"),
    ),
    "export": Work(["export", "base", "--out", "e"], [], "e", ("model.safetensors", "README.md")),
    "convert": Work(["convert", "base", "--out", "c"], [], "c", ("model.safetensors",)),
}


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen([*NANOGPKANT, *arguments], cwd=folder, env=environment, **pipe)


def finish(process: subprocess.Popen) -> str | None:
    """Wait; returns what it said if it failed."""
    _, said = process.communicate()
    return None if process.returncode == 0 else said.decode(errors="replace").strip()[-300:]


def digest(folder: Path, patterns: tuple[str, ...]) -> str:
    """Hash of what counts in a folder: files, of metrics all but times."""
    whole = hashlib.sha256()
    for file in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        content = file.read_bytes()
        if file.name == "metrics.jsonl":
            rows = [json.loads(line) for line in content.splitlines()]
            rows = [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
            content = json.dumps(rows).encode()
        whole.update(str(file.relative_to(folder)).encode() + content)
    return whole.hexdigest()


def remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(path.with_name(f".{path.name}.preparing"), ignore_errors=True)


def killed(folder: Path, name: str, count: int, chance: random.Random, until: float) -> Row:
    """Kill a command at random instants, resume it, and compare with one that was left alone."""
    work, row = WORKS[name], Row(f"{name} killed")
    out = folder / work.written
    remove(out)
    began = time.monotonic()
    if said := finish(start(folder, *work.command)):
        return Row(row.what, 1, 1, said)
    length, expected = time.monotonic() - began, digest(out, work.counted)
    remove(out)
    while row.tries < count and time.monotonic() < until:
        for flags in ([], work.again):  # twice, so that it is killed while it resumes, too
            process = start(folder, *work.command, *(flags if out.exists() else []))
            time.sleep(chance.random() * length)
            process.kill()
            process.communicate()
            row.tries += 1
        said = "not started"
        if out.exists() and name in ("export", "convert"):  # it appeared whole
            said = None
        while said and (said == "not started" or ORPHANS in said):
            said = finish(start(folder, *work.command, *(work.again if out.exists() else [])))
        if said or digest(out, work.counted) != expected:
            row.lost, row.note = row.lost + 1, said or "another result"
        remove(out)
    return row


def two_trainers(folder: Path, count: int, chance: random.Random, until: float) -> Row:
    """A requeued job beside the old one: the second waits, and both end well."""
    row, work = Row("two trainers of one run"), WORKS["train"]
    remove(folder / "r")
    finish(start(folder, *work.command))
    expected = digest(folder / "r", work.counted)
    while row.tries < count and time.monotonic() < until:
        remove(folder / "r")
        first = start(folder, *work.command, "--auto_resume", "--wait")
        time.sleep(chance.random() * 4)
        second = start(folder, *work.command, "--auto_resume", "--wait")
        said = finish(first) or finish(second)
        second.communicate() if second.poll() is None else None
        row.tries += 1
        if said or digest(folder / "r", work.counted) != expected:
            row.lost, row.note = row.lost + 1, said or "another result"
    return row


def reader(folder: Path, count: int, until: float) -> Row:
    """Load the last checkpoint again and again while it is replaced at every step."""
    row = Row("reads beside a trainer")
    remove(folder / "r")
    flags = ["--train.eval_interval", "1", "--train.eval_tokens", "32"]
    flags += ["--train.max_iters", "1000000"]
    writer = start(folder, *WORKS["train"].command, *flags)
    while not (folder / "r" / "checkpoints" / "index.json").exists() and writer.poll() is None:
        time.sleep(0.1)
    steps = set()
    while row.tries < count and time.monotonic() < until and writer.poll() is None:
        row.tries += 1
        try:
            steps.add(load_model(folder / "r", "last").step)
        except (UserError, OSError) as error:
            row.lost, row.note = row.lost + 1, str(error)
    writer.kill()
    writer.communicate()
    row.note = row.note or f"{len(steps)} different checkpoints"
    return row


def steady(folder: Path, steps: int, until: float) -> Row:
    """Memory and open files of a long run, from a fifth of it to its end."""
    remove(folder / "r")
    flags = ["--train.max_iters", str(steps), "--train.eval_interval", "100"]
    process = start(folder, *WORKS["train"].command, *flags)
    watched, seen = psutil.Process(process.pid), []
    metrics = folder / "r" / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.2)
        try:
            rows = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
            if rows > steps / 5:
                seen.append((watched.memory_info().rss, watched.num_fds()))
        except psutil.Error:
            break
    process.kill()
    process.communicate()
    if len(seen) < 2:
        return Row(f"{steps} steps", 1, 1, "ended before it could be watched")
    early, late = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    (memory, files), (last, left) = (
        tuple(map(max, zip(*half, strict=True))) for half in (early, late)
    )
    note = f"{memory / 1e6:.0f} to {last / 1e6:.0f} MB, {files} to {left} files"
    return Row(f"{steps} steps", 1, int(last > 1.1 * memory or left > files), note)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--share", type=float, default=1.0, help="of the full number of tries")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    until, chance = time.monotonic() + 60 * options.minutes, random.Random(options.seed)

    def times(count: int) -> int:
        return max(2, round(options.share * count))

    with tempfile.TemporaryDirectory(prefix="nanogpkant-soak-") as name:
        folder = Path(name)
        (folder / "tiny.yaml").write_text(PRESET)
        (folder / "trial.yaml").write_text(EXPERIMENT)
        text = "Speak, friend, and enter.\nI hear you.\n" * 158
        (folder / "corpus.txt").write_text(text)
        (folder / "large.txt").write_text(text * 2000)
        if said := finish(start(folder, *WORKS["train"].command[:2], "--out", "base")):
            print(said)
            return 1
        jobs: list[Callable[[], Row]] = [
            lambda: two_trainers(folder, times(20), chance, until),
            lambda: reader(folder, times(1000), until),
            lambda: steady(folder, times(5000), until),
        ]
        kills = {"train": 40, "experiment": 12, "prepare": 16, "interpret": 12, "export": 10}
        kills["convert"] = 10
        for work, count in kills.items():
            jobs.append(lambda w=work, c=count: killed(folder, w, times(c), chance, until))
        print("| tried | times | lost | |\n|---|---|---|---|", flush=True)
        rows = []
        for job in jobs:
            rows.append(row := job())
            print(f"| {row.what} | {row.tries:,} | {row.lost} | {row.note} |", flush=True)
    return int(any(row.lost for row in rows))


if __name__ == "__main__":
    sys.exit(main())
