"""Why a token: the playground's gradient at one position, held to torch's."""

import pytest
import torch

from nanogpkant.kan import kan_layers
from nanogpkant.model.cache import Cache
from nanogpkant.model.gpt import GPT

ALL = ("qkv", "attn_out", "mlp_in", "mlp_out")
MODELS = {
    "plain": {"bias": True},
    "edges": {"sites": ALL, "kan.prenorm": "rms", "kan.outside": "linear"},
    "shared": {"sites": ALL, "kan.share": "group:2", "kan.basis": "fourier", "position": "curve"},
    "swiglu": {"activation": "swiglu", "norm": "rms", "logit_softcap": 5.0},
    "modern": {"position": "rope", "norm": "rms", "qk_norm": True, "activation": "xielu"}
    | {"conv": "taps", "value_residual": True, "tied": False},
    "cosines": {"position": "rope+curve", "conv": "curve", "score_degree": 3},
}


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_of_a_logit_at_the_last_position(name, shaken, run_node):
    """What earlier tokens left in the cache is held as it is, here and there."""
    settings = dict(MODELS[name])
    model = shaken(settings.pop("sites", ()), **settings)
    ids = torch.randint(0, 11, (1, 7))
    found = run_node("return study(model, values, 7, 4);", ids[0].tolist(), model)
    model.double()

    @torch.no_grad()
    def logit(moved: torch.Tensor) -> torch.Tensor:
        cache = Cache(model.config, 1, torch.device("cpu"), torch.float64)
        model(ids[:, :6], cache=cache)
        handle = model.tokens.register_forward_hook(lambda _, args, y: y + moved)
        logits = model(ids[:, 6:], cache=cache)[0, -1]
        handle.remove()
        return logits[4]

    steps = 1e-5 * torch.eye(8, dtype=torch.float64)
    wanted = torch.stack([(logit(step) - logit(-step)) / 2e-5 for step in steps])
    assert found["logit"] == pytest.approx(logit(0 * steps[0]).item(), abs=2e-5)
    gradient = torch.tensor(found["gradient"], dtype=torch.float64)
    torch.testing.assert_close(gradient, wanted, atol=1e-4, rtol=1e-3)


def contributions(model, ids) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (in,) of the last layer, and what its edges (out, in) gave logit 4."""
    layer = kan_layers(model)["blocks.1.mlp.out"]
    seen = {}
    layer.register_forward_hook(lambda _, args, y: seen.update(x=args[0], y=y))
    logits = model(ids)[0, -1]
    (at_outputs,) = torch.autograd.grad(logits[4], seen["y"])
    x = seen["x"][0, -1]
    with torch.no_grad():
        return x, layer.edges(x[None])[0] * at_outputs[0, -1][:, None]


def test_the_token_under_study_is_among_the_likely(tiny_config, run_node):
    model, ids = GPT(tiny_config(), vocab_size=20).eval(), torch.randint(0, 20, (1, 7))
    shares = model(ids)[0, -1].detach().softmax(0)
    least = shares.argmin().item()
    found = run_node(f"return study(model, values, 7, {least});", ids[0].tolist(), model)["likely"]
    wanted = [*shares.topk(12).indices.tolist(), least]
    assert [token for token, _ in found] == wanted
    assert [share for _, share in found] == pytest.approx(shares[wanted].tolist(), abs=1e-5)


def test_the_edges_that_gave_most(shaken, run_node):
    model, ids = shaken(("mlp_out",)), torch.randint(0, 11, (1, 7))
    x, each = contributions(model, ids)
    found = run_node("return study(model, values, 7, 4);", ids[0].tolist(), model)["functions"]
    found = [edge for edge in found if edge["layer"] == "blocks.1.mlp.out"]
    wanted = each.abs().flatten().topk(len(found))
    assert len(found) == 12
    gives = sorted((abs(edge["gives"]) for edge in found), reverse=True)
    assert gives == pytest.approx(wanted.values.tolist(), rel=1e-3, abs=1e-5)
    for edge in found:
        there = each[edge["output"], edge["input"]].item()
        assert edge["gives"] == pytest.approx(there, rel=1e-3, abs=1e-5)
        assert edge["xs"] == pytest.approx([x[edge["input"]].item()], abs=1e-5)


def test_contributions_are_values_times_gradients(shaken, run_node):
    model = shaken(("mlp_out",), **{"kan.share": "group:2", "kan.basis": "fourier"})
    ids = torch.randint(0, 11, (1, 7))
    x, each = contributions(model, ids)
    found = run_node("return study(model, values, 7, 4);", ids[0].tolist(), model)
    gives = {
        f["number"]: f["gives"] for f in found["functions"] if f["layer"] == "blocks.1.mlp.out"
    }
    wanted = each.sum(0).view(2, -1).sum(1)
    assert [gives[0], gives[1]] == pytest.approx(wanted.tolist(), rel=1e-3, abs=1e-5)
    unit = found["layers"][1]["units"][0]
    assert unit["gives"] == pytest.approx(each.sum(0)[unit["unit"]].item(), rel=1e-3)
    assert unit["x"] == pytest.approx(x[unit["unit"]].item(), abs=1e-5)
