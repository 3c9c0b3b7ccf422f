"""make_linear: the one place that decides whether a projection of the model is KAN or plain."""

import math

from torch import nn

from nanogpkant.base.errors import UsageError
from nanogpkant.config import ModelConfig, Site
from nanogpkant.kan.bases import make_basis
from nanogpkant.kan.features import Features
from nanogpkant.kan.layer import KANLinear
from nanogpkant.kan.shared import share

RESIDUAL_SITES = ("attn_out", "mlp_out")  # those whose output is added to the residual stream


def site_shape(site: Site, config: ModelConfig) -> tuple[int, int]:
    """How many inputs and outputs a projection has."""
    width, mlp = config.n_embd, config.mlp_width
    halves = 2 if config.mlp == "swiglu" else 1
    shapes = {
        "qkv": (width, 3 * width),
        "attn_out": (width, width),
        "mlp_in": (width, halves * mlp),
        "mlp_out": (mlp, width),
    }
    return shapes[site]


def base_at(site: Site, config: ModelConfig) -> str:
    """The base function of a site's edges."""
    if config.kan.base == "gpt":
        return config.mlp if site == "mlp_out" and config.mlp != "swiglu" else "identity"
    return config.kan.base


def features_at(site: Site, config: ModelConfig) -> Features:
    """The features of a site's inputs, where it is KAN."""
    kan, (n_in, _) = config.kan, site_shape(site, config)
    basis = make_basis(kan.basis, vars(kan))
    return Features(share(basis, kan.share, n_in), base_at(site, config))


def _make_kan(site: Site, n_in: int, n_out: int, config: ModelConfig) -> KANLinear:
    kan = config.kan
    try:
        return KANLinear(
            n_in,
            n_out,
            config.bias,
            basis=make_basis(kan.basis, vars(kan)),
            base=base_at(site, config),
            share=kan.share,
            prenorm=kan.prenorm,
            spline_scale=kan.spline_scale,
            init=kan.init,
            dropout=kan.dropout,
            backend=kan.backend,
        )
    except ValueError as error:  # a combination that the configuration's own checks let pass
        raise UsageError(f"--model.kan: {error}") from error


def make_linear(site: Site, config: ModelConfig) -> nn.Module:
    """The initialised projection of a site: (..., in) -> (..., out).

    Projections that write into the residual stream start 1/sqrt(2 * n_layer) times smaller, KAN or
    not, so that the stream keeps its variance with depth (GPT-2, Radford et al. 2019).
    """
    n_in, n_out = site_shape(site, config)
    shrink = 1 / math.sqrt(2 * config.n_layer) if site in RESIDUAL_SITES else 1.0
    if site in config.kan.sites:
        layer = _make_kan(site, n_in, n_out, config)
        layer.scale_output(shrink)
        return layer
    linear = nn.Linear(n_in, n_out, bias=config.bias)
    std = 0.02 if config.init == "gpt2" else 1 / math.sqrt(n_in)
    nn.init.normal_(linear.weight, std=std * shrink)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear
