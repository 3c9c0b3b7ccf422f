"""make_linear: the one place that decides whether a projection of the model is KAN or plain."""

import math

import torch
from torch import nn

from nanogpkant.base.errors import UsageError
from nanogpkant.config import SITES, ModelConfig, Site
from nanogpkant.kan.bases import make_basis
from nanogpkant.kan.features import Features
from nanogpkant.kan.layer import KANLinear
from nanogpkant.kan.shared import share
from nanogpkant.model.activation import root_mean_square

RESIDUAL_SITES = ("attn_out", "mlp_out")  # those whose output is added to the residual stream
EPSILON = 1e-5  # of norms
# By a part of the module's name.
SITE_OF = dict(zip(("attention.qkv", "attention.out", "mlp.into", "mlp.out"), SITES, strict=True))


class Linear(nn.Linear):
    """``nn.Linear`` with weights from N(0, std) and biases of zero."""

    def __init__(self, n_in: int, n_out: int, bias: bool, std: float) -> None:
        self.std = std
        super().__init__(n_in, n_out, bias)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.weight.normal_(std=self.std)
        if self.bias is not None:
            self.bias.zero_()


class Embedding(nn.Embedding):
    """``nn.Embedding`` with weights from N(0, 0.02), as in GPT-2."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)


def make_norm(config: ModelConfig, width: int, kind: str | None = None) -> nn.Module:
    """The norm of ``width`` numbers that the settings ask for, or of one ``kind``."""
    if (kind or config.norm) == "rms":
        return nn.RMSNorm(width, EPSILON, elementwise_affine=config.norm_weight)
    return nn.LayerNorm(width, EPSILON, elementwise_affine=config.norm_weight, bias=config.bias)


def site_shape(site: Site, config: ModelConfig) -> tuple[int, int]:
    """How many inputs and outputs a projection has."""
    width, mlp = config.n_embd, config.mlp_width
    halves = 2 if config.activation == "swiglu" else 1
    shapes = {
        "qkv": (width, 3 * width),
        "attn_out": (width, width),
        "mlp_in": (width, halves * mlp),
        "mlp_out": (mlp, width),
    }
    return shapes[site]


def base_at(site: Site, config: ModelConfig) -> str:
    """The base function of a site's edges."""
    if config.kan.base != "gpt":
        return config.kan.base
    return config.activation if site == "mlp_out" and config.activation != "swiglu" else "identity"


def features_at(site: Site, config: ModelConfig) -> Features:
    """The features of a site's inputs, where it is KAN."""
    kan, (n_in, _) = config.kan, site_shape(site, config)
    basis = make_basis(kan.basis, vars(kan))
    return Features(share(basis, kan.share, n_in), base_at(site, config))


def _make_kan(site: Site, n_in: int, n_out: int, gain: float, config: ModelConfig) -> KANLinear:
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
            gain=gain,
            dropout=kan.dropout,
            backend=kan.backend,
        )
    except ValueError as error:  # a combination that the configuration's own checks let pass
        raise UsageError(f"--model.kan: {error}") from error


def make_linear(site: Site, config: ModelConfig) -> nn.Module:
    """The initialised projection of a site: (..., in) -> (..., out).

    Projections that write into the residual stream start 1/sqrt(2 * n_layer) times smaller, KAN or
    not, so that the stream keeps its variance with depth (GPT-2, Radford et al. 2019); or at zero.
    """
    n_in, n_out = site_shape(site, config)
    gain = 1.0
    if site in RESIDUAL_SITES:
        gain = 0.0 if config.residual == "zero" else 1 / math.sqrt(2 * config.n_layer)
    if site in config.kan.sites:
        return _make_kan(site, n_in, n_out, gain, config)
    return Linear(n_in, n_out, config.bias, std=gain * _plain_std(site, n_in, config))


def _plain_std(site: Site, n_in: int, config: ModelConfig) -> float:
    if config.init == "gpt2":
        return 0.02
    unit = 1 / math.sqrt(n_in)
    if site == "mlp_out" and config.init == "variance_preserving":
        return unit / root_mean_square(config.activation)
    return unit
