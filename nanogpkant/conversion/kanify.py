"""kanify: chosen linear layers of any torch model become KAN layers of the same function.

A plain MLP is ``out(activation(into(x)))``: the activation becomes the base function of the layer
behind it. Whether the activation stands right there is tried on random numbers, in evaluation and
in training, and not taken from names. In a gated MLP, ``out(activation(gate(x)) * value(x))``, a
product stands before the last layer: the gate's activation itself can become a learned function.
To the scores of attention a learned curve of distance can be added.
"""

import copy
import fnmatch
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nanogpkant.base.errors import UsageError, UserError, nearest
from nanogpkant.conversion.distance import is_pretrained, new_curve, places
from nanogpkant.conversion.swap import Swap, apply, plain_weight
from nanogpkant.kan import BASE_FUNCTIONS, BASES, BSpline, Family, Features, KANLinear
from nanogpkant.kan.bases import make_basis
from nanogpkant.kan.bases.base import Basis
from nanogpkant.kan.shared import share as shared

KINDS = ("mlp", "attention", "gate", "distance")
# Attributes of plain MLPs in the order of use, in transformers, timm and here.
PLAIN = (
    ("c_fc", "act", "c_proj"),  # GPT-2
    ("dense_h_to_4h", "act", "dense_4h_to_h"),  # GPT-NeoX
    ("fc1", "act", "fc2"),  # timm
    ("fc1", "activation_fn", "fc2"),  # ViT, CLIP, Phi
    ("intermediate.dense", "intermediate.intermediate_act_fn", "output.dense"),  # BERT
    ("into", "activation", "out"),
)
GATED = (("gate_proj", "act_fn", "up_proj", "down_proj"),)  # Llama, Qwen, Mistral, Gemma
GRID = {"grid_size": 8, "grid_range": (-4.0, 4.0)}  # for inputs of about unit scale
# Modules of torch that read the weights of layers inside them without calling those.
READERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


@dataclass(frozen=True)
class Candidate:
    """A module that could be replaced, or a curve that could be added."""

    name: str
    kind: str
    """mlp, attention, gate, distance, or linear for all others"""
    inputs: int
    """of a curve the longest distance"""
    outputs: int
    """of a curve the heads"""
    base: str
    """base function of its functions"""
    folded: str = ""
    """name of the activation that becomes the base function"""
    has_bias: bool = False
    itemsize: int = 4


def candidates(model: nn.Module) -> dict[str, Candidate]:
    """Every module that could be replaced, by name: linear layers, and activations of gates."""
    found: dict[str, Candidate] = {}
    read = [f"{name}.".lstrip(".") for name, m in model.named_modules() if isinstance(m, READERS)]
    for name, module in model.named_modules():
        weight = plain_weight(module)
        if name and weight is not None and not any(name.startswith(each) for each in read):
            out, n = weight.shape
            kind = "attention" if "attn" in name or "attention" in name else "linear"
            about = {"has_bias": module.bias is not None, "itemsize": weight.itemsize}
            found[name] = Candidate(name, kind, n, out, "identity", **about)
    for parent, module in model.named_modules():
        for path in (*PLAIN, *_in_sequence(module)):
            into, activation, out = (f"{parent}.{each}".lstrip(".") for each in path)
            function = _get(module, path[1])
            if into in found and out in found and callable(function):
                base = base_of(function)
                if base and (
                    _is_sequential(module) or _is_fold_safe(module, found[into].inputs, *path[1:])
                ):
                    found[out] = replace(found[out], base=base, folded=activation)
                found |= {each: replace(found[each], kind="mlp") for each in (into, out)}
        for path in GATED:
            gate, activation, value, out = (f"{parent}.{each}".lstrip(".") for each in path)
            if {gate, value, out} <= found.keys():
                width, base = found[gate].outputs, base_of(_get(module, path[1])) or ""
                size = found[gate].itemsize
                found[activation] = Candidate(activation, "gate", width, width, base, itemsize=size)
                found[out] = replace(found[out], kind="mlp")
    return found


def _is_sequential(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward


def _in_sequence(module: nn.Module) -> Iterable[tuple[str, str, str]]:
    """(linear, activation, linear): neighbours in an ``nn.Sequential``."""
    names = list(module._modules) if _is_sequential(module) else []
    return zip(names, names[1:], names[2:], strict=False)


def _get(module: nn.Module, path: str) -> Any:
    """A module or function below a module, or None."""
    parent, _, attribute = path.rpartition(".")
    try:
        return getattr(module.get_submodule(parent), attribute, None)
    except AttributeError:
        return None


@torch.no_grad()
def base_of(activation: Callable[..., Any]) -> str | None:
    """The base function that an activation computes, told by its values; None if there is none."""
    x = torch.linspace(-7, 7, 281, dtype=torch.float64, device="cpu")
    try:
        values = activation(x)
        for name, function in BASE_FUNCTIONS.items():
            if function and torch.allclose(values, function[0](x), rtol=1e-9, atol=1e-9):
                return name
    except Exception:  # of any module, also one that is no activation
        return None
    return None


@torch.no_grad()
def _is_fold_safe(mlp: nn.Module, width: int, activation: str, out: str) -> bool:
    """Whether an MLP stays the same with the activation moved to right before its last layer."""
    function, (parent, _, attribute) = _get(mlp, activation), activation.rpartition(".")
    weight = next(mlp.parameters())

    def run(mlp: nn.Module, is_training: bool) -> Tensor:
        torch.manual_seed(0)
        mlp.train(is_training)
        x = torch.randn(1, 4, width, device="cpu").to(weight.device, weight.dtype)
        if "." not in out:
            return mlp(x)
        second = mlp.get_submodule(out.partition(".")[0])  # the two halves of BERT's block
        return second(mlp.get_submodule(parent)(x), x)

    try:
        with torch.random.fork_rng():
            moved = copy.deepcopy(mlp)
            before = run(moved, False), run(moved, True)
            setattr(moved.get_submodule(parent), attribute, nn.Identity())
            moved.get_submodule(out).register_forward_pre_hook(lambda _, given: function(*given))
            after = run(moved, False), run(moved, True)
    except Exception:  # not a module of one input
        return False
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def choose(model: nn.Module, where: Collection[str]) -> list[Candidate]:
    """The candidates of these kinds, or whose names match these patterns.

    Raises:
        UserError: the model has no linear layer that could be replaced.
        UsageError: a pattern that matches nothing, or a layer that cannot be replaced.
    """
    known, chosen = candidates(model), set()
    if any("distance" in each for each in where):
        for name, (heads, longest, size) in places(model).items():
            known[name] = Candidate(name, "distance", longest, heads, "zero", itemsize=size)
    elif not any(each.kind != "gate" for each in known.values()):
        raise UserError(f"{type(model).__name__} has no linear layer that kanify can replace")
    for each in where:
        found = [n for n, c in known.items() if c.kind == each or fnmatch.fnmatchcase(n, each)]
        if not found:
            raise UsageError(f"--where {each}: {_why_nothing(model, each, known)}")
        chosen |= set(found)
    owners: dict[int, list[str]] = {}  # of every parameter
    for name, module in model.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    for name in sorted(n for n in chosen if known[n].kind != "distance"):
        if problem := _problem(model.get_submodule(name), known[name], owners):
            raise UsageError(f"--where {' '.join(where)}: {name} {problem}; name other layers")
    return [candidate for name, candidate in known.items() if name in chosen]


def _why_nothing(model: nn.Module, pattern: str, known: dict[str, Candidate]) -> str:
    for name, module in model.named_modules():
        if name and fnmatch.fnmatchcase(name, pattern):
            what = "only nn.Linear, Conv1D and the activations of gates can be replaced"
            return f"{name} is a {type(module).__name__}, and {what}"
    kinds = f"it has the kinds {', '.join(sorted({each.kind for each in known.values()}))}"
    hint = kinds if pattern in KINDS else nearest(pattern, [*KINDS, *known], kinds)
    return f"matches no layer of this model; {hint}"


def _problem(module: nn.Module, candidate: Candidate, owners: dict[int, list[str]]) -> str:
    """Why a candidate cannot be replaced, or nothing."""
    if candidate.kind == "gate":
        known = ", ".join(base for base in BASE_FUNCTIONS if base != "none")
        what = f"is a {type(module).__name__}, and gates start as {known}"
        return "" if candidate.base else what
    for parameter in module.parameters():
        if others := [name for name in owners[id(parameter)] if name != candidate.name]:
            return f"is tied to {others[0]}"
    if module._forward_hooks or module._forward_pre_hooks:
        return "has forward hooks, which its KAN layer would lack"
    weight: Any = module.weight
    if not weight.is_floating_point():
        return f"has weights of {weight.dtype}: it is quantised"
    return "has no values: it is on the meta device" if weight.is_meta else ""


def basis_of(basis: str | Basis | Family) -> Basis | Family:
    """A basis by its name, on a grid from -4 to 4, or as given.

    Raises:
        UsageError: no such basis.
    """
    if not isinstance(basis, str):
        return basis
    if basis == "bspline":
        return BSpline(**GRID)
    if basis not in BASES:
        raise UsageError(f"--basis {basis}: {nearest(basis, BASES)}")
    return make_basis(basis, GRID)


def plan(
    model: nn.Module, where: Collection[str], share: str, basis: str | Basis | Family
) -> tuple[dict[str, Swap], list[dict[str, Any]]]:
    """What would be replaced, and a row for each: see ``kanify``.

    Raises:
        UserError, UsageError: see ``choose``; or functions that do not fit a layer.
    """
    functions, swaps, rows = basis_of(basis), {}, []
    for each in choose(model, [where] if isinstance(where, str) else where):
        if each.kind == "distance":
            curve = new_curve(each.outputs, each.inputs).features
            swaps[each.name] = Swap(curve.spec, "", each.outputs, each.inputs)
            rows.append(_row(replace(each, inputs=1), curve))
            continue
        try:
            features = Features(shared(functions, share, each.inputs), each.base)
            if each.kind == "gate" and not (features.is_learned and features.size == 1):
                raise ValueError('a gate has one function a unit; share="group:8"')
            if each.inputs % features.groups:
                raise ValueError(f"{each.inputs} inputs do not split into {features.groups} groups")
            if each.kind != "gate":  # try, on the smallest such layer, what only its making tells
                tried: Any = features.basis
                KANLinear(each.inputs, 1, basis=tried, base=each.base, device="meta")
        except ValueError as error:
            raise UsageError(f"--share {share}: {each.name}: {error}") from error
        swaps[each.name] = Swap(features.spec, each.folded)
        rows.append(_row(each, features))
    return swaps, rows


def _row(each: Candidate, features: Features) -> dict[str, Any]:
    """FLOPs are of the matrix product, for one input vector."""
    shape = features.coefficient_shape
    numbers = shape[0] * shape[1] * shape[2] if shape else 0
    product = 0 if each.kind in ("gate", "distance") else each.inputs * each.outputs
    constants, size = each.outputs * each.has_bias, features.size
    if each.kind == "distance":
        numbers = each.outputs * size
    after = product * size + constants + numbers
    return {
        "name": each.name,
        "kind": each.kind,
        "base": each.base,
        "folded": each.folded,
        "inputs": each.inputs,
        "outputs": each.outputs,
        "functions": numbers or product * (size - features.has_base),
        "parameters_before": product + constants,
        "parameters": after,
        "flops_before": 2 * product,
        "flops": 2 * product * size,
        "bytes_before": each.itemsize * (product + constants),
        "bytes": each.itemsize * after,
    }


def kanify_module(
    model: nn.Module,
    where: Collection[str] = ("mlp",),
    share: str = "group:8",
    basis: str | Basis | Family = "bspline",
    *,
    dry_run: bool = False,
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Replace layers of a model in place: the model and a row for each layer.

    A model of transformers becomes one whose ``save_pretrained`` writes its code, too.

    Raises:
        UserError, UsageError: see ``plan``; the model is unchanged.
    """
    swaps, rows = plan(model, where, share, basis)
    if not dry_run:
        from nanogpkant.conversion.pretrained_model import enroll

        if is_pretrained(model):
            enroll(model, swaps)  # refuses what could not be saved
        apply(model, swaps)
    return model, rows
