"""Fine-tuning of learned functions alone, and their adapters: a few kB for a model of any size."""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from nanogpkant.base.errors import UsageError, UserError, from_extra, nearest, one_line
from nanogpkant.base.files import replacing
from nanogpkant.kan.curve import DistanceCurve
from nanogpkant.kan.features import Features
from nanogpkant.kan.layer import KANLinear
from nanogpkant.kan.state import FeatureLayer, set_features

WHAT = ("functions", "biases", "all")
FORMAT = "nanogpkant functions"
CHUNK = 1 << 24  # numbers hashed at a time


def function_layers(model: nn.Module) -> dict[str, FeatureLayer]:
    """Every module with learned functions, by its name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, FeatureLayer)}


def function_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of learned functions, by name.

    Of shared functions they are the coefficients: tens to thousands of numbers. Of edges with their
    own functions they are the whole weight.
    """
    found = {}
    for name, layer in function_layers(model).items():
        own = layer.coefficients is None or isinstance(layer, DistanceCurve)
        names = ("weight", "spline_scale") if own else ("coefficients",)
        for each in names:
            if (parameter := getattr(layer, each, None)) is not None:
                found[f"{name}.{each}".lstrip(".")] = parameter
    return found


def train_only(model: nn.Module, what: str = "functions") -> int:
    """Freeze all parameters of a model but some.

    Args:
        model: with KAN layers, of ``kanify`` for instance.
        what: "functions", "biases" (BitFit: Ben Zaken et al., arXiv 2106.10199) or "all".

    Returns:
        how many numbers learn.

    Raises:
        UserError: the model has none of them.
        UsageError: another ``what``.
    """
    if what not in WHAT:
        raise UsageError(f"train_only {what}: {nearest(what, WHAT)}")
    parameters = dict(model.named_parameters())
    chosen = parameters
    if what == "functions":
        chosen = function_parameters(model)
    elif what == "biases":
        chosen = {n: p for n, p in parameters.items() if n.rpartition(".")[2] == "bias"}
    if not chosen:
        remedy = "kanify gives it some" if what == "functions" else "train its functions"
        raise UserError(f"{type(model).__name__} has no {what} to train: {remedy}")
    wanted = {id(parameter) for parameter in chosen.values()}
    for parameter in parameters.values():
        parameter.requires_grad_(id(parameter) in wanted)
    return sum(parameter.numel() for parameter in chosen.values())


def save_functions(model: nn.Module, file: str | Path) -> int:
    """Write the learned functions of a model as an adapter: a safetensors file.

    Its metadata hold the hash of all other weights, and the features of every layer.

    Returns:
        the file's size in bytes.

    Raises:
        UserError: the model has none.
    """
    parameters = function_parameters(model)
    if not parameters:
        raise UserError(f"{type(model).__name__} has no functions to save: kanify gives it some")
    tensors = {name: p.detach().cpu().contiguous() for name, p in parameters.items()}
    features = {name: layer.features.spec for name, layer in function_layers(model).items()}
    about = {"format": FORMAT, "base": hash_of_base(model), "features": json.dumps(features)}
    with replacing(Path(file)) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors, about))
    return Path(file).stat().st_size


@torch.no_grad()
def load_functions(model: nn.Module, file: str | Path) -> None:
    """Give a model the learned functions of an adapter; grids follow.

    Raises:
        UserError: no such file, one that is no adapter or of another base; the model is unchanged.
    """
    tensors, about = _read(Path(file))
    layers, parameters = function_layers(model), function_parameters(model)
    for name in sorted(tensors.keys() ^ parameters.keys()):
        where = "the model" if name in tensors else "it"
        raise UserError(f"{file} is for another model: {name} is missing from {where}")
    if about["base"] != hash_of_base(model):
        raise UserError(f"{file} is for another base: the model's other weights are not those")
    features = {}
    try:
        specs = json.loads(about["features"])
        for name, layer in layers.items():
            features[name] = Features.from_spec(specs[name])
            if features[name].is_learned != layer.features.is_learned:
                raise ValueError(f"{name} shares its functions in another way")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{file} is damaged: {one_line(error)}") from error
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        shape = list(parameters[name].shape)
        if (made := features[layer].coefficient_shape) and kind == "coefficients":
            shape = list(made)
        elif kind == "weight":
            shape[1] = features[layer].size
        if list(tensor.shape) != shape or not tensor.isfinite().all():
            raise UserError(f"{file} is damaged: {name} does not fit")
    for name, layer in layers.items():
        if features[name] != layer.features:
            set_features(layer, features[name])
    for name, tensor in tensors.items():
        parameters[name].copy_(tensor)


def hash_of_base(model: nn.Module) -> str:
    """SHA-256 of all weights of a model but its learned functions."""
    own, found = set(function_parameters(model)), hashlib.sha256()
    for name, tensor in sorted(model.named_parameters()):
        if name not in own:
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            for part in tensor.detach().flatten().split(CHUNK):
                found.update(part.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(file, "pt") as opened:
            about = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot read {file} as an adapter: {one_line(error)}") from error
    if about.get("format") != FORMAT or not {"base", "features"} <= about.keys():
        raise UserError(f"{file} is no adapter of learned functions: save_functions writes one")
    return tensors, about


def lora(config: Any) -> Any:
    """Let a ``peft.LoraConfig`` have KAN layers among its ``target_modules``; returns it.

    A saved adapter's configuration needs it too: ``PeftModel.from_pretrained(model, folder,
    config=lora(PeftConfig.from_pretrained(folder)))``.

    Raises:
        UserError: peft is not installed.

    Examples:
        >>> from peft import LoraConfig, get_peft_model  # doctest: +SKIP
        >>> config = lora(LoraConfig(target_modules=["down_proj"], r=4))  # doctest: +SKIP
        >>> model = get_peft_model(model, config)  # doctest: +SKIP
    """
    with from_extra("peft", "LoRA"):
        from nanogpkant.conversion.lora import KANLora
    config._register_custom_module({KANLinear: KANLora})
    return config
