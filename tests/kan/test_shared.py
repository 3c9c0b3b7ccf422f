"""Shared functions: against plain loops, exact at the start, without poles."""

from itertools import product

import numpy as np
import pytest
import torch
from numpy.polynomial.polynomial import polyval
from torch import Tensor

from nanogpkant.kan import (
    BASE_FUNCTIONS,
    RBF,
    BSpline,
    Chebyshev,
    Features,
    Fourier,
    KANLinear,
    Line,
    Rational,
    Shared,
)
from nanogpkant.kan.bases.base import Basis
from nanogpkant.kan.shared import share

RATIONALS = [Rational(degree) for degree in (1, 2, 3, 5)]
BASES = [BSpline(3, 2), BSpline(2, outside="linear"), RBF(3), Chebyshev(3), Fourier(2)]
FORMS = [(1, 1), (1, 3), (4, 1), (2, 3)]  # functions and groups
SHARED = [Shared(family, *form) for family, form in product(RATIONALS + BASES, FORMS)]
all_shared = pytest.mark.parametrize("shared", SHARED, ids=repr)
all_rationals = pytest.mark.parametrize("rational", RATIONALS, ids=repr)
all_families = pytest.mark.parametrize("family", RATIONALS + BASES, ids=repr)


def quotient(degree: int, numbers: np.ndarray, x: np.ndarray) -> np.ndarray:
    above, below = numbers[: degree + 1], [0.0, *numbers[degree + 1 :]]
    return polyval(x, above) / (1 + np.abs(polyval(x, below)))


def by_hand(family: Basis | Rational, numbers: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Values of one function."""
    if isinstance(family, Rational):
        return quotient(family.degree, numbers, x)
    return numbers[0] * x + numbers[1:] @ family.expand(torch.from_numpy(x)).numpy()


def numbers_of(shared: Shared, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shared.coefficient_shape, dtype=dtype)


@all_shared
def test_every_group_has_functions_of_its_own(shared: Shared) -> None:
    x, numbers = 2 * torch.randn(20, 6, dtype=torch.float64), numbers_of(shared)
    values = shared.expand(x, numbers)
    assert values.shape == (20, shared.size, 6)
    for i, m in product(range(6), range(shared.size)):
        group = i * shared.groups // 6  # groups are of neighbours
        expected = by_hand(shared.family, numbers[m, group].numpy(), x[:, i].numpy())
        np.testing.assert_allclose(values[:, m, i], expected, rtol=1e-12, atol=1e-12)


@all_shared
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_functions_are_worked_out_in_single_precision(shared: Shared, dtype: torch.dtype) -> None:
    x, numbers = torch.randn(20, 6).to(dtype), numbers_of(shared, dtype)
    values = shared.expand(x, numbers)
    assert values.dtype == torch.float32
    exact = shared.expand(x.double(), numbers.double())
    torch.testing.assert_close(values.double(), exact, rtol=1e-4, atol=1e-4)


@all_shared
@pytest.mark.parametrize("shape", [(6,), (0, 6), (2, 5, 6), (2, 0, 6)], ids=str)
def test_leading_dimensions_are_only_rows(shared: Shared, shape: tuple[int, ...]) -> None:
    x, numbers = torch.randn(shape, dtype=torch.float64), numbers_of(shared)
    rows = shared.expand(x.reshape(-1, 6), numbers)
    expected = rows.reshape(*shape[:-1], shared.size, 6)
    torch.testing.assert_close(shared.expand(x, numbers), expected)


@all_shared
def test_gradients_are_those_of_finite_differences(shared: Shared) -> None:
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    numbers = numbers_of(shared).requires_grad_()
    assert torch.autograd.gradcheck(shared.expand, (x, numbers))


@all_families
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("base", [name for name in BASE_FUNCTIONS if name != "none"])
def test_the_first_function_starts_as_the_base_function(
    family: Basis | Rational, groups: int, base: str
) -> None:
    features = Features(Shared(family, 2, groups), base)
    x = torch.cat([3 * torch.randn(500, 3), torch.tensor([[-1e30, 0.0, 1e30]])])
    first = features.expand(x, features.start())[..., 0, :]
    assert torch.equal(first, BASE_FUNCTIONS[base][0](x))


@all_families
@pytest.mark.parametrize("groups", [1, 3])
def test_without_a_base_function_the_first_starts_as_a_line(
    family: Basis | Rational, groups: int
) -> None:
    features = Features(Shared(family, 2, groups), "none")
    x = 3 * torch.randn(500, 3)
    assert torch.equal(features.expand(x, features.start())[..., 0, :], x)


@all_families
@pytest.mark.parametrize("base", ["gelu", "none"])
def test_functions_start_as_different_ones(family: Basis | Rational, base: str) -> None:
    count = family.degree if isinstance(family, Rational) else 1 + family.size
    features = Features(Shared(family, functions=count), base)
    x = torch.linspace(-1.2, 1.2, 100, dtype=torch.float64)[:, None]
    values = features.expand(x, features.start().double())[..., 0]
    assert values.unique(dim=1).shape == (100, count)


@all_rationals
@pytest.mark.parametrize("base", ["gelu", "none"])
def test_every_number_of_a_rational_function_learns(rational: Rational, base: str) -> None:
    features = Features(Shared(rational), base)
    start = features.start().double()
    numbers = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([numbers], lr=0.01)
    x = torch.randn(200, 1, dtype=torch.float64)
    for _ in range(2):  # a numerator of 0 gives its denominator no gradient
        optimizer.zero_grad()
        (features.expand(x, numbers) - torch.sin(3 * x)).square().mean().backward()
        optimizer.step()
    assert (numbers != start).all()


@all_rationals
def test_a_rational_function_has_no_pole(rational: Rational) -> None:
    shared = Shared(rational, functions=50)
    x = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    numbers = 10 * numbers_of(shared)
    values = shared.expand(x[:, None], numbers)[..., 0].numpy()  # (points, functions)
    for m in range(50):
        numerator = polyval(x.numpy(), numbers[m, 0, : rational.degree + 1].numpy())
        assert (np.abs(values[:, m]) <= np.abs(numerator) * (1 + 1e-12) + 1e-9).all()


def test_the_absolute_value_is_around_the_whole_denominator() -> None:
    # 1 + |x - x^2| is 1 at x = 1; 1 + |x| + |x^2| would be 3.
    numbers = torch.tensor([7.0, 0.0, 0.0, 0.0, 1.0, -1.0]).view(1, 1, 6)
    values = Shared(Rational(3)).expand(torch.tensor([[1.0], [2.0], [-1.0]]), numbers)
    torch.testing.assert_close(values.flatten(), torch.tensor([7.0, 7 / 3, 7 / 3]))


@all_rationals
def test_huge_inputs_of_a_rational_function_stay_finite(rational: Rational) -> None:
    shared = Shared(rational, functions=3)
    x = torch.tensor([[1e30, -1e30, torch.inf, -torch.inf, 3e38]], requires_grad=True)
    numbers = numbers_of(shared, torch.float32).requires_grad_()
    values = shared.expand(x, numbers)
    assert values.isfinite().all()
    gradients = torch.autograd.grad(values.sum(), (x, numbers))
    by_rule = shared.pull_back(torch.ones_like(values), x, numbers)
    for gradient, same in zip(gradients, by_rule, strict=True):
        assert gradient.isfinite().all()
        torch.testing.assert_close(same, gradient, rtol=1e-4, atol=0)


@all_shared
def test_huge_inputs_do_not_disturb_their_neighbours(shared: Shared) -> None:
    x, numbers = torch.randn(4, 6), numbers_of(shared, torch.float32)
    huge = x.clone()
    huge[1, 2], huge[2, 5] = 1e30, -1e30
    values, expected = shared.expand(huge, numbers), shared.expand(x, numbers)
    assert values.isfinite().all()
    there = (huge == x).unsqueeze(-2).expand_as(values)
    torch.testing.assert_close(values[there], expected[there])


@all_shared
def test_nan_comes_out_as_nan_and_only_there(shared: Shared) -> None:
    x = torch.randn(4, 6)
    x[1, 2] = x[3, 0] = x[3, 5] = torch.nan
    values = shared.expand(x, numbers_of(shared, torch.float32))
    assert torch.equal(values.isnan(), x.isnan().unsqueeze(-2).expand_as(values))


def test_share_says_who_shares() -> None:
    assert share(RBF(), "edge", 6) == RBF()
    assert share(RBF(), "group:8", 16) == Shared(RBF(), functions=1, groups=8)
    assert share(RBF(), "input", 6) == Shared(RBF(), functions=1, groups=6)
    assert share(Rational(3), "atoms:4", 6) == Shared(Rational(3), functions=4, groups=1)


@pytest.mark.parametrize(
    "how",
    [
        "",
        "8",
        "edge:",
        "input:1",
        "edge:2",
        "group",
        "group:",
        "group:0",
        "group:-1",
        "group:1.5",
        "group:²",
        "group:٣",
        "group: 8",
        "group:8:2",
        "Group:8",
        "atoms",
        "atoms:0",
        "atoms:x",
        "atoms:1_0",
    ],
)
def test_what_says_nothing_about_sharing_is_refused(how: str) -> None:
    with pytest.raises(ValueError, match=r"share is|must be 1\+"):
        share(RBF(), how, 8)


def test_rational_functions_have_to_be_shared() -> None:
    with pytest.raises(ValueError, match="share="):
        share(Rational(), "edge", 8)


@pytest.mark.parametrize("arguments", [(0, 1), (1, 0), (-1, 1), (1, -1)], ids=str)
def test_fewer_than_one_function_or_group_is_refused(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="functions of"):
        Shared(RBF(), *arguments)


@pytest.mark.parametrize("family", [Shared(RBF()), None, "rbf", 3], ids=repr)
def test_what_is_no_family_of_functions_is_refused(family: object) -> None:
    with pytest.raises(ValueError, match="no family"):
        Shared(family)


@pytest.mark.parametrize("degree", [0, -1])
def test_degrees_below_one_are_refused(degree: int) -> None:
    with pytest.raises(ValueError, match="degree"):
        Rational(degree)


def test_shared_functions_are_a_value() -> None:
    assert Shared(Rational(), 2, 3) == Shared(Rational(5), functions=2, groups=3)
    assert Shared(RBF(), 2, 3) != Shared(RBF(), 3, 2)
    assert len({*SHARED, *SHARED}) == len(SHARED)


def test_shared_lines_are_factors_and_nothing_more() -> None:
    shared = Shared(Line(), groups=2)
    assert shared.coefficient_shape == (1, 2, 1)
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    factors = torch.tensor([[[0.5], [-2.0]]], dtype=torch.float64, requires_grad=True)
    y = shared.expand(x, factors)
    torch.testing.assert_close(y[:, 0], x * factors[0, :, 0].repeat_interleave(3))
    grad = torch.randn_like(y)
    expected = torch.autograd.grad(y, (x, factors), grad)
    torch.testing.assert_close(shared.pull_back(grad, x.detach(), factors.detach()), expected)


def test_lines_cannot_be_an_edges_own() -> None:
    with pytest.raises(ValueError, match=r"Line\(\) cannot be an edge's own"):
        KANLinear(4, 4, basis=Line())


def test_a_learned_factor_for_every_input_is_a_scale() -> None:
    layer = KANLinear(5, 3, basis=Line(), base="identity", share="input")
    with torch.no_grad():
        layer.coefficients.normal_()
    x = torch.randn(4, 5)
    expected = (x * (1 + layer.coefficients[0, :, 0])) @ layer.weight[:, 0].T
    torch.testing.assert_close(layer(x), expected)
