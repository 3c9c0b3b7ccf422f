"""A small KAN and a text of chance for it."""

import numpy as np
import pytest
import torch

from nanogpkant.config import KANConfig, ModelConfig
from nanogpkant.interpretation.observe.collect import collect
from nanogpkant.kan import kan_layers
from nanogpkant.model.gpt import GPT


@pytest.fixture(scope="session")
def text() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 11, 3000).astype(np.uint16)


@pytest.fixture
def make_model():
    """Make a model: its KAN sites and settings, and those of the rest."""

    def make(
        sites: tuple[str, ...] = ("qkv", "attn_out", "mlp_in", "mlp_out"),
        activation: str = "gelu",
        value_residual: bool = False,
        **kan: object,
    ) -> GPT:
        torch.manual_seed(0)
        options = {"basis": "bspline", "grid_range": (-3.0, 3.0), "init": "variance_preserving"}
        config = ModelConfig(
            n_layer=2,
            n_head=2,
            n_embd=8,
            block_size=16,
            value_residual=value_residual,
            dropout=0.0,
            activation=activation,
            kan=KANConfig(sites=list(sites), **(options | kan)),
        )
        return GPT(config, 11).eval()

    return make


@pytest.fixture
def looked_at(make_model, text):
    """A model, its KAN layers and what was seen of them."""
    model = make_model()
    return model, kan_layers(model), collect(model, text)
