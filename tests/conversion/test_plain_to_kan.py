"""A KAN that takes over a plain model computes what that does, at every site, and then learns."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.config import SITES, OptimConfig, RunConfig, with_changes
from nanogpkant.conversion import build
from nanogpkant.conversion.source import Loaded
from nanogpkant.kan import KANLinear
from nanogpkant.training.optim import make_optimizer

FIXED = ("bspline", "hat", "rbf", "chebyshev", "fourier")
KINDS = [
    *((basis, "edge") for basis in FIXED),
    *itertools.product((*FIXED, "rational", "line"), ("group:2", "atoms:3")),
]
every_kind = pytest.mark.parametrize(("basis", "share"), KINDS)


def kan_changes(basis: str, share: str, sites: tuple[str, ...] = SITES) -> dict[str, object]:
    return {
        "kan.share": share,
        "kan.basis": basis,
        "kan.base": "gpt",
        "kan.sites": list(sites),
        "kan.spline_scale": share == "edge",
    }


@pytest.mark.parametrize(
    ("basis", "share", "mlp"),
    [
        *((*kind, "gelu") for kind in KINDS),
        *itertools.product(["bspline"], ["edge", "group:2"], ["gelu_tanh", "swiglu"]),
    ],
)
def test_the_function_is_kept(plain, idx, basis: str, share: str, mlp: str) -> None:
    source, model = plain(activation=mlp, bias=mlp != "swiglu")
    kan = build(source, with_changes(model.config, **kan_changes(basis, share)), 11).eval()
    assert sum(isinstance(module, KANLinear) for module in kan.modules()) == 2 * len(SITES)
    with torch.no_grad():
        expected = model(idx)
        assert expected.std() > 0.5
        torch.testing.assert_close(kan(idx), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("site", SITES)
def test_any_one_site(plain, idx, site: str) -> None:
    source, model = plain(bias=True)
    config = with_changes(model.config, **kan_changes("bspline", "edge", (site,)))
    with torch.no_grad():
        kan = build(source, config, 11).eval()
        torch.testing.assert_close(kan(idx), model(idx), rtol=1e-5, atol=1e-5)


@every_kind
def test_every_group_of_weights_then_learns(plain, idx, basis: str, share: str) -> None:
    """One step of the optimiser moves all of them; splines that see inputs, at every edge."""
    source, model = plain()
    changes = kan_changes(basis, share) | {"kan.grid_range": (-3.0, 3.0)}
    kan = build(source, with_changes(model.config, **changes), 11)
    before = {name: value.clone() for name, value in kan.named_parameters()}
    optimizer = make_optimizer(kan, OptimConfig())
    kan(idx, idx.roll(1)).backward()
    for layer in (module for module in kan.modules() if isinstance(module, KANLinear)):
        new = layer.weight.grad[:, 1:] if layer.features.size > 1 else layer.weight.grad
        assert (new != 0).any(1).all()  # at every edge
    optimizer.step()
    # What multiplies a spline that is zero has to wait for it.
    waits = "spline_scale"
    same = {n for n, p in kan.named_parameters() if torch.equal(before[n], p) and waits not in n}
    assert same == set()


def test_a_kan_may_get_more_sites(plain, idx) -> None:
    """What is KAN already comes with the grid that it has by now."""
    source, model = plain()
    changes = kan_changes("bspline", "edge", ("mlp_out",))
    first = build(source, with_changes(model.config, **changes), 11).eval()
    nn.init.normal_(first.blocks[1].mlp.out.weight)
    first.blocks[1].mlp.out.refine(6)
    loaded = Loaded(
        Path("memory"),
        0,
        dict(first.state_dict()),
        {n: m.features for n, m in first.named_modules() if isinstance(m, KANLinear)},
    )
    source = replace(source, config=RunConfig(model=first.config), checkpoint=loaded)
    more = build(source, with_changes(first.config, **{"kan.sites": list(SITES)}), 11).eval()
    assert more.blocks[1].mlp.out.basis == first.blocks[1].mlp.out.basis
    with torch.no_grad():
        torch.testing.assert_close(more(idx), first(idx), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="its mlp_out is KAN and has to stay so"):
        build(source, with_changes(first.config, **{"kan.sites": ["qkv"]}), 11)
    with pytest.raises(UserError, match="--model.kan.grid_size 3; give that too"):
        build(source, with_changes(first.config, **{"kan.grid_size": 4}), 11)


def test_a_first_shared_function_without_base_is_a_line(plain, idx) -> None:
    source, model = plain()
    changes = {"kan.basis": "chebyshev", "kan.share": "group:2", "kan.base": "none"}
    config = with_changes(model.config, **changes, **{"kan.sites": ["qkv", "attn_out", "mlp_in"]})
    with torch.no_grad():
        kan = build(source, config, 11).eval()
        torch.testing.assert_close(kan(idx), model(idx), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"kan.prenorm": "rms"}, "--model.kan.prenorm rms: .*--model.kan.prenorm none"),
        ({"kan.base": "silu"}, "--model.kan.base silu: .*identity; --model.kan.base gpt"),
        ({"kan.base": "none"}, "--model.kan.base none: .*--model.kan.base gpt"),
        (
            {"kan.base": "none", "kan.share": "group:2", "kan.sites": ["mlp_out"]},
            "mlp_out has the base function gelu; --model.kan.base gpt",
        ),
        (
            {"kan.base": "gelu_tanh", "kan.sites": ["mlp_out"]},
            "mlp_out has the base function gelu; --model.kan.base gpt",
        ),
    ],
)
def test_what_cannot_be_exact_is_refused(plain, changes: dict, flag: str) -> None:
    source, model = plain()
    config = with_changes(model.config, **({"kan.sites": list(SITES), "kan.base": "gpt"} | changes))
    with pytest.raises(UsageError, match=flag):
        build(source, config, 11)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"n_layer": 3, "bias": True}, "it has --model.n_layer 2 --model.bias false: give that"),
        ({"activation": "gelu_tanh"}, "it has --model.activation gelu: give that too"),
        ({"block_size": 9}, "--model.block_size 9: it has 8 positions"),
    ],
)
def test_another_shape_is_one_line(plain, changes: dict, line: str) -> None:
    source, model = plain()
    with pytest.raises(UserError, match=line):
        build(source, with_changes(model.config, **changes), 11)


def test_another_vocabulary_is_one_line(plain) -> None:
    source, model = plain()
    with pytest.raises(UserError, match="it has 11 tokens, and the text of --data.dataset 12"):
        build(source, model.config, 12)


def test_the_context_may_be_shorter(plain, idx) -> None:
    source, model = plain()
    short = build(source, with_changes(model.config, block_size=5), 11).eval()
    with torch.no_grad():
        torch.testing.assert_close(short(idx[:, :5]), model(idx[:, :5]))
