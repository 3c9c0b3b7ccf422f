"""The playground's engine, run by node."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogpkant.model.gpt import GPT
from nanogpkant.playground.observe import functions
from nanogpkant.playground.pack import Pack, Weights
from nanogpkant.playground.page import ENGINE, script
from nanogpkant.playground.recipe import recipe, with_curves

NODE = shutil.which("node")


@pytest.fixture
def run_node():
    """Run code beside the engine: ``values`` are known to it, and ``model`` if one is given.

    With ``text``, token ids, ``catalogue`` is that of the model's functions.
    """
    if NODE is None:
        pytest.skip("there is no node")

    def run(
        code: str,
        values: Any = None,
        model: GPT | None = None,
        weights: Weights = "float32",
        text: Any = None,
    ):
        modules = (*ENGINE, *(("fit", "shapes") if text is not None else ()))
        given = {"script": script(modules), "code": code, "values": values}
        if model is not None:
            pack, model = Pack(weights), with_curves(model)
            given["recipe"] = recipe(model, pack)
            if text is not None:
                given["functions"] = functions(model, text, pack)
            given |= {"table": pack.table, "bytes": pack.as_text()}
        file = Path(__file__).with_name("engine.mjs")
        done = subprocess.run(
            [NODE, file], input=json.dumps(given), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def shaken(tiny_gpt):
    """Make a small GPT with noise in all parameters: none is at a start that hides an error."""

    def make(sites: tuple[str, ...] = (), **changes: object) -> GPT:
        model = tiny_gpt(sites, **changes).float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    return make
