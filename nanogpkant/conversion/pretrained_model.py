"""Models of transformers with KAN layers: saved with their code, loaded by the Auto classes.

FOLDER/
  config.json          the model's own, with "kan" (what was replaced) and "auto_map"
  model.safetensors
  modeling_kan.py      the code of the KAN layers, and the model's class on top of transformers' own
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from nanogpkant.base.errors import UserError, from_extra, one_line
from nanogpkant.base.files import read_json
from nanogpkant.conversion.distance import ATTENTION
from nanogpkant.conversion.swap import Swap, apply, repeated

MODELING = "modeling_kan"
PREFIX = "kan_"  # of model_type


class KANModel:
    """What a class of transformers gains: modules replaced as ``config.kan`` says, and its code.

    ``config.kan`` is {module: the values of its ``Swap``}.
    """

    config: Any
    _keys_to_ignore_on_load_missing = (r".*_extra_state",)  # features are in config.kan

    def __init__(self, config: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)  # pyright: ignore[reportCallIssue]
        model: Any = self
        apply(model, {name: Swap(*swap) for name, swap in config.kan.items()})

    def set_attn_implementation(
        self, attn_implementation: Any, *others: Any, **options: Any
    ) -> None:
        """As of any model, unless it has curves of distance.

        Raises:
            ValueError: another attention would leave out the curves of distance.
        """
        has_curves = any(Swap(*swap).heads for swap in self.config.kan.values())
        if has_curves and attn_implementation != ATTENTION:
            raise ValueError(f"{attn_implementation} would leave out the curves of distance")
        super().set_attn_implementation(attn_implementation, **options)  # pyright: ignore

    def save_pretrained(
        self, save_directory: Any, *, state_dict: dict[str, Tensor] | None = None, **options: Any
    ) -> None:
        """As of any model, with its code.

        Raises:
            ValueError: push_to_hub, before which the code would not be there; or frozen functions.
        """
        if options.pop("push_to_hub", False):
            raise ValueError("the code would not be uploaded: call model.push_to_hub(NAME) instead")
        model, parent = self, super()
        swaps = {name: Swap(*swap) for name, swap in self.config.kan.items()}
        if frozen := [n for n in swaps if not hasattr(model.get_submodule(n), "features")]:  # pyright: ignore
            remedy = "save the model before, and freeze it again when it is loaded"
            raise ValueError(f"the functions of {frozen[0]} are frozen: {remedy}")
        weights: Any = model.state_dict() if state_dict is None else state_dict  # pyright: ignore
        weights = {name: each for name, each in weights.items() if "_extra_state" not in name}
        now = repeated(model, swaps)  # pyright: ignore
        self.config.kan = {name: swap.plain for name, swap in now.items()}
        # transformers has no way back to this class from names of other versions.
        options = {"save_original_format": False, **options}
        parent.save_pretrained(save_directory, state_dict=weights, **options)  # pyright: ignore
        if options.get("is_main_process", True):
            write_code(Path(save_directory), type(self))


def write_code(folder: Path, model_class: Any) -> None:
    """Write the code of a model's class, and name it in config.json."""
    (folder / f"{MODELING}.py").write_text(code_of(model_class), encoding="utf-8")
    file, config = folder / "config.json", model_class.config_class
    classes = {"AutoConfig": config.__name__, model_class.auto_class: model_class.__name__}
    places = {"auto_map": {auto: f"{MODELING}.{name}" for auto, name in classes.items()}}
    values = json.loads(file.read_text(encoding="utf-8"))
    values |= {"model_type": config.model_type, "kan_of": model_class.kan_of} | places
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def code_of(model_class: Any) -> str:
    """The file with the code of a class that ``kan_class`` made."""
    from nanogpkant.share.bundle import bundle
    from nanogpkant.share.huggingface import ALL_BASES, HEAD, OVERRIDDEN, WITHOUT

    overridden = OVERRIDDEN | {"nanogpkant.conversion.pretrained_model": {"code_of"}}
    also = [*ALL_BASES, "nanogpkant.conversion.pretrained_model.KANModel"]
    start = "nanogpkant.conversion.modeling_kan"
    text = bundle(start, also=also, overridden=overridden, without=WITHOUT)
    config, (_, _, theirs, *_) = model_class.config_class, model_class.__mro__
    their_config = config.__mro__[1]
    return f'''{HEAD}
{text}

from {their_config.__module__} import {their_config.__name__}
from {theirs.__module__} import {theirs.__name__}


class {config.__name__}({their_config.__name__}):
    model_type = "{config.model_type}"


class {model_class.__name__}(KANModel, {theirs.__name__}):
    config_class = {config.__name__}
    auto_class = "{model_class.auto_class}"
    kan_of = "{model_class.kan_of}"
'''


@cache
def kan_class(theirs: Any) -> Any:
    """The class of a model of transformers with KAN layers."""
    config: Any = theirs.config_class
    about = {"model_type": f"{PREFIX}{config.model_type}", "__module__": config.__module__}
    ours = {
        "config_class": type(f"KAN{config.__name__}", (config,), about),
        "auto_class": _auto_class(theirs),
        "kan_of": f"{theirs.__module__}:{theirs.__name__}",
        "__module__": theirs.__module__,
    }
    return type(f"KAN{theirs.__name__}", (KANModel, theirs), ours)


def _auto_class(theirs: Any) -> str:
    """The Auto class that makes a model's class, such as AutoModelForCausalLM."""
    from transformers.models.auto import modeling_auto

    found = []
    for name, auto in vars(modeling_auto).items():
        mapping = getattr(auto, "_model_mapping", None)
        if name.startswith("AutoModel") and mapping and theirs.config_class in mapping:
            made = mapping[theirs.config_class]
            if theirs in (made if isinstance(made, tuple) else (made,)):
                found.append(name)
    return min(found, key=lambda name: name.endswith("PreTraining"), default="AutoModel")


def enroll(model: Any, swaps: Mapping[str, Swap]) -> None:
    """Let a model of transformers save what is replaced in it; it becomes one of ``kan_class``.

    Raises:
        UserError: its code came out of a folder, so that a saved class could not build on it.
    """
    if type(model).__module__.startswith("transformers_modules."):
        remedy = "a folder that kanify wrote is loaded by nanogpkant.load_kanified(FOLDER)"
        raise UserError(f"the code of {type(model).__name__} is in a folder of its own: {remedy}")
    if not isinstance(model, KANModel):
        model.__class__ = kan_class(type(model))
        model.config.kan = {}
    model.config.kan = model.config.kan | {name: swap.plain for name, swap in swaps.items()}


def load_kanified(folder: str | Path, **options: Any) -> Any:
    """A model that ``kanify`` wrote, with this package's own layers: fast, and to look into.

    Transformers' Auto classes load the same folder without this package.

    Args:
        folder: with its config.json.
        options: of ``from_pretrained``.

    Raises:
        UserError: it holds no such model.
    """
    with from_extra("hf", "a model of transformers"):
        from transformers import PreTrainedModel
    values, problem = read_json(Path(folder) / "config.json"), f"kanify did not write {folder}"
    module, _, name = str(values.get("kan_of") if isinstance(values, dict) else "").partition(":")
    if not module.startswith("transformers.models."):
        raise UserError(f"{problem}: its config.json has no kan_of")
    try:
        import importlib

        theirs = getattr(importlib.import_module(module), name)
        if not issubclass(theirs, PreTrainedModel):
            raise UserError(f"{problem}: {name} is no model")
        return kan_class(theirs).from_pretrained(folder, **options)
    except (ImportError, AttributeError, ValueError, OSError, RuntimeError) as error:
        raise UserError(f"{problem}, or it is damaged: {one_line(error)}") from error
