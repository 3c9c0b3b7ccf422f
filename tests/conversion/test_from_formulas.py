"""Formulas of distance that one run found, as fixed functions of another."""

import shutil

import pytest
import safetensors.torch
import torch

from nanogpkant.cli import main
from nanogpkant.config import load_config
from nanogpkant.conversion.formulas import stretched
from nanogpkant.kan import kan_layers
from nanogpkant.kan.curve import DistanceCurve
from nanogpkant.model.counting import count
from nanogpkant.run.checkpoint import load_checkpoint
from nanogpkant.run.folder import FORMULAS, open_run
from nanogpkant.run.load import load_model

SHAPE = ["--model.kan.sites", "[]", "--model.n_layer", "3", "--model.n_head", "4"]
SHAPE += ["--model.block_size", "24", "--model.curve.beyond", "linear"]


@pytest.fixture(scope="module")
def source(tiny_experiment, no_pictures, tmp_path_factory):
    """A run of 2 blocks, 2 heads and 16 distances whose curves were interpreted."""
    out = tmp_path_factory.mktemp("runs") / "source"
    flags = ["--model.position", "curve", "--model.conv", "curve", "--model.kan.sites", "[]"]
    flags += ["--optim.function_learning_rate", "0.1", "--out", str(out)]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    assert main(["interpret", str(out), "--budget", "64", "--device", "cpu"]) == 0
    return out


def train(experiment, source, out, *flags: str) -> int:
    return main(
        ["train", str(experiment), "--train.from_formulas", str(source), "--out", str(out), *flags]
    )


@pytest.fixture(scope="module")
def run(tiny_experiment, source, tmp_path_factory):
    """A larger run with the formulas, and an optimiser that would change what it may."""
    out = tmp_path_factory.mktemp("runs") / "frozen"
    assert train(tiny_experiment, source, out, *SHAPE, "--optim.function_weight_decay", "0.5") == 0
    return out


def curves(model) -> dict[str, DistanceCurve]:
    return {n: m for n, m in kan_layers(model).items() if isinstance(m, DistanceCurve)}


def test_they_are_the_formulas_and_stay(run, source) -> None:
    formulas = safetensors.torch.load_file(source / "interpret" / FORMULAS)
    trained = load_model(run, "last")
    assert len(curves(trained.model)) == 6
    of_block = {0: 0, 1: 0, 2: 1}  # round(0.5) is 0
    for name, curve in curves(trained.model).items():
        _, block, place = name.split(".", 2)
        wanted = formulas[f"blocks.{of_block[int(block)]}.{place}"][[0, 0, 1, 1]]
        distances = 24 if place == "attention.bias" else 4
        wanted = stretched(wanted, distances, "linear")
        with torch.no_grad():
            torch.testing.assert_close(curve.of(torch.arange(distances)), wanted, rtol=0, atol=0)
        assert not curve.weight.requires_grad


def test_they_are_not_trained_or_counted(run) -> None:
    trained = load_model(run, "last")
    learned = sum(p.numel() for p in trained.model.parameters() if p.requires_grad)
    assert count(trained.config.model, trained.tokenizer.vocab_size).parameters == learned
    state = load_checkpoint(open_run(run), "last").training()["optimizer"]["state"]
    assert len(state) == sum(p.requires_grad for p in trained.model.parameters())


def test_it_resumes_and_repeats_bit_for_bit(tiny_experiment, run, source, tmp_path) -> None:
    flags = [*SHAPE, "--optim.function_weight_decay", "0.5"]
    short, again = tmp_path / "short", tmp_path / "again"
    half = ["--train.max_iters", "8", "--optim.lr_decay_iters", "12"]
    assert train(tiny_experiment, source, short, *flags, *half) == 0
    rest = ["--resume", "--train.max_iters", "12", "--out", str(short)]
    assert main(["train", str(tiny_experiment), *rest]) == 0
    assert main(["train", str(run / "config.yaml"), "--out", str(again)]) == 0
    wanted = load_checkpoint(open_run(run), "last").weights()
    for other in (short, again):
        found = load_checkpoint(open_run(other), "last").weights()
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert load_config(again / "config.yaml") == load_config(run / "config.yaml")


def test_a_run_with_formulas_is_sampled_exported_and_interpreted(run, tmp_path, capsys) -> None:
    assert main(["sample", str(run), "--tokens", "40", "--device", "cpu"]) == 0
    shared = tmp_path / "shared"
    assert main(["export", str(run), "--out", str(shared)]) == 0
    for name, weight in load_model(shared).model.state_dict().items():
        if name.endswith("bias.weight"):
            assert torch.equal(weight, load_model(run).model.state_dict()[name])
    assert main(["interpret", str(run), "--budget", "64", "--out", str(tmp_path / "i")]) == 0
    assert "(+0.0000) with what it started from" in capsys.readouterr().out


def test_beyond_their_distances_they_go_on_as_configured() -> None:
    values = torch.tensor([[3.0, 2.0, 0.0]])
    assert stretched(values, 2, "clamp").tolist() == [[3, 2]]
    assert stretched(values, 5, "clamp").tolist() == [[3, 2, 0, 0, 0]]
    assert stretched(values, 5, "linear").tolist() == [[3, 2, 0, -2, -4]]


@pytest.mark.usefixtures("trained_here")
def test_an_experiment_knows_its_runs_again(source, corpus, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "freeze.yaml"
    file.write_text(
        f"""\
about: formulas against ALiBi
variants:
  - {{preset: quickstart_gpt, name: formulas, overrides: {{train.from_formulas: '{source}'}}}}
  - {{preset: quickstart_gpt, name: alibi, overrides: {{model.position: alibi}}}}
overrides:
  model: {{n_layer: 1, n_head: 2, n_embd: 8, block_size: 16}}
  train: {{batch_size: 2, eval_interval: 2, sample_tokens: 0, device: cpu, dtype: float32}}
data: {{dataset: corpus, file: '{corpus}'}}
seeds: [1]
budget: {{iterations: 2}}
""",
        encoding="utf-8",
    )
    assert main(["experiment", str(file)]) == 0
    capsys.readouterr()
    assert main(["experiment", str(file), "--dry_run", "--json"]) == 0
    assert capsys.readouterr().out.count('"finished"') == 2


def test_what_cannot_be_is_said_in_one_line(
    tiny_experiment, tiny_run, source, tmp_path, capsys
) -> None:
    curve_run = shutil.copytree(source, tmp_path / "copy")
    file = curve_run / "interpret" / FORMULAS
    values = safetensors.torch.load_file(file)
    partial = {name: each for name, each in values.items() if "blocks.1" not in name}

    def refused(run, *flags: str) -> str:
        capsys.readouterr()
        assert train(tiny_experiment, run, tmp_path / "x", *flags) in (1, 2)
        assert not (tmp_path / "x").exists()
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "nowhere is not a run" in refused("nowhere")
    assert "it has no curves of distance" in refused(tiny_run)
    assert "give one of them" in refused(source, "--train.init_from", str(tiny_run))
    for flag, value in (("position", "rope"), ("curve.knots", "7"), ("conv", "taps")):
        assert f"leave --model.{flag} {value} out" in refused(source, f"--model.{flag}", value)
    damages = {
        "has no formulas of blocks.1.attention.bias": safetensors.torch.save(partial),
        "is not of this run": safetensors.torch.save({n: v[:1] for n, v in values.items()}),
        "is damaged": b"nothing",
    }
    for words, content in damages.items():
        file.write_bytes(content)
        assert words in refused(curve_run)
    file.unlink()
    line = refused(curve_run)
    assert "there is no" in line
    assert line.endswith(f"nanogpkant interpret {curve_run}")
