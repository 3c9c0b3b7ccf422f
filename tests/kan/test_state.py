"""Features travel with the weights; an optimizer with outdated moments is refused."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from nanogpkant.kan import RBF, BSpline, Chebyshev, KANLinear, Rational, kan_layers
from nanogpkant.kan.state import STATE, spline_of

SAVED = [
    ({"basis": BSpline(5, 3, (-3.0, 3.0))}, {}),
    ({"basis": BSpline(9, 2, outside="linear")}, {}),
    ({"basis": BSpline(order=3, grid=(-1.0, 0.1, 2.0)), "base": "gelu"}, {}),
    ({"basis": RBF(3), "prenorm": "rms"}, {}),
    ({"basis": Chebyshev(4), "share": "group:2"}, {"share": "atoms:3"}),
    ({"basis": Rational(), "share": "atoms:2"}, {"share": "atoms:2"}),
]


def through_torch(state: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    torch.save(state, folder / "state.pt")
    return torch.load(folder / "state.pt", weights_only=True)


def through_safetensors(state: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    safetensors.torch.save_file(dict(state), folder / "state.safetensors")
    return safetensors.torch.load_file(folder / "state.safetensors")


def copied(state: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


@pytest.mark.parametrize("through", [through_torch, through_safetensors, copied])
@pytest.mark.parametrize(("saved", "loading"), SAVED[:5], ids=str)
def test_weights_of_another_grid_bring_it_along(
    saved: dict, loading: dict, through: Callable, tmp_path: Path
) -> None:
    theirs = KANLinear(4, 3, **saved)
    ours = KANLinear(4, 3, **{"share": saved.get("share", "edge")})
    if theirs.weight.shape != ours.weight.shape and "share" in saved:
        ours = KANLinear(4, 3, basis=RBF(2), share=saved["share"])
    ours.load_state_dict(through(theirs.state_dict(), tmp_path))
    x = 2 * torch.randn(20, 4)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.edges(x), theirs.edges(x))


def test_in_a_model_and_after_a_change() -> None:
    def model() -> nn.Module:
        return nn.Sequential(KANLinear(4, 8), nn.ReLU(), KANLinear(8, 2))

    theirs, ours = model(), model()
    for layer in kan_layers(theirs).values():
        layer.refine(10)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(9, 4)
    assert torch.equal(ours(x), theirs(x))
    assert [spline_of(layer).grid_size for layer in kan_layers(ours).values()] == [16, 16]


def test_weights_without_a_description_load_as_before() -> None:
    theirs, ours = KANLinear(4, 3), KANLinear(4, 3)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k != STATE})
    x = torch.randn(5, 4)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize(
    "state", [KANLinear(4, 3, share="group:2").get_extra_state(), torch.zeros(3, dtype=torch.uint8)]
)
def test_what_a_layer_cannot_take_is_refused_and_leaves_it_alone(state: Tensor) -> None:
    layer = KANLinear(4, 3)
    before = copy.deepcopy(layer)
    with pytest.raises(RuntimeError, match=STATE):
        layer.load_state_dict(layer.state_dict() | {STATE: state, "bias": torch.ones(3)})
    x = torch.randn(5, 4)
    assert torch.equal(layer(x), before(x))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(30, 4)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("make", [torch.optim.AdamW, lambda p: torch.optim.SGD(p, 0.1, 0.9)])
@pytest.mark.parametrize("share", ["edge", "group:2"])
def test_an_optimizer_left_behind_says_so_at_its_next_step(make: Callable, share: str) -> None:
    layer = KANLinear(4, 3, share=share)
    optimizer = make(layer.parameters())
    step(layer, optimizer)
    layer.update_grid(2 * torch.randn(100, 4))
    before = [p.clone() for p in layer.parameters()]
    with pytest.raises(RuntimeError, match="optimizer=") as raised:
        step(layer, optimizer)
    assert "\n" not in str(raised.value)
    assert all(map(torch.equal, before, layer.parameters()))
    step(layer, make(layer.parameters()))  # a new one has no moments


def test_an_optimizer_that_follows_or_has_no_moments_steps_on() -> None:
    layer = KANLinear(4, 3)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer.refine(10)
    step(layer, optimizer)
    layer.refine(32, optimizer)
    step(layer, optimizer)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((4, 3, BSpline()), "BSpline.*basis="), ((4, 3, None), "basis="), ((4, 3, "rbf"), "basis=")],
)
def test_a_basis_without_its_name_is_refused(arguments: tuple, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        KANLinear(*arguments)


def test_the_first_arguments_are_those_of_nn_linear() -> None:
    for bias in (True, False):
        ours, theirs = KANLinear(4, 3, bias), nn.Linear(4, 3, bias)
        assert (ours.bias is None) == (theirs.bias is None)
    assert KANLinear(4, 3).bias.shape == nn.Linear(4, 3).bias.shape


def test_kan_layers_are_found_by_name() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), KANLinear(4, 4))
    assert list(kan_layers(nn.Sequential(inner, KANLinear(4, 2)))) == ["0.1", "1"]
    assert list(kan_layers(KANLinear(4, 2))) == [""]
