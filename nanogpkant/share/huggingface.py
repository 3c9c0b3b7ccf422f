"""``export --format hf``: a folder that transformers loads without this package.

DIR/
  README.md                 the model card
  config.json · generation_config.json · model.safetensors
  modeling_nanogpkant.py    the model's code: see ``bundle``
  tokenizer.json · tokenizer_config.json
  manifest.json             SHA-256 of each file
"""

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from nanogpkant.base.files import write_atomic, write_json
from nanogpkant.config import with_changes
from nanogpkant.kan.bases import BASES
from nanogpkant.kan.pruned import PrunedLinear
from nanogpkant.model.gpt import GPT
from nanogpkant.run.checkpoint import features_of, write_weights
from nanogpkant.run.folder import WEIGHTS
from nanogpkant.run.load import TrainedModel
from nanogpkant.share.bundle import bundle

MODELING = "modeling_nanogpkant"
FILES = (
    *(WEIGHTS, "config.json", "generation_config.json", f"{MODELING}.py"),
    *("tokenizer.json", "tokenizer_config.json"),
)

VERSION = version("nanogpkant")
HEAD = f'''\
"""The model of this folder: code of nanogpkant {VERSION} in one file; not to be edited.

A comment names the module of the definitions below it. MIT licence, copyright 2026 the nanogpkant
authors.
"""

# ruff: noqa
'''
# The modelling file has one backend, all bases in itself, and grids that do not change.
OVERRIDDEN = {
    "nanogpkant.kan.functional": {"BACKENDS", "run"},
    "nanogpkant.kan.fused": {"fused"},
    "nanogpkant.kan.bases": {"load_basis"},
}
WITHOUT = {
    "KANLinear": {"parts", "update_grid", "refine"},
    "FeatureLayer": {"get_extra_state", "set_extra_state", "_load_from_state_dict"},
}
ALL_BASES = [f"nanogpkant.kan.bases.{e.source.replace(':', '.')}" for e in BASES.values()]


def modeling_code() -> str:
    """The model's code as one file."""
    start = f"nanogpkant.share.{MODELING}"
    return f"{HEAD}\n{bundle(start, also=ALL_BASES, overridden=OVERRIDDEN, without=WITHOUT)}"


def write_huggingface(draft: Path, trained: TrainedModel, weights: dict[str, Tensor]) -> None:
    """Write all files of such a folder but its card and manifest.

    Args:
        trained: the model and its tokenizer.
        weights: the model's state, in any dtype.
    """
    from nanogpkant.share.tokenizers_json import to_tokenizers, tokenizer_config

    tokenizer, block_size = trained.tokenizer, trained.config.model.block_size
    weights = {f"model.{name}": tensor for name, tensor in weights.items()}
    write_weights(draft / WEIGHTS, weights, features_of(trained.model))
    write_json(draft / "config.json", config_json(trained.model, weights))
    eot = tokenizer.eot
    ends = {} if eot is None else {"eos_token_id": eot, "pad_token_id": eot}
    write_json(draft / "generation_config.json", ends)
    write_atomic(draft / f"{MODELING}.py", modeling_code())
    write_atomic(draft / "tokenizer.json", to_tokenizers(tokenizer).to_str(pretty=True))
    write_json(draft / "tokenizer_config.json", tokenizer_config(tokenizer, block_size))


def config_json(model: GPT, weights: dict[str, Tensor]) -> dict[str, Any]:
    """config.json: the architecture, and the file and classes with its code."""
    config = with_changes(model.config, **{"kan.backend": "reference", "kan.spline_scale": False})
    dtype = next(t.dtype for t in weights.values() if t.is_floating_point())
    pruned = {
        name: (module.layer.in_features, module.layer.out_features)
        for name, module in model.named_modules()
        if isinstance(module, PrunedLinear)
    }
    return {
        "model_type": "nanogpkant",
        "architectures": ["NanoGPKANTForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{MODELING}.NanoGPKANTConfig",
            "AutoModelForCausalLM": f"{MODELING}.NanoGPKANTForCausalLM",
        },
        "dtype": str(dtype).removeprefix("torch."),
        "vocab_size": model.vocab_size,
        "gpt": asdict(config),
        "kan_features": features_of(model),
        "pruned": pruned,
        "tie_word_embeddings": model.config.tied,
    }
