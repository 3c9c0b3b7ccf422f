"""Where in a model a value first stopped being finite."""

from functools import partial

import torch
from torch import Tensor, nn


def first_nonfinite(model: nn.Module, x: Tensor, targets: Tensor) -> str:
    """Name the first weight, layer output or gradient that is not finite, in words.

    Weights are looked at first; then a forward pass on the given batch, layer by layer; then the
    gradients that the parameters hold, from the end of the model, where they come from.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"the weights of {name}"
    if found := _first_output(model, x, targets):
        return f"the output of {found}"
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"the gradient of {name}"
    return "the loss itself"


def _first_output(model: nn.Module, x: Tensor, targets: Tensor) -> str | None:
    found: list[str] = []

    def look(name: str, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        if not found and not torch.isfinite(output).all():
            found.append(name)

    leaves = [(n, m) for n, m in model.named_modules() if not any(m.children())]
    hooks = [module.register_forward_hook(partial(look, name)) for name, module in leaves]
    try:
        with torch.no_grad():
            model(x, targets)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
