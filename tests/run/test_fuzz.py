"""Every file of a run, altered by chance, with a manifest made to match.

A command on it says one line and ends with 1 or 2, or does not mind; never a trace, a signal or a
write. ``FUZZ=5000 pytest tests/run/test_fuzz.py`` tries more than the few of every test run.
"""

import copy
import io
import json
import math
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanogpkant.base.files import sha256_of
from nanogpkant.cli import main

TRIES = int(os.environ.get("FUZZ", "40"))
FILES = (
    "config.yaml",
    "environment.json",
    "metrics.jsonl",
    "tokenizer.json",
    "checkpoints/index.json",
    "checkpoints/step-000012/manifest.json",
    "checkpoints/step-000012/model.safetensors",
    "checkpoints/step-000012/training.pt",
)
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1,
    2**31,
    10**30,
    1e300,
    1e-320,
    math.inf,
    -math.inf,
    math.nan,
    "",
    "x",
    "\ud800",
    "../../x",
    "/etc/passwd",
    "<script>",
    [],
    {},
    [[[[1]]]],
    {"a": {"b": 1}},
    ["\n"] * 3,
    "y" * 5000,
]
TENSORS: list[Callable[[], torch.Tensor]] = [
    lambda: torch.zeros(()),
    lambda: torch.zeros(3),
    lambda: torch.zeros(0),
    lambda: torch.full((16,), math.nan),
    lambda: torch.zeros(16, dtype=torch.int64),
    lambda: torch.zeros(1).expand(10**6),
    lambda: torch.zeros(16, 16).to_sparse(),
]


def altered(value: Any, chance: random.Random) -> Any:
    """A value with something in it replaced, removed, repeated or added."""
    if isinstance(value, torch.Tensor) and chance.random() < 0.8:
        how = chance.randrange(5)
        if how == 0 and value.numel():
            return torch.full_like(value, chance.choice([math.nan, math.inf, -1.0, 1e38]))
        if how == 1:
            return torch.cat([value.flatten()] * 2) if value.dim() else value[None]
        if how == 2:
            return value.double() if chance.random() < 0.5 else value.to(torch.int32)
        if how == 3:
            return value[..., :-1] if value.dim() else value * -1
        return chance.choice(TENSORS)()
    if isinstance(value, dict) and value and chance.random() < 0.95:
        changed, key = dict(value), chance.choice(list(value))
        how = chance.randrange(8)
        if how == 0:
            del changed[key]
        elif how == 1:
            changed[chance.choice(["x", "", 7, "step", "\ud800"])] = changed[key]
        else:
            changed[key] = altered(value[key], chance)
        return changed
    if isinstance(value, list | tuple) and value and chance.random() < 0.95:
        items, place = list(value), chance.randrange(len(value))
        how = chance.randrange(6)
        if how == 0:
            del items[place]
        elif how == 1:
            items.insert(place, items[place])
        else:
            items[place] = altered(items[place], chance)
        return items
    return copy.deepcopy(chance.choice(ODD))


def flipped(content: bytes, chance: random.Random) -> bytes:
    """Bytes with some changed, cut or repeated."""
    changed, how = bytearray(content), chance.randrange(5)
    place = chance.randrange(len(changed)) if changed else 0
    if how == 0:
        return bytes(changed[:place])
    if how == 1:
        return bytes(changed) + bytes(changed[place:])
    if how == 2:
        changed[place : place + 64] = bytes(len(changed[place : place + 64]))
        return bytes(changed)
    for _ in range(chance.randrange(1, 9)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def damaged(name: str, content: bytes, chance: random.Random) -> bytes:
    """The content of a file, altered in its own format or as bytes."""
    if chance.random() < 0.25:
        return flipped(content, chance)
    if name.endswith(".jsonl"):
        rows = altered([json.loads(line) for line in content.splitlines()], chance)
        rows = rows if isinstance(rows, list) else [rows]
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if name.endswith(".json"):
        return json.dumps(altered(json.loads(content), chance)).encode()
    if name.endswith(".yaml"):
        values = altered(yaml.safe_load(content), chance)
        return yaml.safe_dump(values, allow_unicode=True).encode("utf-8", "surrogatepass")
    if name.endswith(".safetensors"):
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        if chance.random() < 0.5:
            about = json.loads(header["__metadata__"]["kan_features"])
            layer = chance.choice(list(about))
            about[layer] = json.dumps(altered(json.loads(about[layer]), chance))
            header["__metadata__"]["kan_features"] = json.dumps(about)
        else:
            header = altered(header, chance)
        text = json.dumps(header).encode("utf-8", "surrogatepass")
        return len(text).to_bytes(8, "little") + text + content[8 + size :]
    buffer = io.BytesIO()
    torch.save(altered(torch.load(io.BytesIO(content), weights_only=True), chance), buffer)
    return buffer.getvalue()


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.stat()
        found[str(path)] = (status.st_size, status.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def world(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run to be damaged, from which commands are given."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(tiny_run, folder / "run")
    return folder


COMMANDS = (
    ["info", "run"],
    ["runs", "."],
    ["sample", "run", "--tokens", "2", "--checkpoint", "last", "--device", "cpu"],
    ["eval", "run", "--device", "cpu"],
)


def test_no_altered_file_ends_in_a_trace_or_a_write(
    world: Path, tiny_run: Path, tiny_experiment: Path, capsys, monkeypatch
):
    monkeypatch.chdir(world)
    pristine = {name: (tiny_run / name).read_bytes() for name in FILES}
    resume = ["train", str(tiny_experiment), "--out", "run", "--resume"]
    resume += ["--train.max_iters", "13", "--train.sample_tokens", "0"]

    def ends(command: list[str]) -> int:
        status = main(command)
        said = capsys.readouterr().err.strip().splitlines()
        errors = [line for line in said if line.startswith("error: ")]
        assert status in (0, 1, 2) and len(errors) == (status != 0), (command, said)
        assert not status or said[-1] == errors[0]
        return status

    @settings(
        max_examples=TRIES,
        deadline=None,
        database=None,
        derandomize="FUZZ" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(FILES), st.integers(0, 2**63))
    def attempt(name: str, seed: int) -> None:
        shutil.rmtree(world / "run")
        shutil.copytree(tiny_run, world / "run")
        file = world / "run" / name
        file.write_bytes(damaged(name, pristine[name], random.Random(seed)))
        if name.endswith((".safetensors", ".pt")):
            manifest = file.with_name("manifest.json")
            known = json.loads(manifest.read_text())
            known["sha256"][file.name] = sha256_of(file)
            manifest.write_text(json.dumps(known))
        before = state_of(world), state_of(tiny_experiment.parent)
        for command in COMMANDS:
            ends(command)
            assert (state_of(world), state_of(tiny_experiment.parent)) == before, command
        checkpoints = {path.name for path in (world / "run" / "checkpoints").iterdir()}
        if ends(resume):
            assert checkpoints <= {p.name for p in (world / "run" / "checkpoints").iterdir()}

    attempt()
