"""A plain projection's weight into a KAN layer that computes the same, and is free to learn more.

The base function of every edge takes the weight, and all else starts at zero:

- with functions of an edge's own, phi_ij(x) = w_ij * base(x) + 0, where the base is what the plain
  model has there: the identity, or GELU in front of ``mlp_out``; and
- with shared functions, the first of them starts as that base exactly (see ``Shared.start``) and is
  weighed by w_ij, the others by 0.

What is zero still has a gradient: from the first step on every edge can take any shape.
"""

import torch
from torch import Tensor

from nanogpkant.config import ModelConfig, Site, refuse, with_changes
from nanogpkant.kan import KANLinear
from nanogpkant.model.projection import base_at


def check_exact(site: Site, config: ModelConfig) -> None:
    """Refuse settings with which the KAN layer at a site cannot be what the plain one is.

    Raises:
        UsageError: a norm in front of the functions, or another base function.
    """
    kan = config.kan
    if kan.prenorm != "none":
        remedy = "it changes what a plain projection reads; --model.kan.prenorm none"
        refuse("model.kan.prenorm", kan.prenorm, remedy)
    has, wanted = base_at(site, config), base_at(site, with_changes(config, **{"kan.base": "gpt"}))
    if has == "none" and kan.share != "edge":  # then the first function starts as a line
        has = "identity"
    if has != wanted:
        remedy = f"a plain {site} has the base function {wanted}; --model.kan.base gpt"
        refuse("model.kan.base", kan.base, remedy)


def carried(weight: Tensor, layer: KANLinear) -> dict[str, Tensor]:
    """The state of a KAN layer that computes what a plain projection does, but for its bias.

    Args:
        weight: (out, in), the plain projection's.
        layer: whose base function is the plain model's; it stays as it is.
    """
    state = {"weight": torch.zeros_like(layer.weight, dtype=weight.dtype, device=weight.device)}
    state["weight"][:, 0] = weight  # (out, M, in)
    if layer.coefficients is not None:
        state["coefficients"] = layer.features.start()
    if layer.spline_scale is not None:  # not zero, or the splines that it multiplies never learn
        state["spline_scale"] = torch.ones_like(weight)
    return state
