"""Learned functions made fixed compute the same, as tables or as formulas."""

import copy

import pytest
import torch
from torch import nn

import nanogpkant as ng
from nanogpkant import BSpline, Fourier, KANLinear, Rational
from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.interpretation.frozen import FixedKAN
from nanogpkant.kan import Features, Shared
from nanogpkant.kan.activation import LearnedActivation


def layer(basis=None, base: str = "gelu", bend: float = 0.3, **options) -> KANLinear:
    basis = basis or BSpline(8, 3, (-4.0, 4.0))
    made = KANLinear(8, 5, basis=basis, base=base, share="group:4", backend="reference", **options)
    nn.init.normal_(made.coefficients, std=bend) if bend else None
    return made


@pytest.mark.parametrize("basis", [None, BSpline(6, 3, outside="linear"), Fourier(2), Rational(3)])
@pytest.mark.parametrize("prenorm", ["none", "rms"])
def test_tables_are_the_functions(basis, prenorm: str) -> None:
    model = nn.Sequential(layer(basis, prenorm=prenorm))
    x = (2 * torch.randn(3, 50, 8)).clamp(-7, 7)  # constant beyond 8
    before = model(x)
    assert ng.freeze_functions(model) == 1
    assert isinstance(model[0], FixedKAN)
    torch.testing.assert_close(model(x), before, rtol=0, atol=5e-3)
    assert not any(p.requires_grad for n, p in model.named_parameters() if "bias" not in n)


def test_formulas_are_near_them_and_gates_are_frozen_too() -> None:
    gate = LearnedActivation(Features(Shared(BSpline(4, 3, (-3.0, 3.0)), groups=2), "silu"))
    nn.init.normal_(gate.coefficients, std=0.1)
    model, x = nn.Sequential(nn.Linear(3, 8), gate, layer(bend=0.1)), torch.randn(200, 3)
    before = model(x)
    assert ng.freeze_functions(model, "formula") == 2
    error = (model(x) - before).square().mean().sqrt() / before.std()
    assert error < 0.1
    assert len(model[1].formulas) == 2
    assert model[1].formulas[0] in repr(model)
    far = 30 * torch.randn(50, 8)  # they end in lines
    assert torch.isfinite(model[2](far)).all()


def test_what_is_not_finite_passes_and_gradients_are_slopes() -> None:
    made = layer()
    model = nn.Sequential(copy.deepcopy(made))
    ng.freeze_functions(model)
    x = torch.tensor([[0.3, -1.2, torch.nan, torch.inf, 50.0, 2.0, -0.7, 9.0]], requires_grad=True)
    y = model[0].functions(x)
    assert y.isnan().tolist() == [[False, False, True, False, False, False, False, False]]
    (slopes,) = torch.autograd.grad(y[0, [0, 1, 5, 6]].sum(), x)
    wanted = made.features.expand(x, made.coefficients)
    (expected,) = torch.autograd.grad(wanted[0, 0, [0, 1, 5, 6]].sum(), x)
    torch.testing.assert_close(slopes[0, [0, 1]], expected[0, [0, 1]], rtol=0, atol=2e-2)
    torch.testing.assert_close(y[0, 4:].detach(), wanted[0, 0, 4:].detach(), rtol=0, atol=1e-3)


def test_they_work_in_half_precision_and_are_saved_unfrozen(tmp_path) -> None:
    model = nn.Sequential(layer())
    x = torch.randn(20, 8)
    before = model(x)
    ng.freeze_functions(model)
    torch.testing.assert_close(model.bfloat16()(x.bfloat16()).float(), before, rtol=0.1, atol=0.2)
    transformers = pytest.importorskip("transformers")
    shape = {"vocab_size": 5, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8}
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape))
    ng.kanify(gpt2)
    ng.freeze_functions(gpt2)
    with pytest.raises(ValueError, match="are frozen: save the model before"):
        gpt2.save_pretrained(tmp_path)


@pytest.mark.parametrize("base", ["relu2", "leaky_relu2", "none", "silu"])
def test_every_kind_of_base_goes_on_beyond_the_points(base: str) -> None:
    made = layer(base=base)
    model, x = nn.Sequential(copy.deepcopy(made)), 20 * torch.randn(50, 8)
    ng.freeze_functions(model)
    torch.testing.assert_close(model(x), made(x), rtol=1e-4, atol=5e-2)


@torch.no_grad()
def test_lines_become_part_of_the_weights() -> None:
    made = layer(base="identity", bend=0)
    made.coefficients[0, :, 0] = torch.tensor([0.5, -1.0, 0.0, 2.0])
    model, x = nn.Sequential(made), torch.randn(9, 8)
    before = model(x)
    ng.freeze_functions(model)
    assert type(model[0]) is nn.Linear
    torch.testing.assert_close(model(x), before)


def test_what_cannot_be_frozen_is_refused() -> None:
    for model in (nn.Linear(2, 2), KANLinear(4, 2), KANLinear(4, 2, share="atoms:2")):
        with pytest.raises(UserError, match=r"no functions that edges share: kanify"):
            ng.freeze_functions(nn.Sequential(model))
    with pytest.raises(UsageError, match="must be table or formula"):
        ng.freeze_functions(layer(), by="tables")
