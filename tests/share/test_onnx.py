"""export --format onnx, and KAN layers and blocks in ONNX: run by onnxruntime, held to torch."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from nanogpkant.cli import main
from nanogpkant.kan import RBF, BSpline, Chebyshev, Fourier, KANLinear, Line, Rational
from nanogpkant.kan.pruned import PrunedLinear, prune
from nanogpkant.model.gpt import GPT
from nanogpkant.run.load import load_model
from nanogpkant.share import onnx_format
from nanogpkant.share.onnx_format import onnx_bytes

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(find_spec("onnxscript") is None, reason="no onnxscript")

MODELS = {
    "kan": {"sites": ("qkv", "attn_out", "mlp_in", "mlp_out"), "bias": True},
    "curve": {"position": "curve", "activation": "even", "conv": "curve"},
    "modern": {"position": "rope+slopes", "norm": "rms", "qk_norm": True, "activation": "xielu"}
    | {"conv": "taps", "value_residual": True, "tied": False, "logit_softcap": 5.0},
}


def largest_difference(module: nn.Module, x: Tensor, content: bytes | str) -> Tensor:
    """Of every output, between torch and onnxruntime."""
    session = onnxruntime.InferenceSession(content)
    (theirs,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        ours = module(x)
    assert theirs.shape == ours.shape
    return (ours - torch.from_numpy(theirs)).abs().flatten(0, -2).amax(0)


def pruned() -> PrunedLinear:
    keep = torch.rand(4, 8) > 0.5
    keep[1], keep[:, 2] = False, False
    return prune(KANLinear(8, 4, basis=BSpline(3)), keep, torch.randn(4))


class Beside(nn.Module):
    """Layers that read one input, their outputs beside each other."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers], dim=-1)


def test_every_kind_of_layer():
    layers = {
        "bspline": KANLinear(8, 4, basis=BSpline(3, outside="linear"), prenorm="rms", bias=True),
        "rbf": KANLinear(8, 4, basis=RBF(3), base="gelu", spline_scale=True),
        "chebyshev": KANLinear(8, 4, basis=Chebyshev(3), base="none"),
        "fourier": KANLinear(8, 4, basis=Fourier(2), base="identity"),
        "rational": KANLinear(8, 4, basis=Rational(3), share="group:2"),
        "line": KANLinear(8, 4, basis=Line(), share="atoms:2"),
        "pruned": pruned(),
    }
    module = Beside(list(layers.values())).eval()
    made = onnx_bytes(module, torch.randn(3, 8), {0: Dim("rows")}, ["x"], ["y"])
    difference = largest_difference(module, 2 * torch.randn(50, 8), made).view(len(layers), 4)
    assert difference.amax(1).max() < 1e-5, dict(zip(layers, difference.amax(1), strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_any_batch_and_length(tiny_config, name: str):
    model = GPT(tiny_config(**MODELS[name], n_layer=1, block_size=40), 11).eval()
    nn.init.normal_(model.tokens.weight)
    dynamic = {0: Dim("batch"), 1: Dim("tokens", max=40)}
    made = onnx_bytes(model, torch.zeros(2, 4, dtype=torch.int64), dynamic, ["x"], ["y"])
    for batch, tokens in ((1, 1), (3, 7), (2, 40)):
        x = torch.randint(11, (batch, tokens))
        assert largest_difference(model, x, made).max() < 1e-4


def test_a_whole_model(tiny_run: Path, tmp_path: Path, capsys):
    to = tmp_path / "to"
    assert main(["export", str(tiny_run), "--out", str(to), "--format", "onnx"]) == 0
    files = {"README.md", "manifest.json", "model.onnx", "tokenizer.json"}
    assert {path.name for path in to.iterdir()} == files
    trained = load_model(tiny_run)
    for batch, tokens in ((1, 1), (2, 9), (5, 16)):
        ids = torch.randint(trained.tokenizer.vocab_size, (batch, tokens))
        assert largest_difference(trained.model, ids, str(to / "model.onnx")).max() < 1e-5
    capsys.readouterr()
    code = (to / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    exec(code.replace("PATH/TO/", f"{tmp_path}/"), {})
    newline = torch.from_numpy(trained.tokenizer.encode("\n").astype(np.int64))
    likely = trained.model(newline[None])[0, -1].argmax().item()
    assert capsys.readouterr().out == trained.tokenizer.decode([likely]) + "\n"


def test_what_cannot_be_exported_is_one_line(tiny_run: Path, tmp_path: Path, capsys, monkeypatch):
    command = ["export", str(tiny_run), "--out", str(tmp_path / "to"), "--format", "onnx"]
    assert main([*command, "--bfloat16"]) == 2
    assert "--bfloat16" in capsys.readouterr().err
    monkeypatch.setattr(onnx_format, "LARGEST", 1000)
    assert main(command) == 1
    assert "do not fit in one .onnx file" in capsys.readouterr().err
    monkeypatch.setattr(onnx_format, "find_spec", lambda name: None)
    assert main(command) == 1
    assert "pip install 'nanogpkant[onnx]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_non_uniform_grids_are_refused():
    layer = KANLinear(3, 2, basis=BSpline(grid=(-1.0, 0.0, 0.2, 1.0)))
    with pytest.raises(onnx_format.UserError, match="non-uniform grid"):
        onnx_bytes(layer, torch.randn(2, 3), {0: Dim("rows")}, ["x"], ["y"])
