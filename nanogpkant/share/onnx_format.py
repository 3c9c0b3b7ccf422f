"""``export --format onnx``: the whole model in one file, from token ids to logits.

DIR/
  README.md · manifest.json
  model.onnx        input_ids (batch, tokens) int64 -> logits (batch, tokens, vocabulary) float32,
                    for any batch and up to ``block_size`` tokens
  tokenizer.json    of the tokenizers library

There is no cache: every call reads its whole context. B-splines on non-uniform grids,
``BSpline(grid=...)``, cannot be exported: torch's exporter has no ``searchsorted``.
"""

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nanogpkant.base.console import note
from nanogpkant.base.errors import UserError
from nanogpkant.base.files import write_atomic
from nanogpkant.kan import kan_layers
from nanogpkant.kan.state import has_grid, spline_of
from nanogpkant.run.load import TrainedModel

MODEL = "model.onnx"
LARGEST = 2**31 - 2**20  # bytes: protobuf's limit, less some for the graph
FILES = (MODEL, "tokenizer.json")


def write_onnx(draft: Path, trained: TrainedModel) -> None:
    """Write all files of such a folder but its card and manifest.

    Raises:
        UserError: see ``onnx_bytes``.
    """
    from nanogpkant.share.tokenizers_json import to_tokenizers

    note("tracing the model for ONNX, which takes half a minute")
    block_size = trained.config.model.block_size
    ids = torch.zeros(2, min(4, block_size), dtype=torch.int64)
    shapes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=block_size)}
    write_atomic(draft / MODEL, onnx_bytes(trained.model, ids, shapes, ["input_ids"], ["logits"]))
    write_atomic(draft / "tokenizer.json", to_tokenizers(trained.tokenizer).to_str(pretty=True))


def onnx_bytes(
    module: nn.Module,
    example: Tensor,
    dynamic: dict[int, torch.export.Dim],
    inputs: list[str],
    outputs: list[str],
) -> bytes:
    """A module with one input as the content of an .onnx file.

    Args:
        module: in evaluation mode; its KAN layers are switched to the reference backend.
        example: an input, with at least 2 elements along dynamic dimensions.
        dynamic: dimensions of the input that may differ from the example's.
        inputs, outputs: their names in the file.

    Raises:
        UserError: the exporter is not installed, or cannot write this module.
    """
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        remedy = "pip install 'nanogpkant[onnx]' brings what is needed"
        raise UserError(f"--format onnx: {' and '.join(missing)} not installed; {remedy}")
    size = 4 * sum(tensor.numel() for tensor in module.state_dict().values())
    if size >= LARGEST:
        problem = f"{size / 1e9:.1f} GB of weights do not fit in one .onnx file"
        raise UserError(f"--format onnx: {problem}; --format hf takes them")
    for name, layer in kan_layers(module).items():
        layer.backend = "reference"  # the others are custom operators
        if has_grid(layer) and spline_of(layer).grid is not None:
            problem = "has a non-uniform grid, and torch's exporter no searchsorted"
            raise UserError(f"--format onnx: {name} {problem}; --format hf takes it")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of missing torchvision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=(dynamic,),
            input_names=inputs,
            output_names=outputs,
            verbose=False,
        )
    return program.model_proto.SerializeToString()
