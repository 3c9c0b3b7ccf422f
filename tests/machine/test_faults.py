"""What goes wrong in one process ends all of them: soon, with one clear line, and nothing lost."""

import os
import signal
import time

import pytest
import torch
from ranks import assert_same_rows, group, run_all
from torch.distributed.checkpoint import state_dict_saver

from nanogpkant.cli import main
from nanogpkant.model.gpt import GPT
from nanogpkant.run import checkpoint
from nanogpkant.run.checkpoint import load_checkpoint
from nanogpkant.run.folder import open_run
from nanogpkant.training import loop as train_module
from nanogpkant.training import state as training_state


class Train:
    """The train command, with something done to one of the processes first."""

    def __init__(self, flags: list, sabotage, rank: int = 1) -> None:
        self.flags, self.sabotage, self.rank = flags, sabotage, rank

    def __call__(self, rank: int) -> int:
        if rank != self.rank:
            return main(list(map(str, self.flags)))
        with pytest.MonkeyPatch.context() as patch:
            self.sabotage(patch)
            return main(list(map(str, self.flags)))


def at_call(patch, number: int, do) -> None:
    """Do something when the model is called for the ``number``-th time in training."""
    forward, calls = GPT.forward, []

    def changed(self, *args, **kwargs):
        calls.append(self.training)
        if self.training and sum(calls) == number:
            do(self)
        return forward(self, *args, **kwargs)

    patch.setattr(GPT, "forward", changed)


def poisoned(patch) -> None:
    def poison(model):
        with torch.no_grad():
            model.blocks[1].mlp.into.weight[0, 0, 0] = torch.nan

    at_call(patch, 6, poison)


def poisoned_shard(patch) -> None:
    """A NaN in what this rank puts together of the shards of a weight."""

    def poison(model):
        with torch.no_grad():
            model.norm.weight.fill_(torch.nan)

    at_call(patch, 6, poison)


def asked_to_stop(patch) -> None:
    at_call(patch, 3, lambda _: os.kill(os.getpid(), signal.SIGTERM))


def stuck(patch) -> None:
    at_call(patch, 3, lambda _: time.sleep(5))


def full_disk(patch) -> None:
    def fail(*_):
        raise OSError(28, "No space left on device")

    patch.setattr(training_state, "save_checkpoint", fail)


def without_data(patch) -> None:
    def fail(*_):
        raise OSError(2, "No such file or directory")

    patch.setattr("nanogpkant.training.opening.check_length", fail)


def killed_at_second(patch, owner, name: str) -> None:
    """Killed where a function is called for the second time: in the save at step 8."""
    real, calls = getattr(owner, name), []

    def changed(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    patch.setattr(owner, name, changed)


def killed_before_saving(patch) -> None:
    killed_at_second(patch, train_module, "save_training")


def killed_among_shards(patch) -> None:
    killed_at_second(patch, state_dict_saver, "save")


def killed_before_the_rename(patch) -> None:
    killed_at_second(patch, checkpoint, "write_manifest")


def test_all_end_with_one_error(tiny_experiment, tmp_path):
    flags = ["train", tiny_experiment, "--train.max_iters", 12, "--out"]
    sharded = ["--train.parallel", "fsdp"]
    commands = [
        Train([*flags, tmp_path / "nan"], poisoned),
        Train([*flags, tmp_path / "shard", *sharded], poisoned_shard),
        Train([*flags, tmp_path / "full"], full_disk, rank=0),
        Train([*flags, tmp_path / "data"], without_data),
        [*flags, tmp_path / "full"],
        Train([*flags, tmp_path / "stop"], asked_to_stop),
        Train([*flags, tmp_path / "stuck", "--train.timeout", 2], stuck),
    ]
    nan, shard, full, data, there, stop, hung = group(2, *commands)
    for first, second in (nan, shard, full, data):
        assert (first.status, second.status) == (1, 1), (first, second)
        assert not second.errors
        assert sum("error:" in line for line in first.errors.splitlines()) == 1
    assert "step 6: the loss is nan, first in the weights of blocks.1.mlp.into" in nan[0].errors
    assert "on rank 1" in nan[0].errors
    assert "step-000004" in nan[0].errors
    load_checkpoint(open_run(tmp_path / "nan"), "last")
    assert "step 6: the" in shard[0].errors
    assert "No space left" in full[0].errors
    assert "rank 1: [Errno 2] No such file" in data[0].errors
    assert not (tmp_path / "data").exists()

    assert [each.status for each in there] == [2, 2]
    assert "full exists; --resume continues it" in there[0].errors
    assert not there[1].errors

    assert [each.status for each in stop] == [0, 0]
    assert "stopped at step 3; add --resume" in stop[0].errors
    assert load_checkpoint(open_run(tmp_path / "stop"), "last").step == 3

    assert [each.status for each in hung] == [1, 1]
    said = "".join(each.errors for each in hung)
    assert "another process of this run did not answer for 2 s" in said


def test_killed_around_a_checkpoint(tiny_experiment, tmp_path):
    """Between step and save, while shards are written, before the rename: nothing half is left."""
    flags, sharded = ["train", tiny_experiment, "--out"], ["--train.parallel", "fsdp"]
    cases = {
        "before": (killed_before_saving, 0, []),
        "shards": (killed_among_shards, 1, sharded),
        "rename": (killed_before_the_rename, 0, sharded),
    }
    for name, (kill, rank, more) in cases.items():
        ((first, second),) = group(2, Train([*flags, tmp_path / name, *more], kill, rank))
        assert {first.status, second.status} == {-9, 1}
        survivor = second if rank == 0 else first
        assert "another process of this run is gone" in survivor.errors
        assert load_checkpoint(open_run(tmp_path / name), "last").step == 4
    resumed = [[*flags, tmp_path / name, "--resume"] for name in cases]
    run_all(2, [*flags, tmp_path / "whole"], *resumed)
    for name in cases:
        assert_same_rows(tmp_path / name, tmp_path / "whole")
        left = {path.name for path in (tmp_path / name / "checkpoints").iterdir()}
        assert not any(name.endswith(".tmp") for name in left), left
