"""Which parameters are decayed, and the schedule against torch's own schedulers."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from nanogpkant.base.errors import UsageError
from nanogpkant.config import SITES, OptimConfig
from nanogpkant.training.optim import (
    learning_rate_at,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
)


@pytest.fixture
def model(tiny_gpt) -> nn.Module:
    changes = {"bias": True, "kan.spline_scale": True}
    return tiny_gpt(["qkv", "mlp_out"], **changes)


def expected_decay(name: str) -> float:
    plain = (".attention.out.weight", ".mlp.into.weight")
    kan = (".attention.qkv.weight", ".mlp.out.weight")
    return 0.1 * name.endswith(plain) + 0.03 * name.endswith(kan)


def test_every_parameter_is_in_the_right_group(model: nn.Module) -> None:
    groups = parameter_groups(model, OptimConfig(weight_decay=0.1, kan_weight_decay=0.03))
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in model.named_parameters()} == {
        name: expected_decay(name) for name, _ in model.named_parameters()
    }
    undecayed = {name for name, p in model.named_parameters() if decay[id(p)] == 0}
    for part in ("tokens", "positions", "norm_1", "bias", "spline_scale"):
        assert any(part in name for name in undecayed)


def test_every_parameter_is_in_exactly_one_group(model: nn.Module) -> None:
    for config in (OptimConfig(), OptimConfig(weight_decay=0.0), OptimConfig(kan_weight_decay=0.0)):
        grouped = [id(p) for group in parameter_groups(model, config) for p in group["params"]]
        assert sorted(grouped) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("sites", [(), SITES], ids=["plain", "kan"])
def test_no_group_is_empty(tiny_gpt, sites: tuple[str, ...]) -> None:
    groups = parameter_groups(tiny_gpt(sites), OptimConfig())
    assert [bool(group["params"]) for group in groups] == [True, True]


def test_kan_weights_are_decayed_like_others_unless_told(tiny_gpt) -> None:
    groups = parameter_groups(tiny_gpt(["qkv"]), OptimConfig(weight_decay=0.2))
    assert [group["weight_decay"] for group in groups] == [0.2, 0.2, 0.0]
    groups = parameter_groups(tiny_gpt(["qkv"]), OptimConfig(kan_weight_decay=0.0))
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.0]


@pytest.fixture
def sharing_model(tiny_gpt) -> nn.Module:
    """With functions that edges share."""
    return tiny_gpt(["qkv", "mlp_out"], **{"kan.share": "group:2", "kan.basis": "rational"})


def kind(name: str) -> str:
    """Of a parameter of that model."""
    if name.endswith(".coefficients"):
        return "functions"
    if name.endswith((".attention.qkv.weight", ".mlp.out.weight")):
        return "kan"
    return "matrices" if name.endswith((".attention.out.weight", ".mlp.into.weight")) else "others"


def test_shared_functions_have_a_decay_of_their_own(sharing_model: nn.Module) -> None:
    def decays(**changes: float) -> dict[str, set[float]]:
        kinds = {id(p): kind(name) for name, p in sharing_model.named_parameters()}
        found = {name: set() for name in kinds.values()}
        for group in parameter_groups(sharing_model, OptimConfig(weight_decay=0.1, **changes)):
            for parameter in group["params"]:
                found[kinds[id(parameter)]].add(group["weight_decay"])
        return found

    assert decays() == {"matrices": {0.1}, "kan": {0.1}, "functions": {0.0}, "others": {0.0}}
    changed = decays(function_weight_decay=0.4, kan_weight_decay=0.2)
    assert changed == {"matrices": {0.1}, "kan": {0.2}, "functions": {0.4}, "others": {0.0}}


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({}, {"matrices": 1, "kan": 1, "functions": 1, "others": 1}),
        (
            {"kan_learning_rate": 0.03, "function_learning_rate": 0.002},
            {"matrices": 1, "kan": 3, "functions": 0.2, "others": 1},
        ),
        (
            {"kan_learning_rate": 0.0, "function_learning_rate": 0.01},
            {"matrices": 1, "kan": 0, "functions": 1, "others": 1},
        ),
    ],
    ids=str,
)
def test_kan_weights_and_shared_functions_have_rates_of_their_own(
    sharing_model: nn.Module, rates: dict[str, float], expected: dict[str, float]
) -> None:
    config = OptimConfig(learning_rate=0.01, weight_decay=0.0, **rates)
    optimizer = make_optimizer(sharing_model, config)
    before = {name: p.detach().clone() for name, p in sharing_model.named_parameters()}
    for parameter in sharing_model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_learning_rate(optimizer, 0.004)  # somewhere on the schedule
    optimizer.step()  # Adam's first step is the learning rate, against the gradient's sign
    for name, parameter in sharing_model.named_parameters():
        step = torch.full_like(parameter, 0.004 * expected[kind(name)])
        torch.testing.assert_close(before[name] - parameter.detach(), step)


@pytest.mark.parametrize("rate", [None, 0.04])
def test_slopes_learn_as_fast_as_functions(tiny_gpt, rate: float | None) -> None:
    model = tiny_gpt([], position="slopes")
    groups = parameter_groups(model, OptimConfig(learning_rate=0.01, function_learning_rate=rate))
    factors = {id(p): group["lr_factor"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        is_slope = name.endswith(".slopes") and rate is not None
        assert factors[id(parameter)] == (4 if is_slope else 1)


@pytest.mark.parametrize("name", ["kan_learning_rate", "function_learning_rate"])
def test_a_rate_of_its_own_needs_a_schedule_to_follow(name: str) -> None:
    with pytest.raises(UsageError, match=f"optim.{name} 0.01: .*learning_rate"):
        OptimConfig(learning_rate=0.0, min_lr=0.0, **{name: 0.01})
    assert OptimConfig(learning_rate=0.0, min_lr=0.0, **{name: 0.0}).learning_rate == 0


def test_the_optimiser_is_adamw_with_these_settings(model: nn.Module) -> None:
    config = OptimConfig(learning_rate=0.01, beta1=0.8, beta2=0.95)
    optimizer = make_optimizer(model, config)
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"]) == (0.01, (0.8, 0.95))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # without gradients a step is the decay alone
    for name, parameter in model.named_parameters():
        decay = 0.1 * (expected_decay(name) > 0)
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.01 * decay))


def torchs_schedule(warmup: int, end: int, peak: float, least: float, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    rise = LinearLR(optimizer, 1 / (warmup + 1), 1.0, warmup)
    fall = CosineAnnealingLR(optimizer, end - warmup, least)
    schedule = SequentialLR(optimizer, [rise, fall], [warmup])
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(("warmup", "end"), [(10, 100), (1, 7), (99, 100)])
@pytest.mark.parametrize("named", [False, True])
def test_schedule_is_torchs_warmup_and_cosine(warmup: int, end: int, named: bool) -> None:
    config = OptimConfig(
        learning_rate=3e-3,
        min_lr=2e-4,
        warmup_iters=warmup,
        lr_decay_iters=end if named else None,
    )
    rates = [learning_rate_at(step, config, 1000 if named else end) for step in range(end + 1)]
    assert rates == pytest.approx(torchs_schedule(warmup, end, 3e-3, 2e-4, end + 1), rel=1e-9)
    assert rates[0] > 0
    assert max(rates) == rates[warmup] == 3e-3
    assert learning_rate_at(end, config, end) == pytest.approx(2e-4)
    assert learning_rate_at(10 * end, config, end) == pytest.approx(2e-4)  # and stays there


def test_without_decay_the_rate_stays_at_its_peak() -> None:
    config = OptimConfig(learning_rate=1e-3, warmup_iters=4, decay_lr=False)
    rates = [learning_rate_at(step, config, 10) for step in range(20)]
    assert rates == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4] + [1e-3] * 16)


def test_without_warmup_the_first_step_has_the_peak_rate() -> None:
    config = OptimConfig(learning_rate=1e-3, warmup_iters=0)
    assert learning_rate_at(0, config, 10) == 1e-3


def test_where_time_runs_out_first_the_rate_comes_down_with_it() -> None:
    config = OptimConfig(learning_rate=1e-3, min_lr=1e-4, warmup_iters=10)
    assert learning_rate_at(20, config, 10**9, time_used=0.5) == pytest.approx(5.5e-4)
    assert learning_rate_at(20, config, 10**9, time_used=1.0) == pytest.approx(1e-4)
    assert learning_rate_at(20, config, 10**9, time_used=1.1) == pytest.approx(1e-4)
    assert learning_rate_at(900, config, 1000, 0.1) == learning_rate_at(900, config, 1000)
    assert learning_rate_at(4, config, 1000, 0.9) == learning_rate_at(4, config, 1000)


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_a_late_decay_is_transformers_warmup_stable_decay(shape: str) -> None:
    transformers = pytest.importorskip("transformers")
    settings = {"decay": shape, "decay_iters": 30, "warmup_iters": 0}
    config = OptimConfig(learning_rate=1e-2, min_lr=1e-3, **settings)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-2)
    schedule = transformers.get_wsd_schedule(
        optimizer,
        num_warmup_steps=0,
        num_decay_steps=30,
        num_training_steps=100,
        decay_type=shape,
        min_lr_ratio=0.1,
    )
    for step in range(110):
        assert learning_rate_at(step, config, 100) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert learning_rate_at(50, config, 10**9, time_used=1.0) == pytest.approx(1e-3)
    longer = OptimConfig(learning_rate=1e-2, min_lr=1e-3, decay_iters=10**6, warmup_iters=0)
    whole = OptimConfig(learning_rate=1e-2, min_lr=1e-3, warmup_iters=0)
    assert learning_rate_at(40, longer, 100) == learning_rate_at(40, whole, 100)
