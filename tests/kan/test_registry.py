"""The registry of bases: complete, without torch, and enough to add a basis."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanogpkant import kan
from nanogpkant.config import KANConfig
from nanogpkant.kan.bases import BASES, load_basis, make_basis
from nanogpkant.kan.bases.base import Basis, Family
from nanogpkant.kan.bases.bspline import BSpline

A_NEW_BASIS = '''
"""Wavelets."""
from dataclasses import dataclass
import torch
from torch import Tensor
from nanogpkant.kan.bases.base import Basis, wide

@dataclass(frozen=True)
class Ricker(Basis):
    """Mexican hats (1 - r^2) exp(-r^2 / 2), r = k x for k = 1 ... scales."""

    scales: int = 3

    @property
    def size(self) -> int:
        return self.scales

    def expand(self, x: Tensor) -> Tensor:
        r = self._scaled(x)
        return (1 - r * r) * torch.exp(-r * r / 2)

    def derivative(self, x: Tensor) -> Tensor:
        r = self._scaled(x)
        k = torch.arange(1, self.scales + 1, dtype=r.dtype, device=r.device)[:, None]
        return k * r * (r * r - 3) * torch.exp(-r * r / 2)

    def _scaled(self, x: Tensor) -> Tensor:
        x = wide(x).unsqueeze(-2)
        return x * torch.arange(1, self.scales + 1, dtype=x.dtype, device=x.device)[:, None]
'''

SEEN_EVERYWHERE = """
import sys
from nanogpkant.kan import bases

bases.__path__.append(sys.argv[1])  # as if the file lay in nanogpkant/kan/bases
bases.BASES["ricker"] = bases.Entry("ricker:Ricker", {"scales": "degree"})
assert "torch" not in sys.modules

from jsonargparse import ArgumentParser
from nanogpkant.config import RunConfig, config_from, to_yaml

parser = ArgumentParser(exit_on_error=False)
parser.add_class_arguments(RunConfig, None)
flags = ["--model.kan.basis", "ricker", "--model.kan.degree", "2"]
assert parser.parse_args(flags).model.kan.basis == "ricker"
values = {"model": {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 8,
                    "kan": {"sites": ["mlp_in"], "basis": "ricker", "degree": 2}}}
config = config_from(values)
assert "basis: ricker" in to_yaml(config)

import torch
from nanogpkant.kan import Features, KANLinear, Ricker, kan_layers, kan_linear
from nanogpkant.model.gpt import GPT

model = GPT(config.model, 11)
(layer,) = kan_layers(model).values()
assert layer.basis == Ricker(2) and layer.features == Features.from_spec(layer.features.spec)
model(torch.zeros(2, 8, dtype=torch.int64), torch.zeros(2, 8, dtype=torch.int64)).backward()
assert layer.weight.grad.abs().sum() > 0

x = torch.randn(9, 8, requires_grad=True)
runs = [kan_linear(x, layer.weight, layer.features, backend=b) for b in ("reference", "recompute")]
torch.testing.assert_close(*runs)
torch.testing.assert_close(*(torch.autograd.grad(y.sum(), x)[0] for y in runs))
torch.testing.assert_close(layer.edges(x).sum(-1), runs[0])
other = KANLinear(8, layer.out_features, False)
other.load_state_dict(layer.state_dict())
assert torch.equal(other(x), layer(x))
shared = KANLinear(8, 4, basis=Ricker(2), share="group:2")
assert shared(x).shape == (9, 4)

from benchmarks.speed.problem import basis_named
from nanogpkant.kan import BASES

assert "ricker" in BASES and basis_named("ricker", 5) == Ricker(8)
"""


def test_a_new_basis_is_one_file_and_one_entry(tmp_path: Path) -> None:
    (tmp_path / "ricker.py").write_text(A_NEW_BASIS, encoding="utf-8")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", SEEN_EVERYWHERE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", BASES)
def test_entries_say_what_their_files_do(name: str) -> None:
    entry = BASES[name]
    made = make_basis(name, vars(KANConfig()))
    assert isinstance(made, Family if entry.must_be_shared else Basis)
    assert entry.has_grid == isinstance(made, BSpline)
    assert entry.settings.keys() <= inspect.signature(load_basis(name)).parameters.keys()
    exported = entry.source.partition(":")[2]
    assert exported in kan.__all__
    assert exported in dir(kan)
    assert getattr(kan, exported) is load_basis(name)


def test_names_of_classes_are_unique() -> None:
    """Saved features name the entry of their class."""
    names = [entry.source.partition(":")[2] for entry in BASES.values()]
    assert len(set(names)) == len(names)


def test_the_public_names_are_there_and_no_others() -> None:
    for name in kan.__all__:
        assert getattr(kan, name) is not None
    with pytest.raises(AttributeError, match="Wavelet"):
        kan.Wavelet  # noqa: B018


@pytest.mark.parametrize("backend", ["auto", "recompute", "reference"])
@pytest.mark.parametrize("name", BASES)
def test_shapes_are_inferred_without_memory(name: str, backend: str) -> None:
    share = "group:2" if BASES[name].must_be_shared else "edge"
    options = {"share": share, "prenorm": "rms", "dropout": 0.1, "backend": backend}
    basis = make_basis(name, {})
    layer = kan.KANLinear(4, 3, basis=basis, device="meta", dtype=torch.bfloat16, **options)
    x = torch.empty(2, 5, 4, device="meta", dtype=torch.bfloat16, requires_grad=True)
    y = layer(x)
    assert (y.shape, y.device.type, y.dtype) == ((2, 5, 3), "meta", torch.bfloat16)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert layer.weight.grad.shape == layer.weight.shape
