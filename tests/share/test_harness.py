"""eval --harness: lm-evaluation-harness itself, on local tasks, held to our own evaluation."""

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanogpkant.cli import main
from nanogpkant.evaluation import evaluate
from nanogpkant.generation import generate
from nanogpkant.run.load import load_model
from nanogpkant.share import harness

needs_harness = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm_eval is not installed")
# As long as 19 windows: to what is left over the harness would give tokens of the window before.
TEXT = "Speak, friend, and enter.\nI hear you.\n" * 8

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: '{file}'}}}}
test_split: test
metadata: {{version: 1.0}}
"""
PERPLEXITY = """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: byte_perplexity}, {metric: bits_per_byte}]
"""
CHOICE = """\
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{choices}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{metric: acc}]
"""
WRITING = """\
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{written}}"
target_delimiter: ""
generation_kwargs: {until: ["I"], max_gen_toks: 4}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def found(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the harness says of the tiny run, without a network."""
    folder = tmp_path_factory.mktemp("harness")
    trained = load_model(tiny_run)
    encode, decode = trained.tokenizer.encode, trained.tokenizer.decode
    document: dict[str, Any] = {"text": TEXT, "prompt": "Speak, "}
    prompt = torch.from_numpy(encode(document["prompt"]).astype("int64"))[None]
    written = list(generate(trained.model, prompt, 4, temperature=0))
    document["written"] = decode(torch.cat(written).tolist())
    document["choices"] = [document["written"], "you.", "fffff"]  # the first is the most likely
    (folder / "documents.jsonl").write_text(json.dumps(document) + "\n", encoding="utf-8")
    files = []
    for name, rest in {"rolling": PERPLEXITY, "choice": CHOICE, "writing": WRITING}.items():
        head = TASK.format(name=name, file=folder / "documents.jsonl")
        files.append(folder / f"{name}.yaml")
        files[-1].write_text(head + rest, encoding="utf-8")
    command = [sys.executable, "-m", "nanogpkant.cli", "eval", str(tiny_run), "--json"]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    flags = ["--device", "cpu", "--harness", *map(str, files)]
    done = subprocess.run([*command, *flags], env=env, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_harness
def test_its_perplexity_is_ours(found, tiny_run: Path):
    trained = load_model(tiny_run)
    tokens = np.concatenate([trained.tokenizer.encode("\n"), trained.tokenizer.encode(TEXT)])
    loss = evaluate(trained.model, tokens, 64).loss
    assert found["rolling"]["bits_per_byte"] == pytest.approx(loss / math.log(2), abs=1e-4)
    assert found["rolling"]["byte_perplexity"] == pytest.approx(math.exp(loss), abs=1e-3)


@needs_harness
def test_it_chooses_and_writes(found):
    assert found["choice"]["acc"] == 1.0
    assert found["writing"]["exact_match"] == 1.0


def error_of(capsys, *arguments: str, status: int = 1) -> str:
    assert main(["eval", *arguments]) == status
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_what_cannot_work_is_one_line(tiny_run: Path, capsys, monkeypatch):
    run = str(tiny_run)
    task = [run, "--harness", "any"]
    line = error_of(capsys, *task, "--harness_limit", "0", status=2)
    assert line == "error: --harness_limit 0: must be at least 1"
    assert "--batch_size 0" in error_of(capsys, *task, "--batch_size", "0", status=2)
    assert "--harness_limit 3" in error_of(capsys, run, "--harness_limit", "3", status=2)
    assert "leave --split" in error_of(capsys, *task, "--split", "train", status=2)
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    assert "pip install 'nanogpkant[harness]'" in error_of(capsys, *task)


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ("WordLevel error: Missing [UNK] token from the vocabulary", "never seen"),
        ("task\nnot found", "any: task not found"),
        ("", "any: Exception"),
    ],
)
def test_its_own_errors_are_one_line(tiny_run, capsys, monkeypatch, problem: str, words: str):
    def fail(*_: object, **__: object) -> None:
        raise Exception(problem)

    monkeypatch.setattr(harness, "find_spec", lambda name: object())
    monkeypatch.setattr(harness, "_evaluate", fail)
    line = error_of(capsys, str(tiny_run), "--harness", "any", "--device", "cpu")
    assert line.startswith("error: --harness any: ")
    assert words in line
