"""Parameters and FLOPs of a configuration, without building the model.

FLOPs are those of the matrix products (a multiply and an add are two), attention's included over
the full block; a KAN projection with M features an input costs M times the plain one. Training
costs three times the forward pass: the backward pass has two products for each one forward.
"""

import math
from dataclasses import dataclass

from nanogpkant.config import SITES, ModelConfig, Site
from nanogpkant.model.projection import features_at, site_shape

SHAKESPEARE_CHARACTERS = 65
GPT2_TOKENS = 50257
# Vocabularies of datasets, to count a model before its text is prepared.
VOCABULARIES = {
    "shakespeare_char": SHAKESPEARE_CHARACTERS,
    "tinyshakespeare_char": SHAKESPEARE_CHARACTERS,
    "shakespeare_all_char": 75,
    "shakespeare": GPT2_TOKENS,
    "enwik8": 256,
    "text8": 27,
    "tinystories": GPT2_TOKENS,
    "openwebtext": GPT2_TOKENS,
    "fineweb_edu": GPT2_TOKENS,
}


@dataclass(frozen=True)
class Count:
    """Parameters of a model, and its FLOPs per token."""

    parameters: int
    """all learned numbers"""
    parameters_without_positions: int
    """the same without position embeddings: nanoGPT's and the original nanoGPKANT's count"""
    forward_flops_per_token: int
    """FLOPs of one forward pass at full block, per token"""
    is_by_edge: bool = True
    """whether the coefficients of functions are those of edges"""

    @property
    def flops_per_token(self) -> int:
        """FLOPs of one training step (forward and backward), per token."""
        return 3 * self.forward_flops_per_token

    def flops_with(self, parameters: int) -> int:
        """The same with other coefficients of edges: each is a multiply and an add, three times.

        Those that shared functions and curves of distance gain are part of no product.
        """
        gained = parameters - self.parameters
        return self.flops_per_token + 6 * gained * (self.is_by_edge or gained < 0)


def count(config: ModelConfig, vocab_size: int) -> Count:
    """Count a model by arithmetic."""
    width, layers = config.n_embd, config.n_layer
    sites = [_count_site(site, config) for site in SITES]
    norm = width * config.norm_weight * (1 + (config.bias and config.norm == "layer"))
    extras, extra_flops = _count_extras(config)
    block = 2 * norm + sum(parameters for parameters, _ in sites) + extras
    positions = config.block_size * width if "learned" in config.positions else 0
    mixed = 2 * (layers - 1) if config.value_residual else 0
    embeddings = vocab_size * width * (1 if config.tied else 2)
    parameters = embeddings + positions + layers * block + norm + mixed
    attention = 2 * 2 * config.block_size * width  # queries with keys, then weights with values
    products = sum(flops for _, flops in sites) + extra_flops
    forward = layers * (products + attention) + 2 * vocab_size * width
    is_by_edge = bool(config.kan.sites) and config.kan.share == "edge"
    return Count(parameters, parameters - positions, forward, is_by_edge)


def _count_extras(config: ModelConfig) -> tuple[int, int]:
    """Parameters, and forward FLOPs a token, of a block's parts that are neither norm nor product.

    Curves of distance are computed once a batch, which is nothing a token.
    """
    heads, head = config.n_head, config.n_embd // config.n_head
    biases = {"slopes": heads, "curve": _curve_size(config, config.block_size)}
    count = sum(biases.get(name, 0) for name in config.positions)
    count += 2 * head * (config.qk_norm and config.norm_weight)
    count += heads * config.score_degree
    count += 2 * (config.activation == "xielu" and "mlp_out" not in config.kan.sites)
    if config.conv == "taps":
        count += config.n_embd * config.conv_length
    elif config.conv == "decay":
        count += 2 * config.n_head
    elif config.conv == "curve":
        count += _curve_size(config, config.conv_length)
    flops = 2 * config.n_embd * config.conv_length if config.conv != "none" else 0
    return count, flops


def _curve_size(config: ModelConfig, distances: int) -> int:
    knots = config.curve.at_most(distances)
    sizes = {"hat": knots, "bspline": knots + 2, "fourier": 2 * knots}
    return config.n_head * sizes[config.curve.basis] * config.curve.learned


def _count_site(site: Site, config: ModelConfig) -> tuple[int, int]:
    """Parameters, and forward FLOPs a token, of one projection."""
    n_in, n_out = site_shape(site, config)
    kan = config.kan
    if site not in kan.sites:
        return n_in * n_out + config.bias * n_out, 2 * n_in * n_out
    features = features_at(site, config)
    shared = math.prod(features.coefficient_shape or (0,))
    parameters = (features.size + kan.spline_scale) * n_in * n_out + config.bias * n_out + shared
    return parameters, 2 * features.size * n_in * n_out
