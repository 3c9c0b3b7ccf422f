"""A run resumes on another number of processes, whole or in shards, as if never interrupted."""

import shutil

import pytest
import safetensors.torch
import torch
from ranks import assert_same_rows, run_all

from nanogpkant.cli import main
from nanogpkant.run.checkpoint import load_checkpoint
from nanogpkant.run.folder import open_run
from nanogpkant.run.manifest import write_manifest

STEPS = ["--model.dropout", 0, "--train.eval_interval", 2, "--optim.lr_decay_iters", 6]
HALF, REST = ["--train.max_iters", 4], ["--resume", "--train.max_iters", 6]


@pytest.fixture(scope="module")
def runs(tiny_experiment, tmp_path_factory):
    """One whole run of one process, and three halves: of one process, of ddp, and of fsdp."""
    out = tmp_path_factory.mktemp("runs")
    base = ["train", tiny_experiment, *STEPS]
    for name, length in (("whole", ["--train.max_iters", 6]), ("one", HALF)):
        assert main([str(a) for a in [*base, *length, "--out", out / name]]) == 0
    run_all(
        2,
        [*base, *HALF, "--out", out / "ddp"],
        [*base, *HALF, "--out", out / "fsdp", "--train.parallel", "fsdp"],
    )
    return out


def copies(runs, tmp_path, *names):
    for number, name in enumerate(names):
        shutil.copytree(runs / name, tmp_path / f"{number}")
        yield tmp_path / f"{number}"


@pytest.mark.parametrize("size", [1, 2, 3])
def test_from_any_to_any(runs, tiny_experiment, tmp_path, size):
    """From one process, ddp and fsdp on 2, to ddp and fsdp on 1, 2 and 3."""
    base = ["train", tiny_experiment, *REST]
    kinds = ["ddp"] if size == 1 else ["ddp", "fsdp"]
    pairs = [(source, kind) for source in ("one", "ddp", "fsdp") for kind in kinds]
    outs = list(copies(runs, tmp_path, *(source for source, _ in pairs)))
    commands = [
        [*base, "--train.parallel", kind, "--out", out]
        for (_, kind), out in zip(pairs, outs, strict=True)
    ]
    if size == 1:
        for command in commands:
            assert main(list(map(str, command))) == 0
    else:
        run_all(size, *commands)
    for out in outs:
        assert_same_rows(out, runs / "whole")


def test_a_checkpoint_in_shards(runs, tmp_path, capsys):
    """Whole weights that every command opens, moments in shards, each file in the manifest."""
    (run,) = copies(runs, tmp_path, "fsdp")
    folder = load_checkpoint(open_run(run), "last").folder
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    shards = {name for name in files if name.startswith("moments/")}
    assert files == {"model.safetensors", "training.pt", "manifest.json", *shards}
    assert len(shards) == 2
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    expected = load_checkpoint(open_run(runs / "ddp"), "last").weights()
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-4)
    assert main(["eval", str(run), "--device", "cpu"]) == 0
    capsys.readouterr()
    shard = folder / sorted(shards)[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    assert main(["eval", str(run), "--device", "cpu"]) == 1
    assert shard.name in capsys.readouterr().err
    shard.unlink()
    assert main(["eval", str(run), "--device", "cpu"]) == 1
    assert "is missing" in capsys.readouterr().err


def test_shards_of_another_model(runs, tmp_path, tiny_experiment, capsys):
    """A manifest that agrees, but moments that belong to a narrower model: said, not guessed."""
    (run,) = copies(runs, tmp_path, "fsdp")
    folder = load_checkpoint(open_run(run), "last").folder
    file = sorted((folder / "moments").iterdir())[0]
    safetensors.torch.save_file({"nothing/exp_avg": torch.ones(2)}, file)
    names = [
        "model.safetensors",
        "training.pt",
        *(f"moments/{p.name}" for p in file.parent.iterdir()),
    ]
    write_manifest(folder, 4, names)
    command = ["train", tiny_experiment, *REST, "--out", run]
    assert main([str(a) for a in command]) == 1
    assert "fits no parameter" in capsys.readouterr().err
