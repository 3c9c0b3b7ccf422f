"""The model as transformers wants it; ``bundle`` makes the file of a model folder from it.

The model is the package's own; this module only translates arguments. KAN layers run in plain
torch, without the package's compiled kernels, so that torch and transformers are all that is
needed; expect them to be slower, and to take more memory in training.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache as TransformersCache
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from nanogpkant.config import CurveConfig, KANConfig, ModelConfig
from nanogpkant.kan.backends.reference import Call, forward
from nanogpkant.kan.bases import BASES
from nanogpkant.kan.features import Features
from nanogpkant.kan.layer import kan_layers
from nanogpkant.kan.pruned import like_saved
from nanogpkant.kan.state import set_features
from nanogpkant.model.gpt import GPT

UNUSED = ("cache_position",)  # passed by transformers 4; the cache knows it
# This and the next three definitions take the place of those in nanogpkant.kan.
BACKENDS = ("auto", "reference")


def run(backend: str, call: Call) -> Tensor:
    """What computes a KAN layer: always plain torch."""
    return forward(call)


def fused(name: str, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """An activation: always plain torch."""
    return function(x)


def load_basis(name: str) -> Any:
    """The class of a basis, which this file holds too."""
    return globals()[BASES[name].source.partition(":")[2]]


class NanoGPKANTConfig(PretrainedConfig):
    """The architecture of a model.

    Args:
        gpt: the fields of ``ModelConfig``.
        vocab_size: number of tokens.
        kan_features: {KAN layer: its ``Features.spec``}, since grids change in training.
        pruned: {pruned layer: its remaining inputs and outputs}.
    """

    model_type = "nanogpkant"

    def __init__(
        self,
        gpt: dict[str, Any] | None = None,
        vocab_size: int = 65,
        kan_features: dict[str, str] | None = None,
        pruned: dict[str, tuple[int, int]] | None = None,
        **others: Any,
    ) -> None:
        self.gpt, self.vocab_size = gpt or {}, vocab_size
        self.kan_features, self.pruned = kan_features or {}, pruned or {}
        # The names that transformers looks for.
        model = self.model_config()
        self.hidden_size, self.max_position_embeddings = model.n_embd, model.block_size
        self.num_hidden_layers, self.num_attention_heads = model.n_layer, model.n_head
        super().__init__(**others)

    def model_config(self) -> ModelConfig:
        kan: dict[str, Any] = {**self.gpt.get("kan", {}), "backend": "reference"}
        curve = CurveConfig(**self.gpt.get("curve", {}))
        model: dict[str, Any] = {**self.gpt, "kan": KANConfig(**kan), "curve": curve}
        return ModelConfig(**model)


class PastTokens:
    """The cache of transformers with the methods that GPT calls.

    Inputs of a convolution, (B, H, T, D) as keys are, are kept beside the keys.
    """

    def __init__(self, cache: TransformersCache, heads: int) -> None:
        self.cache, self.heads, self.length = cache, heads, cache.get_seq_length()
        self.inputs: Tensor | None = None

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, H, T, D) keys and values of new tokens; returns those of all tokens."""
        if self.inputs is None:
            return self.cache.update(k, v, layer)
        both, v = self.cache.update(torch.cat([k, self.inputs], dim=-1), v, layer)
        return both.chunk(2, dim=-1)[0], v

    def recall(self, layer: int, x: Tensor, count: int) -> Tensor:
        """(B, T, C) new inputs of a convolution -> (B, count + T, C), with the ``count`` before."""
        self.inputs = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if self.length:
            kept: Any = self.cache.layers[layer]
            past = kept.keys.chunk(2, dim=-1)[1]
            x = torch.cat([past.transpose(1, 2).flatten(-2)[:, -count:], x], dim=1)
        missing = max(0, count - self.length)
        return nn.functional.pad(x, (0, 0, missing, 0))


class NanoGPKANTForCausalLM(PreTrainedModel, GenerationMixin):
    """A GPT with KAN layers, or a plain one. Embedding and output share one matrix."""

    config_class = NanoGPKANTConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    supports_gradient_checkpointing = True
    gradient_checkpointing = False
    accepts_loss_kwargs = True
    _no_split_modules = ["Block"]  # noqa: RUF012

    def __init__(self, config: NanoGPKANTConfig) -> None:
        super().__init__(config)
        self.model = GPT(config.model_config(), config.vocab_size)
        layers = kan_layers(self.model)
        for name, (n, m) in config.pruned.items():
            layer = layers[name]
            shapes = {
                "layer.weight": torch.empty(m, layer.features.size, n),
                "constant": torch.empty(layer.out_features),
                "inputs": torch.arange(n),
                "outputs": torch.arange(m),
            }
            self.model.set_submodule(name, like_saved(layer, shapes))
        layers = kan_layers(self.model)
        for name, spec in config.kan_features.items():
            layer, features = layers[name], Features.from_spec(spec)
            if layer.features != features:
                set_features(layer, features)
                layer.reset_parameters()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Modules have initialized themselves."""

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.tokens

    def set_input_embeddings(self, value: Any) -> None:
        self.model.tokens = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: TransformersCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V) of the token after each token.

        Args:
            input_ids: (B, T) token ids; with a cache, only the tokens after those in it.
            attention_mask: (B, S) 0 at padding, for all S tokens including those in the cache;
                padding may stand on either side and have any id.
            past_key_values: keys and values of earlier tokens.
            labels: (B, T) ids to predict, -100 where there is no loss; shifted by one here, so they
                may be the input itself.
            use_cache: return keys and values; by default in evaluation mode.
            inputs_embeds: (B, T, C) embeddings in the place of ``input_ids``.
            output_hidden_states: return the residual stream (B, T, C) before every block, and
                after the last norm.
            num_items_in_batch: number to divide the summed loss by, in place of the label count.
            others: arguments that transformers passes to every model; they must be None or False.

        Raises:
            ValueError: an argument that it does not have, both or neither of ``input_ids`` and
                ``inputs_embeds``, or more than ``block_size`` tokens.
        """
        for name, value in others.items():
            if name not in UNUSED and value is not None and value is not False:
                raise ValueError(f"this model has no {name}")
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError("attention_mask must be (batch, tokens); static caches do not work")
        if attention_mask is not None and bool(attention_mask.all()):
            attention_mask = None
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        embedded: Any = inputs_embeds
        if input_ids is not None:
            if attention_mask is not None:  # the padding's id may lie beyond the vocabulary
                new = attention_mask[:, -input_ids.shape[1] :]
                input_ids = input_ids.masked_fill(new == 0, 0)
            embedded = self.model.tokens(input_ids)
        recomputes = self.gradient_checkpointing and self.training
        if recomputes and self.model.config.value_residual:
            how: Any = self._gradient_checkpointing_func
            if getattr(how, "keywords", {}).get("use_reentrant"):  # gradients would miss a path
                remedy = 'gradient_checkpointing_kwargs={"use_reentrant": False}'
                raise ValueError(f"value_residual needs {remedy}")
        use_cache = not self.training if use_cache is None else use_cache and not recomputes
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache()
        past: Any = None
        if past_key_values is not None:
            past = PastTokens(past_key_values, self.config.num_attention_heads)
        x, places = self.model.begin(embedded, past, attention_mask)
        states = []
        for block in self.model.blocks:
            states.append(x)
            if recomputes:
                x = self._gradient_checkpointing_func(block.__call__, x, places, past)
            else:
                x = block(x, places, past)
        x = self.model.norm(x)
        logits, loss = self.model.logits(x), None
        if labels is not None:
            size = self.config.vocab_size
            loss = self.loss_function(logits, labels, size, num_items_in_batch=num_items_in_batch)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values,
            hidden_states=(*states, x) if output_hidden_states else None,
        )
