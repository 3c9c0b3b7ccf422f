"""PEFT's LoRA on KAN layers: a product of two thin matrices beside the packed weight.

A KAN layer is one product of its inputs' M features with a weight (out, M * n); LoRA adds B @ A of
rank r to that weight, as to any other.

Source: Hu et al., *LoRA* (arXiv 2106.09685).
"""

from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn


class KANLora(nn.Module, LoraLayer):
    """A KAN layer with adapters, as PEFT makes its own of linear layers."""

    def __init__(self, base_layer: Any, adapter_name: str, config: Any, **options: Any) -> None:
        super().__init__()
        LoraLayer.__init__(self, base_layer)
        if config.lora_bias:
            raise ValueError("lora_bias is not for KAN layers: leave it False")
        with torch.no_grad():
            base_layer.fold_scale()  # adapters add to the weight without it
        self.in_features = self.base.features.size * self.base.in_features  # M * n
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, options.pop("r"), options.pop("lora_alpha"), config=config)

    @property
    def base(self) -> Any:
        """The ``KANLinear``."""
        return self.get_base_layer()

    def get_delta_weight(self, adapter: str) -> Tensor:
        """(out, M, n): what an adapter adds to the weight."""
        thin: Any = self.lora_B[adapter].weight, self.lora_A[adapter].weight
        product = thin[0] @ thin[1]
        return (product * self.scaling[adapter]).view_as(self.base.weight).to(self.base.weight)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters to the weight.

        Raises:
            ValueError: ``safe_merge``, and the result is not finite.
        """
        for adapter in adapter_names or self.active_adapters:
            if adapter in self.lora_A and adapter not in self.merged_adapters:
                merged = self.base.weight.data + self.get_delta_weight(adapter)
                if safe_merge and not merged.isfinite().all():
                    raise ValueError(f"merging {adapter} gives weights that are not finite")
                self.base.weight.data = merged
                self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Take all merged adapters off again."""
        while self.merged_adapters:
            self.base.weight.data -= self.get_delta_weight(self.merged_adapters.pop())

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """(..., n) -> (..., out)."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        base = self.base
        y = self.base_layer(x, *arguments, **options)
        adapters = [] if self.disable_adapters or self.merged else self.active_adapters
        for adapter in [each for each in adapters if each in self.lora_A]:
            features = base.features.expand(base.normalise(x), base.coefficients)  # (..., M, n)
            thin = self.lora_A[adapter]  # in float32 beside weights of 16 bits
            inside = thin(self.lora_dropout[adapter](features.flatten(-2).to(thin.weight.dtype)))
            y = y + (self.lora_B[adapter](inside) * self.scaling[adapter]).to(y.dtype)
        return y
