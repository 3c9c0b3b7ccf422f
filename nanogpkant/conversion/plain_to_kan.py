"""The weight of a plain projection as a KAN layer that computes the same function.

The base function of every edge takes the weight, and all other coefficients start at zero:

- edges with their own functions: phi_ij(x) = w_ij * base(x) + 0, where base is the plain model's
  activation: the identity, or GELU in front of ``mlp_out``;
- shared functions: the first starts as exactly that base (see ``Shared.start``) with weight w_ij,
  the others with weight 0.

Zero coefficients still have a gradient: every edge can take any shape from the first step on.
"""

import torch
from torch import Tensor

from nanogpkant.base.errors import refuse
from nanogpkant.config import ModelConfig, Site, with_changes
from nanogpkant.kan.layer import KANLinear
from nanogpkant.model.projection import base_at


def check_exact(site: Site, config: ModelConfig) -> None:
    """Refuse settings with which a KAN layer cannot compute its plain projection's function.

    Raises:
        UsageError: a norm before the functions, or another base function.
    """
    kan = config.kan
    if kan.prenorm != "none":
        remedy = "it changes the input of a plain projection; --model.kan.prenorm none"
        refuse("model.kan.prenorm", kan.prenorm, remedy)
    has, wanted = base_at(site, config), base_at(site, with_changes(config, **{"kan.base": "gpt"}))
    if has == "none" and kan.share != "edge":  # then the first function starts as a line
        has = "identity"
    if has != wanted:
        remedy = f"a plain {site} has the base function {wanted}; --model.kan.base gpt"
        refuse("model.kan.base", kan.base, remedy)


def kan_state(weight: Tensor, layer: KANLinear) -> dict[str, Tensor]:
    """The state of a KAN layer that computes a plain projection without its bias.

    Args:
        weight: (out, in), the plain projection's.
        layer: a layer with the plain model's base function; it is not changed.
    """
    state = {"weight": torch.zeros_like(layer.weight, dtype=weight.dtype, device=weight.device)}
    state["weight"][:, 0] = weight  # (out, M, in)
    if (start := layer.features.start()) is not None:
        state["coefficients"] = start
    if layer.spline_scale is not None:  # at zero, the splines that it multiplies would never learn
        state["spline_scale"] = torch.ones_like(weight)
    return state
