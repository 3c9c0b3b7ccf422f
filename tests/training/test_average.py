"""The moving average of the weights: torch's own, and a run that keeps one."""

import json

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from nanogpkant.base.errors import UserError
from nanogpkant.cli import main
from nanogpkant.run.metrics import read_metrics
from nanogpkant.training.average import WeightAverage


def test_it_is_torchs_average() -> None:
    model = nn.Linear(3, 2)
    ours = WeightAverage(model, 0.9)

    def ramped(average, weight, count):
        decay = min(0.9, (1 + int(count)) / (10 + int(count)))
        return decay * average + (1 - decay) * weight

    theirs = AveragedModel(model, avg_fn=ramped)
    theirs.update_parameters(model)  # the first one copies
    for step in range(1, 40):
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        ours.update(step)
        theirs.update_parameters(model)
    trained = model.weight.detach().clone()
    with ours.in_place():
        torch.testing.assert_close(model.weight, theirs.module.weight)
        torch.testing.assert_close(model.bias, theirs.module.bias)
    assert torch.equal(model.weight, trained)


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(UserError, match="not of this model"):
        WeightAverage(nn.Linear(3, 2), 0.9).restore(nn.Linear(2, 2).state_dict())


@pytest.fixture
def train(tiny_experiment, tmp_path):
    def run(name: str, *flags: object) -> dict[str, float]:
        length = ["--optim.lr_decay_iters", 12]
        command = ["train", tiny_experiment, "--out", tmp_path / name, *length, *flags]
        assert main(list(map(str, command))) == 0
        rows = read_metrics(tmp_path / name / "metrics.jsonl")
        return {f"{row['split']} {row['step']}": row["loss"] for row in rows if "loss" in row}

    return run


AVERAGE = ("--optim.ema_decay", 0.8)


def test_training_is_the_same_and_evaluation_is_not(train) -> None:
    without, averaged = train("without"), train("with", *AVERAGE)
    for key, loss in without.items():
        is_the_start = key == "val 0"
        assert (averaged[key] == loss) is (key.startswith("train") or is_the_start)


def test_a_run_resumes_exactly(train, tmp_path, capsys) -> None:
    whole = train("whole", *AVERAGE)
    train("part", *AVERAGE, "--train.max_iters", 8)
    assert train("part", "--resume", "--train.max_iters", 12) == whole
    file = "checkpoints/step-000012/model.safetensors"
    ours, theirs = (tmp_path / name / file for name in ("whole", "part"))
    assert ours.read_bytes() == theirs.read_bytes()
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "whole"), "--checkpoint", "last", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(whole["val 12"], rel=1e-6)


def test_it_can_be_switched_off_and_on(train) -> None:
    without = train("without")
    train("run", *AVERAGE, "--train.max_iters", 8)
    off = train("run", "--resume", "--train.max_iters", 12, "--optim.ema_decay", 0)
    assert off["train 12"] == without["train 12"]
    assert off["val 12"] == without["val 12"]
    train("other", "--train.max_iters", 8)
    on = train("other", "--resume", "--train.max_iters", 12, *AVERAGE)
    assert on["train 12"] == without["train 12"]
    assert on["val 12"] != without["val 12"]


@pytest.mark.parametrize(
    "flags",
    [("--grid.refine_at", "{4: 4}"), ("--train.parallel", "fsdp"), ("--optim.ema_decay", 1)],
)
def test_what_does_not_go_together(tiny_experiment, tmp_path, capsys, flags) -> None:
    command = ["train", tiny_experiment, "--out", tmp_path / "run", *AVERAGE, *flags]
    assert main(list(map(str, command))) == 2
    assert "--optim.ema_decay" in capsys.readouterr().err
