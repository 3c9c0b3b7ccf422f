"""The gate lets right layers through and no others."""

import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.speed import gate
from benchmarks.speed.contenders import Contender, contenders
from benchmarks.speed.problem import Problem
from nanogpkant.kan import BSpline, KANLinear

PROBLEM = Problem(inputs=7, outputs=5, rows=300)
PROBLEMS = {dtype: replace(PROBLEM, dtype=dtype) for dtype in ("fp32", "bf16")}
EVERYONE = [(dtype, who) for dtype, p in PROBLEMS.items() for who in contenders(p)]


@pytest.mark.parametrize(
    ("dtype", "who"), EVERYONE, ids=[f"{who.name}, {who.setting}, {d}" for d, who in EVERYONE]
)
def test_everyone_is_who_they_say(dtype, who):
    if not who.is_installed():
        pytest.skip(f"pip install {who.package}")
    problem = PROBLEMS[dtype]
    if who.pure:  # as precise as they are: some rivals round too much for the gate
        assert who.start(problem).run(problem.grad().bfloat16()).dtype == torch.bfloat16
        return
    assert gate.check(who, problem, who.start(problem)) <= gate.TOLERANCE[dtype]


@pytest.mark.parametrize("basis", [BSpline(grid_size=2, order=1), BSpline(grid=(-1, 0.5, 1))])
def test_rivals_that_lack_a_basis_are_left_out(basis):
    names = {who.name for who in contenders(replace(PROBLEM, basis=basis))}
    assert "Cox-de Boor, eager" in names
    assert not names & {"inkan", "flashkan"}


class _Wrong(KANLinear):
    """Off in one place: the output, the gradient of x or that of the weight."""

    def __init__(self, where: str) -> None:
        super().__init__(PROBLEM.inputs, PROBLEM.outputs, bias=False)
        self.load_state_dict(PROBLEM.layer().state_dict())
        self.where = where

    def forward(self, x):
        if self.where == "gradient of x":
            x = x.clone()
            x.register_hook(lambda grad: 1.01 * grad)
        y = super().forward(x)
        if self.where == "gradient of the weight":
            self.weight.register_hook(lambda grad: 1.01 * grad)
        return {"output": 1.01 * y, "not finite": y / 0 * 0}.get(self.where, y)


@pytest.mark.parametrize(
    "where", ["output", "gradient of x", "gradient of the weight", "not finite"]
)
def test_a_wrong_layer_gets_no_time(where):
    wrong = Contender("wrong", lambda problem: _Wrong(where), lambda layer: layer.weight.grad)
    with pytest.raises(gate.GateError, match=where):
        gate.check(wrong, PROBLEM, wrong.start(PROBLEM))


def test_a_layer_that_is_wrong_in_its_last_row_is_found():
    class LastRow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = PROBLEM.layer()

        def forward(self, x):
            y = self.layer(x)
            return torch.cat([y[:-1], 2 * y[-1:]])

    wrong = Contender("wrong", lambda problem: LastRow(), lambda m: m.layer.weight.grad)
    with pytest.raises(gate.GateError, match="output"):
        gate.check(wrong, PROBLEM, wrong.start(PROBLEM))


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_contenders_can_go_to_another_process(problem):
    field = contenders(problem)
    copies = pickle.loads(pickle.dumps(field))
    assert [(c.name, c.setting) for c in copies] == [(c.name, c.setting) for c in field]
