"""Looking inside any module: an MLP on a table, a block of a transformer, a layer alone."""

import copy
import re

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nanogpkant as ng
from nanogpkant import KAN, BSpline, KANLinear
from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.kan.pruned import PrunedLinear

WIDE = {"basis": BSpline(8, 3, (-3.0, 3.0))}


def table(rows: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """y = sin(2 x0) + x1^2 / 2; x2 does nothing."""
    x = 2 * torch.rand(rows, 3) - 1
    return x, (torch.sin(2 * x[:, :1]) + x[:, 1:2] ** 2 / 2)


@pytest.fixture(scope="module")
def trained() -> KAN:
    torch.manual_seed(0)
    (x, y), model = table(), KAN([3, 1], **WIDE)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


def test_a_table_gives_its_formulas_back(trained: KAN, tmp_path) -> None:
    (x, y), before = table(), copy.deepcopy(trained.state_dict())
    found = ng.interpret(trained, inputs=x, loss=lambda z: F.mse_loss(z, y), out=tmp_path / "o")
    edges = found.edges.set_index("input")
    assert edges["importance"].idxmin() == 2
    assert edges.loc[[0, 1], "accepted"].all()
    assert len(found.formulas("0")) == 1
    assert {"x0", "x1"} <= set(re.findall(r"x\d", found.formulas("0")[0]))
    judged = found.faithfulness.set_index("replacement")
    assert judged.loc["original", "change"] == 0
    assert judged.loc["formula", "change"] < 0.05 < judged.loc["line", "change"]
    assert judged.loc["formula", "loss"] < 0.01 < judged.loc["zero", "loss"]
    assert {p.name for p in (tmp_path / "o").iterdir()} >= {"edges.csv", "edges_0.png"}
    assert len(pd.read_csv(tmp_path / "o" / "edges.csv")) == 3
    assert all(torch.equal(p, before[n]) for n, p in trained.state_dict().items())
    assert trained.training


def test_a_module_of_16_bits() -> None:
    layer, x = KANLinear(3, 2), torch.rand(200, 3)
    wanted = ng.interpret(layer, inputs=x).faithfulness.set_index("replacement")["change"]
    found = ng.interpret(layer.bfloat16(), inputs=x.bfloat16()).faithfulness
    found = found.set_index("replacement")["change"]
    assert found["line"] == pytest.approx(wanted["line"], rel=0.1)
    assert found["formula"] < 0.1


@torch.no_grad()
def test_an_output_is_one_formula_with_one_constant() -> None:
    layer, x = KANLinear(3, 2), 2 * torch.rand(200, 3) - 1
    layer.weight.normal_(std=0.3)
    layer.bias.copy_(torch.tensor([0.5, -2.0]))
    found = ng.interpret(layer, inputs=x, families=["sin"])
    for output, text in enumerate(found.formulas("")):
        assert re.search(r"^-?[\d.]+ [+-] \S+\*", text)
        assert not re.search(r" [+-] [\d.]+(?: [+-] |$)", re.sub(r"\([^()]*\)", "", text))
        names = {f"x{i}": x[:, i] for i in range(3)} | vars(torch)
        wanted = found.fits[""].evaluate(x)[:, output].sum(1) + layer.bias[output]
        torch.testing.assert_close(eval(text.replace("^", "**"), names), wanted, rtol=0, atol=0.01)


def test_pruning_drops_what_does_nothing(trained: KAN) -> None:
    x, _ = table()
    found = ng.interpret(trained, inputs=x)
    assert "loss" not in found.faithfulness
    pruned, judged = found.prune(0.34)
    assert isinstance(pruned[0], PrunedLinear)
    assert pruned[0].inputs.tolist() == [0, 1]
    assert judged["change"] < 0.02
    torch.testing.assert_close(pruned(x), trained(x), rtol=0, atol=0.05)
    with pytest.raises(UsageError, match="share 1: must be above 0"):
        found.prune(1)


def test_base_and_basis_are_parts_of_the_curve(trained: KAN) -> None:
    x = torch.linspace(-2, 2, 9)
    layers = [trained[0], KANLinear(4, 3, share="group:2"), KANLinear(4, 3, base="none")]
    for layer in layers:
        base, basis = layer.parts(x)
        torch.testing.assert_close(base + basis, layer.edges(x).detach())
    silu = trained[0].weight[:, 0].detach() * F.silu(x)[:, None, None]
    torch.testing.assert_close(layers[0].parts(x)[0], silu)
    assert layers[2].parts(x)[0].abs().max() < 1e-6
    figure = ng.interpret(trained, inputs=table()[0]).draw(top=3, parts=True)
    assert len(figure.axes) == 3
    assert [line.get_label() for line in figure.axes[0].lines] == ["curve", "base: silu", "basis"]


def test_a_block_of_a_vit_with_several_calls_and_keywords() -> None:
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    shape |= {"num_hidden_layers": 1, "image_size": 8, "patch_size": 4}
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(**shape))
    ng.kanify(vit)
    calls = [{"pixel_values": torch.randn(4, 3, 8, 8)} for _ in range(3)]

    def loss(output, number):
        return output.logits.square().mean() + number

    found = ng.interpret(vit, inputs=calls, loss=loss)
    assert found.faithfulness["loss"].iloc[0] > 1
    (name,) = (n for n in found.layers if n.endswith("fc2"))
    assert found.fits[name].r2.shape == (16, 32)
    assert found.draw(name, top=4).axes


def test_a_layer_alone_and_one_of_another_library() -> None:
    from nanogpkant.conversion.others import NormedKAN

    layer, x = KANLinear(3, 2), torch.randn(50, 3)
    alone = ng.interpret(layer, inputs=x)
    assert len(alone.edges) == 6
    assert alone.faithfulness["change"].iloc[1] < 0.1
    assert isinstance(alone.prune(0.5)[0], PrunedLinear)
    normed = NormedKAN(nn.LayerNorm(3), KANLinear(3, 2, base="none"), None)
    assert set(ng.interpret(normed, inputs=(x,)).layers) == {"splines"}


def test_bad_input_is_one_line(trained: KAN) -> None:
    x = torch.randn(20, 3)
    for inputs in (None, []):
        with pytest.raises(UsageError, match="needs examples"):
            ng.interpret(trained, inputs=inputs)
    with pytest.raises(UserError, match="Linear has no KAN layers"):
        ng.interpret(nn.Linear(3, 2), inputs=x)
    with pytest.raises(UsageError, match="--layers 7"):
        ng.interpret(trained, inputs=x, layers=["7"])
    with pytest.raises(UserError, match="not finite"):
        _ = ng.interpret(trained, inputs=x * torch.nan).edges
    with pytest.raises(UsageError, match="the KAN layers are 0"):
        ng.interpret(trained, inputs=x).formulas("1")
    with pytest.raises(ValueError, match=r"sizes are \[2\]"):
        KAN([2])


def test_a_layer_that_the_loss_does_not_see() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = KANLinear(3, 1, **WIDE), KANLinear(3, 2, **WIDE)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.used(x), self.unused(x)

    x, y = table()
    found = ng.interpret(TwoHeads(), inputs=x, loss=lambda z: F.mse_loss(z[0], y))
    assert found.importance["used"].max() > 0
    assert found.importance["unused"].max() == 0


def test_every_part_keeps_its_mode() -> None:
    x, _ = table()
    model = nn.Sequential(nn.BatchNorm1d(3), KANLinear(3, 1, **WIDE))
    model[0].eval()
    before = copy.deepcopy(model.state_dict())
    assert len(ng.interpret(model, inputs=x).edges) == 3
    assert [part.training for part in model] == [False, True]
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())


def test_a_picture_of_no_layer(trained: KAN) -> None:
    found = ng.interpret(trained, inputs=table()[0])
    with pytest.raises(UsageError, match="head: the KAN layers are 0"):
        found.draw("head")


def test_what_follows_a_layer_may_be_in_place() -> None:
    (x, y), model = table(), nn.Sequential(KAN([3, 4], **WIDE), nn.ReLU(inplace=True), KAN([4, 1]))
    expected = F.mse_loss(model(x), y)
    found = ng.interpret(model, inputs=x, loss=lambda z: F.mse_loss(z, y))
    losses = found.faithfulness.set_index("replacement")["loss"]
    assert losses["original"] == pytest.approx(expected.item(), rel=1e-4)
    assert (found.edges["importance"] > 0).any()
