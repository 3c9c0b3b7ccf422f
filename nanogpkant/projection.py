"""make_linear: the one place that decides whether a projection of the model is KAN or plain."""

import math

from torch import nn

from nanogpkant.config import KANConfig, ModelConfig, Site
from nanogpkant.errors import UsageError
from nanogpkant.kan import BASES, KANLinear
from nanogpkant.kan.basis import Basis

# How many inputs and outputs a projection has, in units of n_embd.
SITE_SHAPES: dict[Site, tuple[int, int]] = {
    "qkv": (1, 3),
    "attn_out": (1, 1),
    "mlp_in": (1, 4),
    "mlp_out": (4, 1),
}
RESIDUAL_SITES = ("attn_out", "mlp_out")  # those whose output is added to the residual stream


def make_basis(kan: KANConfig) -> Basis:
    return BASES[kan.basis](kan.grid_size, kan.spline_order, kan.grid_range)


def _make_kan(n_in: int, n_out: int, config: ModelConfig) -> KANLinear:
    kan = config.kan
    try:
        return KANLinear(
            n_in,
            n_out,
            make_basis(kan),
            base=kan.base,
            bias=config.bias,
            prenorm=kan.prenorm,
            spline_scale=kan.spline_scale,
            init=kan.init,
            backend=kan.backend,
        )
    except ValueError as error:  # a combination that the configuration's own checks let pass
        raise UsageError(f"--model.kan: {error}") from error


def make_linear(site: Site, config: ModelConfig) -> nn.Module:
    """The initialised projection of a site: (..., in) -> (..., out).

    Projections that write into the residual stream start 1/sqrt(2 * n_layer) times smaller, KAN or
    not, so that the stream keeps its variance with depth (GPT-2, Radford et al. 2019).
    """
    wide_in, wide_out = SITE_SHAPES[site]
    n_in, n_out = wide_in * config.n_embd, wide_out * config.n_embd
    shrink = 1 / math.sqrt(2 * config.n_layer) if site in RESIDUAL_SITES else 1.0
    if site in config.kan.sites:
        layer = _make_kan(n_in, n_out, config)
        layer.scale_output(shrink)
        return layer
    linear = nn.Linear(n_in, n_out, bias=config.bias)
    std = 0.02 if config.init == "gpt2" else 1 / math.sqrt(n_in)
    nn.init.normal_(linear.weight, std=std * shrink)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear
