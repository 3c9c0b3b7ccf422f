"""Checkpoints of nanoGPT and of the original nanoGPKANT, read as models of ours.

    ckpt.pt    model (state dict), model_args, iter_num; read with weights_only
    meta.pkl   characters of its vocabulary, beside it or beside its data

Every projection of the original is a layer of efficient-kan, ``KAN([n, m])``, and its MLP one of
two, ``KAN([n, 4 n, n])``.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpkant.base.errors import UsageError, UserError, one_line, prefixed
from nanogpkant.base.files import read_text
from nanogpkant.config import KANConfig, ModelConfig
from nanogpkant.conversion.gpt2 import MASKS, RENAMED
from nanogpkant.conversion.others import on_one_grid
from nanogpkant.data.tokenizer import CharTokenizer
from nanogpkant.kan import BSpline, Features
from nanogpkant.model.projection import SITE_OF

KINDS = ("auto", "nanogpt", "nanogpkant-original")
META = "meta.pkl"
SHAPE = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size")
# Ends of the original's names, of a KAN layer: of ours.
KAN_NAMES = {"mlp.kan.layers.0.": "mlp.into.", "mlp.kan.layers.1.": "mlp.out.", ".layers.0.": "."}


def read_checkpoint(
    file: Path, kind: str = "auto"
) -> tuple[ModelConfig, int, dict[str, Tensor], dict[str, Features]]:
    """The model of a checkpoint: its shape, steps, weights and the features of its KAN layers.

    Args:
        kind: one of ``KINDS``; "auto" tells by the names of the weights.

    Raises:
        UserError: it is damaged, no checkpoint of these, or not of the kind.
    """
    with prefixed(str(file)):
        saved = _load(file)
        weights = _renamed(saved["model"])
        arguments = {**saved["model_args"]}
        layers = sorted(
            {n.removesuffix(".base_weight") for n in weights if n.endswith("base_weight")}
        )
        found = KINDS[2] if layers else KINDS[1]
        if kind not in ("auto", found):
            raise UserError(f"--from {kind}: it is a checkpoint of {found}")
        kan: dict[str, Any] = {"base": "silu" if layers else "gpt"}
        features = {}
        for layer in layers:
            about = _kan_layer(weights, layer, has_bias=bool(arguments["bias"]))
            basis = about.pop("features")
            features[layer] = Features(basis, "silu")
            kan |= about | {"grid_size": basis.grid_size, "spline_order": basis.order}
            kan |= {"grid_range": basis.grid_range}
        kan["sites"] = [s for part, s in SITE_OF.items() if f"blocks.0.{part}" in layers]
        try:
            shape = {name: arguments[name] for name in SHAPE if name != "vocab_size"}
            dropout = float(arguments.get("dropout", 0.0))
            config = ModelConfig(**shape, dropout=dropout, activation="gelu", kan=KANConfig(**kan))
        except (UsageError, TypeError, ValueError, KeyError) as error:
            raise UserError(f"its model_args describe no model: {one_line(error)}") from error
        return config, int(saved.get("iter_num", 0)), weights, features


def read_vocabulary(file: Path | None, checkpoint: Path, size: int) -> CharTokenizer | None:
    """The characters of a checkpoint: of a meta.pkl, or those of a text; None without either.

    Args:
        file: a meta.pkl or a text; None looks for a meta.pkl beside the checkpoint.

    Raises:
        UserError: it cannot be read, or has another number of characters than the checkpoint.
    """
    where = file or checkpoint.with_name(META)
    if file is None and not where.is_file():
        return None
    with prefixed(str(where)):
        tokenizer = CharTokenizer(_meta(where) if where.suffix == ".pkl" else read_text(where))
        if tokenizer.vocab_size != size:
            problem = f"it has {tokenizer.vocab_size} characters, and the checkpoint {size} tokens"
            raise UserError(problem)
    return tokenizer


class _PlainValues(pickle.Unpickler):
    """Numbers, text, lists and dicts; anything else could run code."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds a {module_name}.{global_name}")


def _meta(file: Path) -> list[str]:
    """Characters in the order of their ids, which is that of their code points."""
    try:
        with open(file, "rb") as opened:
            values = _PlainValues(opened).load()
        characters = [values["itos"][i] for i in range(len(values["itos"]))]
    except Exception as error:  # pickle raises anything
        raise UserError(f"it is no meta.pkl of characters: {one_line(error)}") from error
    if characters != sorted(set(characters)):
        raise UserError("its characters are not in the order of their code points")
    return characters


def _load(file: Path) -> dict[str, Any]:
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of torch, pickle and zipfile
        why = one_line(error).partition(". ")[0]
        raise UserError(f"cannot be read with weights_only: {why}") from error
    wanted = ("model", "model_args")
    if not isinstance(saved, dict) or not all(isinstance(saved.get(n), dict) for n in wanted):
        raise UserError(f"it is no checkpoint of nanoGPT: it needs {' and '.join(wanted)}")
    if missing := [name for name in SHAPE if name not in saved["model_args"]]:
        raise UserError(f"its model_args have no {missing[0]}")
    if not all(isinstance(each, Tensor) for each in saved["model"].values()):
        raise UserError("its model is no state dict of tensors")
    return saved


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names, in float32."""
    weights = {}
    for theirs, tensor in state.items():
        name = theirs.removeprefix("_orig_mod.").removeprefix("module.")
        if MASKS.fullmatch(name) or name == "lm_head.weight":  # tied to the embedding
            continue
        if not name.startswith("transformer."):
            raise UserError(f"{theirs} is no weight of nanoGPT's model")
        ours = name.removeprefix("transformer.")
        for old, new in (KAN_NAMES | RENAMED).items():
            ours = ours.replace(old, new)
        weights[ours] = tensor.float()
    if not {"tokens.weight", "positions.weight"} <= weights.keys():
        raise UserError("it has no embeddings of tokens and positions")
    return weights


def _kan_layer(weights: dict[str, Tensor], layer: str, has_bias: bool) -> dict[str, Any]:
    """Put a layer of efficient-kan into the form of ours; returns its basis and settings."""
    parts = {}
    for name in ("base_weight", "spline_weight", "grid", "spline_scaler"):
        if (tensor := weights.pop(f"{layer}.{name}", None)) is not None:
            parts[name] = tensor
        elif name != "spline_scaler":
            raise UserError(f"{layer} has no {name}")
    splines, grid = parts["spline_weight"], parts["grid"]  # (out, n, K), (n, knots)
    if splines.dim() != 3 or grid.dim() != 2:
        raise UserError(f"{layer} is no layer of efficient-kan")
    order = grid.shape[1] - 1 - splines.shape[2]
    basis, _ = on_one_grid(grid, splines.transpose(1, 2), order)
    if basis.grid is not None:
        raise UserError(f"the grid of {layer} is not uniform: convert the layer by from_kans")
    low, high = basis.grid_range  # of float32
    basis = BSpline(basis.grid_size, order, (round(low, 6), round(high, 6)))
    packed = torch.cat([parts["base_weight"][:, None], splines.transpose(1, 2)], dim=1)
    weights[f"{layer}.weight"] = packed
    if "spline_scaler" in parts:
        weights[f"{layer}.spline_scale"] = parts["spline_scaler"]
    if has_bias:
        weights[f"{layer}.bias"] = packed.new_zeros(len(packed))
    return {"features": basis, "spline_scale": "spline_scaler" in parts}


def is_checkpoint(name: str) -> bool:
    """Whether a source's name is a file of torch.save's."""
    return bool(re.search(r"\.(pt|pth|ckpt)$", name)) or Path(name).is_file()
