"""Folders that earlier versions exported still load: tests/old_runs, made by revision 1182e80."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanogpkant.run.manifest import verify
from nanogpkant.share.huggingface import FILES

OLD = Path(__file__).resolve().parents[1] / "old_runs"

LOAD = """
import sys
import torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
with torch.no_grad():
    print(model(torch.tensor(eval(sys.argv[2]))).logits.tolist())
"""


def test_an_old_folder_loads_in_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    expected = json.loads((OLD / "hf_logits.json").read_text(encoding="utf-8"))
    command = [sys.executable, "-c", LOAD, str(OLD / "hf_export"), str(expected["ids"])]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logits = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    torch.testing.assert_close(logits, torch.tensor(expected["logits"]), rtol=0, atol=1e-5)


def test_an_old_folder_can_be_pushed() -> None:
    """Its files are the ones that today's manifest may name."""
    assert verify(OLD / "hf_export", FILES) == 60
