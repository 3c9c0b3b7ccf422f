"""Learned functions made fixed compute the same, as tables or as formulas."""

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
    assert "a formula" in repr(model)


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
