"""Small models of transformers, of every architecture that is tried."""

from typing import Any

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")

SHAPE = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 4, "max_position_embeddings": 64}
LLAMA = SHAPE | {"num_key_value_heads": 2}
IMAGES = {"image_size": 16, "patch_size": 4}
GPT2 = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
GPT2 |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", SHAPE),
    "bert": ("BertForMaskedLM", "BertConfig", SHAPE),
    "llama": ("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", LLAMA | {"head_dim": 8}),
    "mistral": ("MistralForCausalLM", "MistralConfig", LLAMA),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", LLAMA | {"head_dim": 8}),
    "vit": ("ViTForImageClassification", "ViTConfig", SHAPE | IMAGES),
}
FOLDS = {"gpt2": "gelu_tanh", "neox": "gelu", "bert": "gelu", "vit": "gelu"}
GATES = {"llama": "silu", "qwen3": "silu", "mistral": "silu", "gemma": "gelu_tanh"}


def make(name: str, **changes: Any) -> Any:
    """A small model with weights of a size that errors show in, in evaluation mode."""
    model, config, shape = MODELS[name]
    if name == "vit":
        shape = {key: value for key, value in shape.items() if "vocab" not in key}
    made = getattr(transformers, model)(getattr(transformers, config)(**shape | changes))
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made.eval()


def inputs(name: str) -> dict[str, torch.Tensor]:
    if name == "vit":
        return {"pixel_values": torch.randn(2, 3, 16, 16)}
    return {"input_ids": torch.randint(1, 61, (2, 9))}


def where_of(name: str) -> list[str]:
    return ["mlp", "attention"] + ["gate"] * (name in GATES)


def bend(model: nn.Module) -> None:
    """Give every learned function a shape of its own."""
    for name, parameter in model.named_parameters():
        if name.endswith("coefficients"):
            nn.init.normal_(parameter, std=0.3)
