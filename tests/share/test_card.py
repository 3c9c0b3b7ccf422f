"""The model card: read back by huggingface_hub, and held to the run's own figures."""

import math
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from nanogpkant.cli import main
from nanogpkant.model.gpt import GPT
from nanogpkant.run.load import load_model
from nanogpkant.run.metrics import read_metrics


def card_of(run: Path, to: Path, *flags: str) -> ModelCard:
    assert main(["export", str(run), "--out", str(to), *flags]) == 0
    return ModelCard.load(to / "README.md")


def rows_of(card: ModelCard) -> dict[str, str]:
    """The table of figures."""
    lines = [line for line in card.text.splitlines() if line.startswith("| ")]
    return dict(tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines)


def test_the_hub_reads_the_evaluation(tiny_run: Path, tmp_path: Path):
    card = card_of(tiny_run, tmp_path / "to", "--license", "mit")
    trained = load_model(tiny_run)
    val = {r["step"]: r for r in read_metrics(tiny_run / "metrics.jsonl") if r["split"] == "val"}
    measured = {r.metric_type: r.metric_value for r in card.data.eval_results}
    loss = val[trained.step]["loss"]
    assert measured["loss"] == loss
    assert measured["perplexity"] == pytest.approx(math.exp(loss))
    assert measured["bits_per_character"] == pytest.approx(loss / math.log(2))
    assert card.data.license == "mit"
    assert card.data.library_name == "nanogpkant"
    assert "kolmogorov-arnold-network" in card.data.tags
    assert card.data.eval_results[0].dataset_type == "corpus"


def test_the_table_is_the_run(tiny_run: Path, tmp_path: Path):
    card = card_of(tiny_run, tmp_path / "to")
    rows = rows_of(card)
    trained = load_model(tiny_run)
    model = GPT(trained.config.model, trained.tokenizer.vocab_size)
    assert rows["parameters"] == f"{sum(p.numel() for p in model.parameters()):,}"
    assert rows["weights stored in"] == "float32"
    assert rows["data"] == "corpus"
    assert "mlp_in, mlp_out are KAN layers" in card.text
    assert card.data.license is None
    written = (tiny_run / "samples.txt").read_text(encoding="utf-8").strip("\n")
    assert written.splitlines()[0] in card.text


def test_a_run_without_evaluations_says_so(tiny_run: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / "samples.txt").unlink()
    for without in ("metrics.jsonl's rows", "metrics.jsonl"):
        if without == "metrics.jsonl":
            (run / "metrics.jsonl").unlink()
        else:
            (run / "metrics.jsonl").write_text("", encoding="utf-8")
        to = tmp_path / f"to-{len(without)}"
        card = card_of(run, to)
        assert rows_of(card)["validation loss"] == "not evaluated at this step"
        assert card.data.eval_results is None
        assert "What it writes" not in card.text
        assert main(["sample", str(to), "--tokens", "3"]) == 0


def test_a_plain_gpt_has_no_kan_on_its_card(tiny_experiment: Path, tmp_path: Path):
    flags = ["--model.kan.sites", "[]", "--train.max_iters", "1", "--train.sample_tokens", "0"]
    assert main(["train", str(tiny_experiment), *flags, "--out", str(tmp_path / "run")]) == 0
    card = card_of(tmp_path / "run", tmp_path / "to")
    assert card.data.tags == ["nanogpkant"]
    assert "projections are plain" in card.text


def test_a_byte_is_no_character(tiny_experiment: Path, corpus: Path, tmp_path: Path):
    data = ["--dir", str(tmp_path / "data")]
    prepared = ["prepare", "bytes", "--file", str(corpus), "--tokenizer", "byte", *data]
    assert main(prepared) == 0
    flags = ["--data.dataset", "bytes", "--data.dir", str(tmp_path / "data")]
    flags += ["--train.max_iters", "1", "--out", str(tmp_path / "run")]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    card = card_of(tmp_path / "run", tmp_path / "to")
    assert {r.metric_type for r in card.data.eval_results} == {"loss", "perplexity", "accuracy"}
    assert "bits per character" not in rows_of(card)


def test_flops_do_not_depend_on_the_format(tiny_experiment: Path, tmp_path: Path):
    """transformers' folder has the scales of splines multiplied in: fewer parameters, same work."""
    run = tmp_path / "run"
    flags = ["--model.kan.spline_scale", "true", "--train.max_iters", "2"]
    assert main(["train", str(tiny_experiment), "--out", str(run), *flags]) == 0
    tables = [rows_of(card_of(run, tmp_path / f"to_{f}", "--format", f)) for f in ("run", "hf")]
    assert tables[0]["parameters"] > tables[1]["parameters"]
    name = "FLOPs per token of training"
    assert tables[0][name] == tables[1][name]
