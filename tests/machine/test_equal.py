"""Several processes learn what one does: the same batches, gradients, losses and grids."""

import pytest
import torch
from ranks import assert_same_rows, group, rows_of, run_all

from nanogpkant.cli import main
from nanogpkant.config import KANConfig, ModelConfig, TrainConfig
from nanogpkant.data import Batches
from nanogpkant.evaluation import evaluate
from nanogpkant.model.gpt import GPT
from nanogpkant.training.parallel import gradient_sync, parallelize, start_world, whole

EXACT = ["--model.dropout", 0, "--train.grad_accum_steps", 2, "--train.max_iters", 5]
MUON = ["--optim.name", "muon"]
GRIDS = ["--grid.update_every", 2, "--grid.refine_at", "{3: 4}"]


def tiny_gpt() -> GPT:
    torch.manual_seed(1)
    kan = KANConfig(sites=["qkv", "mlp_out"], grid_size=2, spline_scale=True)
    model = ModelConfig(n_layer=2, n_head=2, n_embd=8, block_size=8, dropout=0.0, kan=kan)
    return GPT(model, vocab_size=11)


def gradients_and_evaluations(rank: int) -> None:
    """On 5 rows, which no number of processes here divides, twice: the whole batch's gradient.

    And the evaluation of one process, to the last bit, by however many.
    """
    tokens = torch.arange(200).remainder(11).numpy()
    with start_world(TrainConfig(batch_size=5, device="cpu")) as world:
        alone = tiny_gpt()
        both = [Batches(tokens, 8, 5, seed=0).batch(i) for i in range(2)]
        x, y = (torch.cat(pair) for pair in zip(*both, strict=True))
        alone(x, y).backward()
        expected = {name: p.grad for name, p in alone.named_parameters()}
        for parallel in ("ddp", "fsdp"):
            model = tiny_gpt()
            batches = Batches(tokens, 8, 5, 0, world.rank, world.size)
            wrapped = parallelize(model, parallel, world, torch.device("cpu"))
            for i in range(2):
                with gradient_sync(wrapped, i == 1):
                    (wrapped(*batches.batch(i)) * batches.share / 2).backward()
            found = {name: whole(p.grad) for name, p in model.named_parameters()}
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
            for batch_size in (2, 5, 100):  # 13, 6 and 2 batches
                one = evaluate(alone, tokens, batch_size)
                shared = evaluate(model, tokens, batch_size, None, world)
                assert shared == one
                assert world.gather(shared) == [one] * world.size


@pytest.fixture(scope="module")
def alone(tiny_experiment, tmp_path_factory):
    """What one process makes of it: as it is, with grids that change, and with Muon."""
    out = tmp_path_factory.mktemp("alone")
    assert main([str(a) for a in ["train", tiny_experiment, *EXACT, "--out", out / "plain"]]) == 0
    for name, more in (("grids", GRIDS), ("muon", MUON)):
        flags = ["train", tiny_experiment, *EXACT, *more, "--out", out / name]
        assert main([str(a) for a in flags]) == 0
    return out


@pytest.mark.parametrize("size", [2, 3])
def test_as_one_process(alone, tiny_experiment, tmp_path, size):
    """4 rows a batch: 3 processes share them as 2, 1, 1."""
    flags = ["train", tiny_experiment, *EXACT]
    commands = [
        gradients_and_evaluations,
        [*flags, "--out", tmp_path / "ddp"],
        [*flags, "--out", tmp_path / "fsdp", "--train.parallel", "fsdp"],
        [*flags, *GRIDS, "--out", tmp_path / "grids"],
        [*flags, *MUON, "--out", tmp_path / "muon"],
    ]
    run_all(size, *commands)
    assert_same_rows(tmp_path / "ddp", alone / "plain")
    assert_same_rows(tmp_path / "fsdp", alone / "plain")
    # A grid's fit and Muon's bfloat16 products enlarge what the order of sums leaves.
    for name, tolerance in (("grids", 1e-4), ("muon", 1e-3)):
        found, expected = rows_of(tmp_path / name), rows_of(alone / name)
        assert len(found) == len(expected)
        for row, one in zip(found, expected, strict=True):
            assert row.get("parameters") == one.get("parameters")
            if "loss" in one:
                assert row["loss"] == pytest.approx(one["loss"], rel=tolerance)


class Seeds:
    """Train, and print which random stream each pass of this rank draws its dropout from."""

    def __init__(self, flags: list) -> None:
        self.flags = flags

    def __call__(self, rank: int) -> int:
        forward, seeds = GPT.forward, []

        def listening(model, *args, **kwargs):
            if model.training:
                seeds.append(torch.initial_seed())
            return forward(model, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GPT, "forward", listening)
            status = main(list(map(str, self.flags)))
        print(*seeds)
        return status


def test_dropout_differs_between_ranks_and_steps(tiny_experiment, tmp_path):
    """But not between two runs of the same."""
    flags = ["train", tiny_experiment, "--train.max_iters", 3, "--out"]
    found = group(2, Seeds([*flags, tmp_path / "a"]), Seeds([*flags, tmp_path / "b"]))
    drawn = [[each.output.split() for each in ended] for ended in found]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0][0] + drawn[0][1])) == 6
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


@pytest.mark.parametrize(
    ("environment", "flags", "said"),
    [
        ({"WORLD_SIZE": "2"}, [], "RANK is not set"),
        ({"WORLD_SIZE": "two"}, [], "WORLD_SIZE is two"),
        ({"TORCHELASTIC_RUN_ID": "none"}, ["--overwrite"], "--auto_resume"),
        ({}, ["--overwrite", "--auto_resume"], "opposite things"),
        ({}, ["--train.timeout", "0"], "--train.timeout 0"),
        ({}, ["--train.parallel", "fsdp", "--train.compile", "true"], "--train.compile"),
        ({}, ["--train.parallel", "fsdp", "--grid.update_every", "2"], "--grid.update_every"),
    ],
)
def test_what_cannot_work(tiny_run, tiny_experiment, monkeypatch, capsys, environment, flags, said):
    """Said at once, with what would work; the run that is there stays."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["train", str(tiny_experiment), "--out", str(tiny_run), *flags]) == 2
    assert said in capsys.readouterr().err
    assert (tiny_run / "samples.txt").exists()


def test_more_processes_than_sequences(tiny_experiment, tmp_path):
    flags = ["train", tiny_experiment, "--out", tmp_path / "r", "--train.batch_size", 1]
    ((first, second),) = group(2, flags)
    assert (first.status, second.status) == (2, 2)
    assert "--train.batch_size 1: has fewer sequences than there are processes, 2" in first.errors
    assert not second.errors
    assert not (tmp_path / "r").exists()
