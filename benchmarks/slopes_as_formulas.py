"""The slopes that a run has learned as fixed formulas for ``train.from_formulas``.

A control of curves that a run has found: is it their shape that helps, or that they are learned
already?

    python -m benchmarks.slopes_as_formulas RUN OUT
"""

import sys
from pathlib import Path

import safetensors.torch
import torch

from nanogpkant.base.files import write_json
from nanogpkant.config import save_config, with_changes
from nanogpkant.run.folder import FORMULAS, open_run
from nanogpkant.run.load import load_model


def main(name: str, out: Path) -> None:
    """Write OUT: the settings of a run with slopes, and their values at every distance."""
    run, model = open_run(name), load_model(name, "last").model
    config = run.config()
    distance = torch.arange(config.model.block_size)
    tables, rows = {}, []
    for number, block in enumerate(model.blocks):
        layer, slopes = f"blocks.{number}.attention.bias", block.attention.bias.slopes.detach()
        tables[layer] = -slopes[:, None] * distance
        for head, slope in enumerate(slopes.tolist()):
            formula = {"verdict": "line of d", "sympy": f"-{slope:.9g}*d"}
            rows.append({"layer": layer, "head": head} | formula)
    file = out / "interpret" / FORMULAS
    file.parent.mkdir(parents=True)
    safetensors.torch.save_file(tables, file)
    write_json(file.with_name("formulas.json"), {"curves": rows, "neurons": {}})
    position = config.model.position.replace("slopes", "curve")
    save_config(with_changes(config, **{"model.position": position}), out / "config.yaml")
    environment = run.environment()
    environment["made_of"]["model"]["position"] = position
    write_json(out / "environment.json", environment)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
