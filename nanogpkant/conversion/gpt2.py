"""GPT-2 as transformers saves it, read as our plain model: the same function under other names.

Source: Hugging Face's transformers, whose projections are Conv1D: their weights are
(inputs, outputs), the transpose of ours.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from nanogpkant.base.errors import UsageError, UserError, from_extra, one_line
from nanogpkant.base.files import read_json
from nanogpkant.config import KANConfig, ModelConfig

NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
CONFIG = "config.json"
FILES = (CONFIG, "model.safetensors", "vocab.json", "merges.txt")  # of each of them on the Hub
TIMEOUT = 10  # seconds to wait for the Hub's first answer

# Their activation: ours.
ACTIVATIONS: dict[str, Literal["gelu", "gelu_tanh"]] = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
}
# Settings that change the function, with the values that our model computes.
READABLE = {
    "activation_function": tuple(ACTIVATIONS),
    "add_cross_attention": (False,),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "tie_word_embeddings": (True,),
}
# Parts of their names: of ours.
RENAMED = {
    "wte.": "tokens.",
    "wpe.": "positions.",
    "h.": "blocks.",
    "attn.c_attn.": "attention.qkv.",
    "attn.c_proj.": "attention.out.",
    "mlp.c_fc.": "mlp.into.",
    "mlp.c_proj.": "mlp.out.",
    "ln_f.": "norm.",
    "ln_": "norm_",
}
# Attention masks that old files hold beside the weights.
MASKS = re.compile(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias")


def download(name: str) -> Path:
    """The folder of one of ``NAMES`` in huggingface_hub's cache, downloaded if it is not there.

    Raises:
        UserError: the Hub cannot be reached, or does not answer in time.
    """
    with from_extra("hf", name):
        from huggingface_hub import HfApi, hf_hub_download

    repo, reason = f"openai-community/{name}", ""
    try:  # the only request with a time limit: without an answer to it, only the cache is read
        HfApi().model_info(repo, timeout=TIMEOUT)
    except Exception as error:  # of whichever HTTP library the client uses
        reason = one_line(error)
    try:
        limits = {"etag_timeout": TIMEOUT, "local_files_only": bool(reason)}
        paths = [Path(hf_hub_download(repo, file, **limits)) for file in FILES]
    except Exception as error:
        remedy = "try again later, or give the PATH of a folder that holds it"
        why = reason or one_line(error)
        raise UserError(f"cannot get {repo} from the Hugging Face Hub: {why}; {remedy}") from error
    return paths[0].parent


def read_shape(folder: Path) -> ModelConfig:
    """The shape of a GPT-2 as our plain model's, without dropout.

    Raises:
        UserError: another architecture, or a setting that our model does not have.
    """
    values, where = read_json(folder / CONFIG), folder / CONFIG
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind != "gpt2":
        raise UserError(f"{where}: model_type is {kind!r}, and only 'gpt2' can be read")
    with reading_with_transformers(folder):
        from transformers import GPT2Config

        theirs = GPT2Config.from_dict(values)
    for name, readable in READABLE.items():
        if (value := getattr(theirs, name)) not in readable:
            remedy = f"only {', '.join(map(str, readable))} can be read"
            raise UserError(f"{where}: {name} is {value!r}, and {remedy}")
    try:
        return ModelConfig(
            n_layer=theirs.n_layer,
            n_head=theirs.n_head,
            n_embd=theirs.n_embd,
            block_size=theirs.n_positions,
            activation=ACTIVATIONS[theirs.activation_function],
            mlp_ratio=(theirs.n_inner or 4 * theirs.n_embd) / theirs.n_embd,
            dropout=0.0,
            bias=True,
            kan=KANConfig(base="gpt"),
        )
    except (UsageError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"{where} describes no model: {error}") from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a GPT-2 under our names, in float32, from safetensors files only.

    Raises:
        UserError: transformers cannot read them, or some are missing.
    """
    with reading_with_transformers(folder):
        from transformers import GPT2LMHeadModel

        loaded: Any = GPT2LMHeadModel.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below, in plainer words
            output_loading_info=True,
        )
    model, info = loaded
    problems = {
        "is missing from": info["missing_keys"],
        "is not expected in": {k for k in info["unexpected_keys"] if not MASKS.fullmatch(k)},
        "has another shape in": {key for key, *_ in info["mismatched_keys"]},
    }
    for problem, names in problems.items():
        if names:
            raise UserError(f"{min(names)} {problem} {folder}: {CONFIG} describes another GPT-2")
    weights = {}
    for name, tensor in model.transformer.state_dict().items():
        is_conv1d = ".c_" in name and tensor.dim() == 2
        for theirs, ours in RENAMED.items():
            name = name.replace(theirs, ours)
        weights[name] = (tensor.T if is_conv1d else tensor).float()
    return weights


@contextmanager
def reading_with_transformers(folder: Path) -> Iterator[None]:
    """Keep transformers quiet, and turn its errors into one line."""
    with from_extra("hf", f"reading {folder}"):
        from transformers.utils import logging
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # of transformers, safetensors and torch
        raise UserError(f"transformers cannot read {folder}: {one_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()
