"""Muon against torch's own, matrix by matrix, and what it leaves to AdamW."""

import pytest
import torch
from torch import nn

from nanogpkant.base.errors import UsageError
from nanogpkant.config import SITES, OptimConfig, RunConfig, with_changes
from nanogpkant.kan import KANLinear
from nanogpkant.kan.pruned import prune
from nanogpkant.training.muon import Muon, matrices_in, orthogonal, orthogonal_step
from nanogpkant.training.optim import make_optimizer, parameter_groups, set_learning_rate

PER_EDGE = {"kan.basis": "hat", "kan.grid_size": 3}
SHARED = {"kan.basis": "fourier", "kan.share": "group:2", "kan.base": "gpt"}
MODELS = {
    "gelu": ([], {}),
    "gated": ([], {"activation": "swiglu"}),
    "curve": ([], {"position": "curve", "conv": "taps", "qk_norm": True}),
    "per edge": (SITES, PER_EDGE),
    "shared, gated": (SITES, {"activation": "swiglu", **SHARED}),
    "biased": (["mlp_out"], {"bias": True, "kan.spline_scale": True, **PER_EDGE}),
}


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model(request, tiny_gpt) -> nn.Module:
    sites, changes = request.param
    return tiny_gpt(sites, **changes)


SITES_OF_MUON = [[part, "weight"] for part in ("qkv", "out", "into")]


def set_gradients(parameters, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=random).to(parameter)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(3, 12, 12), (1, 7, 30), (2, 30, 7), (1, 1, 5)], ids=str)
def test_directions_stay_and_their_lengths_become_one(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(1)
    matrix = torch.randn(shape) * 10 ** torch.randn(shape[0], 1, 1)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = (
        u.mT @ orthogonal(matrix.to(dtype)).float() @ vh.mT
    )  # diagonal, if U and V are still the same
    lengths = found.diagonal(dim1=-2, dim2=-1)
    kept = s / s[..., :1] > 0.05  # a direction that is almost nothing grows more slowly
    assert lengths[kept].min() > 0.6
    assert lengths.max() < 1.3
    aside = (found - torch.diag_embed(lengths)).abs().max()
    assert aside < (0.06 if dtype == torch.bfloat16 else 1e-4)


def test_nothing_comes_of_nothing() -> None:
    assert orthogonal(torch.zeros(1, 4, 6)).eq(0).all()


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)], ids=str)
def test_of_one_matrix_it_is_torchs_muon(shape: tuple[int, int]) -> None:
    torch.manual_seed(2)
    ours = nn.Parameter(torch.randn(shape))
    theirs = nn.Parameter(ours.detach().clone())
    settings = {"lr": 0.03, "weight_decay": 0.1}
    own = Muon([{"params": [ours], "n_stacked": 1}], torch.bfloat16, fused=True, **settings)
    oracle = torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings)
    for seed in range(5):
        set_gradients([ours], seed)
        theirs.grad = ours.grad.clone()
        own.step()
        oracle.step()
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)  # of steps of 0.03 * 0.2 each
    assert ours.grad is None


@pytest.mark.parametrize("n_stacked", [1, 2, 3])
@pytest.mark.parametrize("features", [None, 1, 4])
def test_every_matrix_of_a_weight_is_stepped_by_itself(
    n_stacked: int, features: int | None
) -> None:
    torch.manual_seed(3)
    parts = torch.randn(n_stacked, features or 1, 6, 10)
    parts *= 10 ** torch.randn(n_stacked, features or 1, 1, 1)  # as different as they come
    weight = parts.transpose(1, 2).reshape(n_stacked * 6, features or 1, 10)
    weight = weight if features else weight[:, 0]
    others = torch.randn(2, *weight.shape)  # in the same batch
    step = orthogonal_step(torch.stack([others[0], weight, others[1]]), n_stacked, torch.float32)[1]
    assert step.shape == weight.shape
    step = step.reshape(n_stacked, 6, features or 1, 10).transpose(1, 2)
    for k in range(n_stacked):
        for m in range(features or 1):
            alone = orthogonal_step(parts[k, m][None], 1, torch.float32)[0]
            torch.testing.assert_close(step[k, m], alone, atol=1e-5, rtol=0)
            assert alone.square().mean().sqrt() == pytest.approx(0.2, rel=0.3)  # AdamW's size


def test_it_knows_what_the_weights_of_a_model_hold(model: nn.Module) -> None:
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[key]: n for key, n in matrices_in(model).items()}
    heights = {"qkv": 3, "out": 1, "into": 2 if model.config.activation == "swiglu" else 1}
    expected = {
        name: heights[name.split(".")[-2]]
        for name in names.values()
        if name.startswith("blocks.") and name.split(".")[-2:] in SITES_OF_MUON
    }
    assert found == expected
    assert len(found) == 4 * model.config.n_layer


def test_all_else_takes_adamws_steps(model: nn.Module) -> None:
    config = OptimConfig(name="muon", learning_rate=0.01, function_learning_rate=0.03)
    ours, matrices = make_optimizer(model, config), set(matrices_in(model))
    names = {id(p): name for name, p in model.named_parameters()}
    others = [p for p in model.parameters() if id(p) not in matrices]
    twins = [nn.Parameter(p.detach().clone()) for p in others]
    functions = [names[id(p)].endswith(("coefficients", "attention.bias.weight")) for p in others]
    oracle = torch.optim.AdamW(
        [
            {"params": [twin], "lr": 0.03 if is_function else 0.01}
            for twin, is_function in zip(twins, functions, strict=True)
        ],
        betas=(config.beta1, config.beta2),
        weight_decay=0.0,
    )
    set_learning_rate(ours, 0.01)
    for seed in range(3):
        set_gradients(model.parameters(), seed)
        for parameter, twin in zip(others, twins, strict=True):
            twin.grad = parameter.grad.clone()
        ours.step()
        oracle.step()
    for parameter, twin in zip(others, twins, strict=True):
        torch.testing.assert_close(parameter, twin)


def test_groups_keep_their_decay_and_their_rate(tiny_gpt) -> None:
    model = tiny_gpt(["mlp_out"], **SHARED)
    config = OptimConfig(name="muon", kan_weight_decay=0.03, kan_learning_rate=4e-3)
    groups = parameter_groups(model, config)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    found = {(g["n_stacked"], g["weight_decay"], g["lr_factor"]) for g in groups}
    assert found == {(1, 0.1, 1.0), (3, 0.1, 1.0), (1, 0.03, 4.0), (0, 0.0, 1.0)}


def test_without_a_gradient_nothing_moves(model: nn.Module) -> None:
    before = [p.detach().clone() for p in model.parameters()]
    make_optimizer(model, OptimConfig(name="muon")).step()
    for parameter, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


def test_with_gradients_of_zero_a_step_is_the_decay_alone() -> None:
    layer = KANLinear(4, 6)
    groups = [{"params": [layer.weight], "n_stacked": 1}]
    optimizer = Muon(groups, torch.float32, lr=0.1, weight_decay=0.5, fused=True)
    before, layer.weight.grad = layer.weight.detach().clone(), torch.zeros_like(layer.weight)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), before * 0.95)


@pytest.mark.parametrize(
    ("flag", "value"), [("train.parallel", "fsdp"), ("train.dtype", "float16")]
)
def test_what_muon_cannot_do_is_refused(flag: str, value: str) -> None:
    config = RunConfig(optim=OptimConfig(name="muon"))
    with pytest.raises(UsageError, match=f"--{flag} {value}: .*--optim.name muon"):
        with_changes(config, **{flag: value, "train.device": "cuda"})


def test_gradients_that_a_closure_makes_are_stepped(tiny_gpt) -> None:
    one, other = (tiny_gpt(["mlp_out"], **SHARED) for _ in range(2))
    other.load_state_dict(one.state_dict())
    x = torch.arange(8).view(1, 8)
    first, second = (make_optimizer(m, OptimConfig(name="muon")) for m in (one, other))

    def closure() -> torch.Tensor:
        loss = one(x, x)
        loss.backward()
        return loss

    for _ in range(2):
        loss = other(x, x)
        loss.backward()
        second.step()
        second.zero_grad()
        assert first.step(closure).item() == loss.item()
        first.zero_grad()
    for parameter, twin in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, twin)


def test_edges_that_are_gone_stay_so(tiny_gpt) -> None:
    model = tiny_gpt(["mlp_out"], **PER_EDGE)
    mlp = model.blocks[0].mlp
    keep = torch.rand(mlp.out.out_features, mlp.out.in_features) < 0.5
    mlp.out = prune(mlp.out, keep, torch.zeros(mlp.out.out_features))
    optimizer = make_optimizer(model, OptimConfig(name="muon", learning_rate=0.1))
    before = mlp.out.layer.weight.detach().clone()
    x = torch.arange(8).view(1, 8)
    model(x, x).backward()
    optimizer.step()
    after = mlp.out.layer.weight.detach()
    assert (before == 0).any()
    assert torch.equal(after == 0, before == 0)
    assert not torch.equal(after, before)


def test_batches_of_parameters_are_steps_of_each_alone(monkeypatch) -> None:
    """However many parameters of a shape there are, with or without a gradient."""
    torch.manual_seed(4)
    together = [
        nn.Parameter(torch.randn(shape)) for shape in 3 * [(6, 8)] + [(8, 6)] + 2 * [(6, 8)]
    ]
    alone = [nn.Parameter(p.detach().clone()) for p in together]
    settings = {"lr": 0.02, "weight_decay": 0.1, "fused": True}
    batched = Muon([{"params": together, "n_stacked": 2}], torch.float32, **settings)
    single = [Muon([{"params": [p], "n_stacked": 2}], torch.float32, **settings) for p in alone]
    monkeypatch.setattr("nanogpkant.training.muon.BATCH", 100)  # two of these parameters
    for seed in range(3):
        set_gradients(together[:-1], seed)
        for ours, theirs, optimizer in zip(together, alone, single, strict=True):
            theirs.grad = None if ours.grad is None else ours.grad.clone()
            optimizer.step()
        batched.step()
    torch.testing.assert_close(together, alone)
