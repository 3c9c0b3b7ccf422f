"""nanogpkant bench: the user's own models, side by side. What it measures is never asserted on."""

import json
from pathlib import Path

import pytest
import torch

from nanogpkant.cli import main
from nanogpkant.config import load_preset, with_changes
from nanogpkant.measure import sampling, step, timing
from nanogpkant.measure.step import Job, step_memory
from nanogpkant.verbs.measure import bench


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(step, "in_a_child", lambda function, *values: function(*values))
    monkeypatch.setattr(step, "extra_peak", lambda task, device: task() or 1)
    monkeypatch.setattr(step, "matmul_rate", lambda dtype, device: 1e9)
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)


@pytest.fixture
def experiments(tiny_experiment, tmp_path) -> list[str]:
    """Two YAML files: a KAN, and the same without KAN layers."""
    text = Path(tiny_experiment).read_text(encoding="utf-8")
    (tmp_path / "plain.yaml").write_text(text.replace("[mlp_in, mlp_out]", "[]"), encoding="utf-8")
    return [str(tiny_experiment), str(tmp_path / "plain.yaml")]


HERE = {"device": "cpu", "dtype": "float32", "repeats": 2, "vocab_size": 20}


def test_steps_side_by_side(experiments, tmp_path):
    found = bench(experiments, **HERE, out=str(tmp_path / "steps.md"))
    first, second = found.rows
    assert (first["model"], second["model"]) == ("tiny", "plain")
    assert first["over first"] == 1
    assert second["over first"] == pytest.approx(second["ms"] / first["ms"])
    for row in found.rows:
        assert 0 < row["min"] <= row["ms"] <= row["max"]
        assert row["batch"] == "4 x 16"
        assert row["peak MB"] >= 0 and row["GFLOP/s"] > 0 and row["over limit"] > 0
    text = (tmp_path / "steps.md").read_text(encoding="utf-8")
    assert "| tiny | 4 x 16 |" in text and found.machine in text


def test_the_batch_size_may_be_given(experiments):
    found = bench(experiments[1:], **HERE, batch_size=2)
    assert found.rows[0]["batch"] == "2 x 16"


def test_sampling_side_by_side(experiments, tmp_path):
    sampled = {"device": "cpu", "repeats": 2, "vocab_size": 20, "tokens": 20}
    found = bench(experiments, what="sample", **sampled, out=str(tmp_path / "sampling.json"))
    rows = [(row["model"], row["sampling"]) for row in found.rows]
    assert rows == [(m, s) for m in ("tiny", "plain") for s in ("uncached", "cached")]
    assert all(row["tokens/s"] > 0 and row["speed-up"] > 0 for row in found.rows)
    assert json.loads((tmp_path / "sampling.json").read_text()) == found.as_dict()


def test_different_texts_get_no_time(experiments, monkeypatch, capsys):
    monkeypatch.setattr(sampling, "write", lambda model, tokens, use_cache, device: [use_cache])
    flags = ["--what", "sample", "--device", "cpu", "--vocab_size", "20"]
    assert main(["bench", *experiments, *flags]) == 1
    assert "tiny: cached and uncached sampling drew different texts" in capsys.readouterr().err


def test_the_command_prints_a_table_or_json(experiments, capsys):
    flags = ["--device", "cpu", "--dtype", "float32", "--repeats", "1", "--vocab_size", "20"]
    assert main(["bench", *experiments, *flags]) == 0
    machine, _, heads, first, second = capsys.readouterr().out.splitlines()
    assert "float32, 1 rounds" in machine
    assert heads.split()[:3] == ["model", "batch", "ms"]
    assert first.startswith("tiny   4 x 16") and second.startswith("plain  4 x 16")
    assert main(["bench", *experiments, *flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert torch.__version__ in found["machine"]
    assert [row["model"] for row in found["rows"]] == ["tiny", "plain"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--repeats", "0"], "--repeats 0: must be at least 1"),
        (["--batch_size", "0"], "--batch_size 0"),
        (["--what", "sample", "--tokens", "0"], "--tokens 0"),
        (["--what", "sample", "--dtype", "float32"], "--dtype: are for --what step"),
        (["--device", "toaster"], "--device toaster"),
        (["--what", "cake"], "--what"),
        (["--out", "table.png"], "ends in .md or .json"),
        (["nobody"], "unknown preset nobody"),
        (["--repeat", "3"], "did you mean --repeats?"),
    ],
)
def test_bad_flags_of_bench(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "quickstart_gpt", *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert words in line
    assert list(tmp_path.iterdir()) == []


def test_memory_of_more_groups_than_eight_inputs():
    model = load_preset("quickstart_kan")[1].model
    shape = {"kan.sites": ["qkv"], "kan.share": "group:16", "n_layer": 1, "block_size": 16}
    job = Job("groups", with_changes(model, **shape), 2, "cpu", "float32")
    assert step_memory(job) > 0
