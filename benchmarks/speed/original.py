"""The original nanoGPKANT's model, rebuilt from ours to time its training step.

Our GPT with three parts of the original: eager Cox-de Boor layers, dropout inside
scaled_dot_product_attention (the slow, unfused path except on CUDA), and torch's dropout. The
learned scale of each spline is folded into the weights, so this is slightly faster than the
original was. Time it in float32, as it was published.
"""

from types import MethodType

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed.cox_de_boor import CoxDeBoorLinear
from nanogpkant.config import ModelConfig
from nanogpkant.kan import KANLinear
from nanogpkant.model.dropout import Dropout
from nanogpkant.model.gpt import GPT, Attention


def original_gpt(config: ModelConfig, vocab_size: int) -> GPT:
    """The original's model, with the initial weights of our GPT."""
    model = GPT(config, vocab_size)
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, KANLinear):
                setattr(parent, name, CoxDeBoorLinear(module))
            elif isinstance(module, Dropout):
                setattr(parent, name, nn.Dropout(module.p))
        if isinstance(parent, Attention):
            parent.attend = MethodType(_attend, parent)
    return model


def _attend(self: Attention, q: Tensor, k: Tensor, v: Tensor, visible: None = None) -> Tensor:
    """q, k, v (B, H, T, D) -> (B, H, T, D), with dropout of attention weights; no padding."""
    dropout = self.dropout.p if self.training else 0.0
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
