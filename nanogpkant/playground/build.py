"""All that the page of a run holds."""

import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from nanogpkant.base.errors import UserError
from nanogpkant.base.files import read_text, write_atomic
from nanogpkant.data import Ids, check_length
from nanogpkant.evaluation import evaluate
from nanogpkant.kan import kan_layers
from nanogpkant.model.gpt import GPT
from nanogpkant.playground.history import history
from nanogpkant.playground.observe import functions
from nanogpkant.playground.pack import BYTES, Pack, Weights
from nanogpkant.playground.page import page
from nanogpkant.playground.recipe import check, recipe, rounded_model, with_curves
from nanogpkant.run.checkpoint import weights_hash
from nanogpkant.run.folder import RunFolder, open_run
from nanogpkant.run.load import load_model, open_run_data

LARGEST = 64e6  # bytes of weights in a page
TEXT = 1000  # predictions that the page's loss is the mean of
NEEDED = ("pandas", "scipy", "sklearn")  # of the extra interpret, for formulas


def build(
    name: str, out: Path, checkpoint: str, weights: Weights, text: str | None
) -> dict[str, Any]:
    """Write the page of a run: the values of ``verbs.play.Played``."""
    run, trained = open_run(name), load_model(name, checkpoint)
    model = trained.model
    check(model, name)
    parameters = sum(p.numel() for p in model.parameters())
    check_size(name, parameters, weights)
    tokens = text_of(run, trained, text)
    read = np.asarray(tokens[: TEXT + 1])
    exact = evaluate(model, read, 8).loss
    rounded = evaluate(rounded_model(model, weights), read, 8).loss
    pack, shown = Pack(weights), with_curves(model)
    made = recipe(shown, pack)
    about = functions(shown, tokens, pack, all(map(find_spec, NEEDED)))
    values = {
        "name": run.path.name,
        "run": shlex.quote(run.path.name if Path(name).is_absolute() else name),
        "step": trained.step,
        "identity": weights_hash(run, trained.step),
        "parameters": parameters,
        "weights": weights,
        "loss": {"exact": exact, "packed": rounded},
        "dataset": trained.config.data.dataset,
        "model": made,
        "tokenizer": {"type": trained.tokenizer.type, **trained.tokenizer.as_json()},
        "text": read.tolist(),
        "prompt": prompt_of(trained.tokenizer, read),
        "functions": about,
        "history": history(run, about, pack),
    }
    write_atomic(out, page(values | {"tensors": pack.table}, pack.as_text()))
    return {
        "page": str(out),
        "bytes": out.stat().st_size,
        "step": trained.step,
        "functions": count_functions(shown),
        "loss": {"exact": exact, "page": rounded},
    }


def count_functions(model: GPT) -> int:
    """Learned one-dimensional functions: shared ones, edges, heads."""
    total = 0
    for layer in kan_layers(model).values():
        shape = layer.features.coefficient_shape
        total += shape[0] * shape[1] if shape else layer.in_features * layer.out_features
    return total


def check_size(name: str, parameters: int, weights: Weights) -> None:
    """
    Raises:
        UserError: a page could not hold so many parameters.
    """
    size = parameters * BYTES[weights]
    if size <= LARGEST:
        return
    remedy = "play a smaller model"
    if parameters * BYTES["int8"] <= LARGEST:
        remedy = "give --weights int8"
    problem = f"{name} has {parameters:,} parameters, {size / 1e6:,.0f} MB in {weights}"
    raise UserError(f"{problem}; a page holds {LARGEST / 1e6:.0f} MB: {remedy}")


def text_of(run: RunFolder, trained: Any, file: str | None) -> Ids:
    """The tokens that losses and inputs are measured on: the validation text's, or a file's.

    Raises:
        UserError: the data is gone, or the text too short.
    """
    if file is None:
        tokens = open_run_data(run, trained.config.data).split("val")
        check_length(tokens, trained.config.model.block_size, "val")
        return tokens
    tokens = trained.tokenizer.encode(read_text(Path(file)))
    least = trained.config.model.block_size + 1
    if len(tokens) < least:
        raise UserError(f"--text {file}: has {len(tokens)} tokens; it needs {least} or more")
    return tokens


def prompt_of(tokenizer: Any, tokens: np.ndarray) -> str:
    """A line of the text to begin with, such as the name of a speaker."""
    for line in tokenizer.decode(tokens).split("\n\n")[1:]:
        first = line.split("\n")[0]
        if 2 <= len(first) <= 24 and "\ufffd" not in first:
            return f"{first}\n"
    return tokenizer.start
