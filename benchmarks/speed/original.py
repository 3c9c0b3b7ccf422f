"""The original's model, as nearly as our code can say it: what its training step cost.

Our GPT with three things put back: eager Cox-de Boor layers in place of every KAN layer, attention
dropout asked of scaled_dot_product_attention (off CUDA its slow, unfused path), and torch's own
dropout. The learned scale of each spline is multiplied into the weights beforehand, which flatters
the original a little. Run it in float32, as it was published.
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
    """The model, with the weights that GPT would draw."""
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
    """Three (B, H, T, D) -> (B, H, T, D), every attention weight dropped by itself; no padding."""
    dropout = self.dropout.p if self.training else 0.0
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
