"""nanogpkant plan: what it says, what it refuses, and what it would change."""

import json
import math
from pathlib import Path

import pytest
import torch

from nanogpkant.cli import main
from nanogpkant.config import load_preset, with_settings
from nanogpkant.measure.memory import Sketch, estimate
from nanogpkant.measure.place import CARDS, SHARE_OF_PEAK, bytes_of
from nanogpkant.measure.plan import USABLE, duration, size
from nanogpkant.measure.remedy import Setup, remedy
from nanogpkant.model.counting import GPT2_TOKENS, count


def plan(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict:
    assert main(["plan", *arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_the_issues_command(capsys):
    found = plan(capsys, "gpt2_kan", "--gpus", "8", "--memory", "80GB", "--gpu", "h100")
    config = load_preset("gpt2_kan")[1]
    counted = count(config.model, GPT2_TOKENS)
    assert found["parameters"] == counted.parameters
    assert found["tokens_per_step"] == 491_520 and found["tokens"] == 600_000 * 491_520
    assert found["sequences_per_gpu"] == 12 and found["gpus"] == 8 and found["fits"]
    expected = estimate(Sketch(config.model, GPT2_TOKENS), 12, "bfloat16", "cuda")
    assert found["memory"] == vars(expected) | {"total": expected.total}
    flops = 491_520 / 8 * counted.flops_per_token
    rate = SHARE_OF_PEAK * CARDS["h100"].half * 1e12
    assert found["flops_rate"] == rate and "assumed" in found["flops_rate_source"]
    assert found["seconds_per_step"] == pytest.approx(flops / rate)
    assert found["seconds"] == pytest.approx(600_000 * flops / rate)


def test_it_agrees_with_nanogpts_own_run(capsys):
    """124M parameters on 8 A100 of 40 GB: about 4 days, with 12 sequences a card."""
    found = plan(capsys, "gpt2", "--gpus", "8", "--gpu", "a100", "--memory", "40GB")
    assert found["fits"] and found["sequences_per_gpu"] == 12
    assert found["seconds"] / 86400 == pytest.approx(4, rel=0.1)


def test_words_say_the_same(capsys):
    assert main(["plan", "gpt2", "--gpus", "8", "--nodes", "2", "--gpu", "a100"]) == 0
    text = capsys.readouterr().out
    for words in ("124.44 M", "491,520 tokens", "16 x a100 on 2 nodes, ddp", "294,912,000,000"):
        assert words in text
    assert "46.7 hours" in text and "activations" in text


def test_where_there_is_no_gpu_one_is_assumed(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert plan(capsys, "gpt2", "--gpus", "8")["device"] == "a100"
    cpu = ["--train.device", "cpu", "--gpus", "2", "--flops_rate", "0.1"]
    found = plan(capsys, "quickstart_kan", *cpu)
    assert found["device"] != "a100" and found["flops_rate"] == 0.1e12
    one = plan(capsys, "quickstart_kan", "--train.device", "cpu", "--flops_rate", "0.1")
    assert found["memory_limit"] == one["memory_limit"] // 2  # one machine's memory, shared


def test_growing_grids_are_said(capsys):
    command = ["plan", "shakespeare_char_micro_kan", "--gpu", "a100"]
    assert main([*command, "--grid.refine_at", "{400: 20}"]) == 0
    assert "grids change in training" in capsys.readouterr().err


def test_float32_is_slower_and_larger(capsys):
    half = plan(capsys, "gpt2", "--gpus", "8", "--gpu", "a100")
    full = plan(capsys, "gpt2", "--gpus", "8", "--gpu", "a100", "--train.dtype", "float32")
    assert full["seconds"] / half["seconds"] == pytest.approx(312 / 19.5)
    assert full["memory"]["total"] > half["memory"]["total"]


def test_uneven_rows_cost_as_much_as_the_fullest_gpu(capsys):
    uneven = plan(capsys, "gpt2", "--gpus", "8", "--gpu", "a100", "--train.batch_size", "97")
    even = plan(capsys, "gpt2", "--gpus", "8", "--gpu", "a100", "--train.batch_size", "104")
    assert uneven["sequences_per_gpu"] == even["sequences_per_gpu"] == 13
    assert uneven["memory"] == even["memory"]
    assert uneven["seconds_per_step"] == even["seconds_per_step"]
    assert uneven["tokens_per_step"] < even["tokens_per_step"]


def test_a_prepared_text_gives_vocabulary_and_epochs(tiny_experiment, tiny_run, capsys):
    found = plan(capsys, str(tiny_experiment), "--flops_rate", "1")
    tokens = 12 * 4 * 16
    assert found["vocab_size"] == 20
    assert found["tokens"] == tokens
    assert found["epochs"] == pytest.approx(tokens / 5403, rel=0.01)  # 90% of the characters


def test_a_budget_of_seconds_ends_the_run(capsys):
    flags = ["--gpus", "8", "--gpu", "a100", "--train.max_seconds", "3600"]
    found = plan(capsys, "gpt2", *flags)
    assert found["steps"] == math.ceil(3600 / found["seconds_per_step"])
    assert found["tokens"] == found["steps"] * 491_520


def test_steps_are_timed_here(tiny_experiment, tiny_run, capsys):
    found = plan(capsys, str(tiny_experiment))
    assert "measured here" in found["flops_rate_source"]
    assert 0 < found["seconds_per_step"] < 10


def test_what_does_not_fit_is_refused_with_the_smallest_remedy(capsys):
    arguments = ["plan", "gpt2", "--gpus", "8", "--memory", "10GB", "--gpu", "a100"]
    assert main([*arguments, "--json"]) == 1
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert not found["fits"] and found["memory"]["total"] > USABLE * 10e9
    (line,) = printed.err.strip().splitlines()
    assert line == f"error: {found['refusal']}"
    flags = ["--train.batch_size", "48", "--train.grad_accum_steps", "10"]
    assert f"; {' '.join(flags)} needs" in line
    assert main([*arguments, *flags]) == 0
    too_large = ["--train.batch_size", "60", "--train.grad_accum_steps", "8"]  # the next larger
    assert main([*arguments, *too_large]) == 1


def test_where_smaller_passes_do_not_help_the_model_is_sharded(capsys):
    deep = ["gpt2", "--gpus", "8", "--gpu", "a100", "--model.n_layer", "600"]
    one_pass = ["--train.batch_size", "8", "--train.grad_accum_steps", "1"]
    arguments = [*deep, *one_pass, "--model.block_size", "128"]
    refusal = plan(capsys, *arguments, status=1)["refusal"]
    assert "; --train.parallel fsdp needs" in refusal
    plan(capsys, *arguments, "--train.parallel", "fsdp")
    muon = [*arguments, "--optim.name", "muon"]  # has fewer moments, and cannot be sharded
    plan(capsys, *muon)
    refusal = plan(capsys, *muon, "--model.n_layer", "800", status=1)["refusal"]
    assert "fsdp" not in refusal
    assert "lower --model.n_embd" in refusal


def test_a_model_that_nothing_makes_fit(capsys):
    refusal = plan(capsys, "gpt2", "--memory", "1GB", "--gpu", "a100", status=1)["refusal"]
    assert "lower --model.n_embd" in refusal


def test_on_a_cpu_smaller_passes_are_all_that_helps(capsys):
    here = ["gpt2", "--train.device", "cpu", "--train.dtype", "bfloat16"]
    refusal = plan(capsys, *here, "--memory", "4GB", status=1)["refusal"]
    assert "; --train.batch_size" in refusal
    refusal = plan(capsys, *here, "--memory", "1GB", status=1)["refusal"]
    assert "no batch helps" in refusal and "GPU" not in refusal


@pytest.mark.parametrize(
    ("most_sequences", "parallel", "expected"),
    [
        (12, "ddp", "--train.batch_size 12 --train.grad_accum_steps 8"),
        (5, "ddp", "--train.batch_size 4 --train.grad_accum_steps 24"),
        (0.5, "fsdp", "--train.parallel fsdp --gpus 8"),  # smaller passes alone, and more GPUs
    ],
)
def test_the_order_of_remedies(most_sequences, parallel, expected):
    setup = Setup(96, 1, 1, 1, "ddp")

    def fits(other: Setup) -> bool:
        assert other.batch_size * other.passes == 96
        share = other.sequences if other.batch_size > 1 else math.inf
        if other.shards == 8:
            return True
        return other.parallel == parallel == "ddp" and share <= most_sequences

    found = remedy(setup, fits)
    assert found.flags(setup) == expected


def test_more_than_a_nodes_gpus_are_more_nodes():
    setup = Setup(512, 1, 8, 1, "ddp")
    assert remedy(setup, lambda other: other.world == 32).flags(setup) == "--nodes 4"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80GB", 80 * 10**9),
        ("80 gb", 80 * 10**9),
        ("80GiB", 80 * 2**30),
        ("0.5TB", 5 * 10**11),
        ("24576MiB", 24 * 2**30),
    ],
)
def test_units_of_memory(text, expected):
    assert bytes_of(text) == expected


BAD_FLAGS = [
    (["--gpus", "0"], "--gpus 0: must be at least 1"),
    (["--nodes", "-1"], "--nodes -1: must be at least 1"),
    (["--vocab_size", "0"], "--vocab_size 0: must be at least 1"),
    (["--memory", "lots"], "--memory lots: must be a number"),
    (["--memory", "80"], "--memory 80: must be a number"),
    (["--memory", "0GB"], "--memory 0GB: must be a number"),
    (["--memory", "-3GB"], "--memory"),
    (["--memory", "1e3GB"], "--memory 1e3GB: must be a number"),
    (["--gpu", "abacus"], "abacus"),
    (["--flops_rate", "0"], "--flops_rate 0.0: must be above 0"),
    (["--flops_rate", "inf"], "--flops_rate inf: must be"),
    (["--gpus", "97"], "fewer sequences than there are GPUs, 97"),
    (["--gpuss", "8"], "did you mean --gpus?"),
    (["--data.dataset", "mine"], "--vocab_size"),
    (["--train.parallel", "both"], "train.parallel"),
    (["--model.kan.sites", "[qkv]", "--model.kan.backend", "reference"], "backend reference"),
    (["--model.kan.sites", "[qkv]", "--model.kan.share", "group:7"], "7 groups"),
]


@pytest.mark.parametrize(("flags", "words"), BAD_FLAGS, ids=lambda v: "".join(v)[:40])
def test_bad_flags_get_one_line(flags, words, capsys):
    assert main(["plan", "gpt2", *flags]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.strip().splitlines()
    assert line.startswith("error: ") and words in line


def test_a_damaged_text_is_said(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    mine = ["--data.dataset", "mine", "--data.dir", str(tmp_path)]
    assert main(["plan", "gpt2", *mine]) == 1
    assert "damaged" in capsys.readouterr().err


def test_a_yaml_file_of_ones_own(tmp_path: Path, capsys):
    config = with_settings(load_preset("gpt2")[1], {"model.n_layer": 1})
    path = tmp_path / "own.yaml"
    path.write_text(f"model: {{n_layer: {config.model.n_layer}}}\n", encoding="utf-8")
    found = plan(capsys, str(path), "--vocab_size", "100", "--gpu", "h100")
    assert found["preset"] == "own" and found["vocab_size"] == 100


def test_numbers_as_people_read_them():
    assert size(13_790_000_000) == "13.79 GB" and size(3_885_312) == "3.9 MB"
    assert duration(59) == "59.0 s" and duration(600) == "10.0 minutes"
    assert duration(86400 * 3.9) == "3.9 days"
