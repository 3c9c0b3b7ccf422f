"""The model of the other kind that costs as much: by counting against the counted, by timing."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanogpkant.cli import main
from nanogpkant.config import load_config, load_preset, with_changes
from nanogpkant.measure import match as matching
from nanogpkant.measure.match import nearest_size
from nanogpkant.measure.timing import Timing
from nanogpkant.model.counting import count
from nanogpkant.model.gpt import GPT

PRESETS = ("shakespeare_char_micro_kan", "quickstart_kan", "quickstart_gpt")
ATTRIBUTES = {"params": "parameters", "flops": "flops_per_token"}


def match(capsys, *arguments: str) -> dict:
    assert main(["match", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("by", ATTRIBUTES)
@pytest.mark.parametrize("vary", [["n_embd"], ["n_layer"], ["mlp_ratio"], []], ids=" ".join)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_file_that_is_written_costs_what_it_says(preset, vary, by, tmp_path, capsys):
    out = tmp_path / "matched.yaml"
    flags = ["--by", by, "--out", str(out), *(["--vary", *vary] if vary else [])]
    found = match(capsys, preset, *flags)
    reference, matched = load_preset(preset)[1], load_preset(str(out))[1]
    assert bool(matched.model.kan.sites) != bool(reference.model.kan.sites)
    with torch.device("meta"):  # nothing is allocated, and what is counted is what is built
        model = GPT(matched.model, 65)
    built = sum(p.numel() for p in model.parameters())
    assert count(matched.model, 65).parameters == built
    cost, wanted = (getattr(count(c.model, 65), ATTRIBUTES[by]) for c in (matched, reference))
    assert found["mismatch"] == pytest.approx(cost / wanted - 1)
    assert found["within_tolerance"] == (abs(found["mismatch"]) <= 0.01)
    assert f"{abs(found['mismatch']):.2%}" in matched.about
    if not vary:
        assert found["within_tolerance"]  # what the flags' defaults promise
    assert (matched.train, matched.optim, matched.data) == (
        reference.train,
        reference.optim,
        reference.data,
    )


def test_a_preset_matched_by_hand_is_found(capsys):
    found = match(capsys, "shakespeare_char_micro_kan", "--vary", "n_layer")
    by_hand = load_preset("shakespeare_char_matched")[1].model
    assert found["config"]["model"]["n_layer"] == by_hand.n_layer == 20


def test_one_number_that_cannot_reach_a_percent_says_so_and_a_second_mends_it(capsys):
    assert main(["match", "shakespeare_mini_kan", "--vary", "n_layer"]) == 0
    captured = capsys.readouterr()
    assert "this misses 1%; --vary n_layer mlp_ratio may come closer" in captured.err
    assert captured.out.startswith("about:")
    found = match(capsys, "shakespeare_mini_kan", "--vary", "n_layer", "mlp_ratio")
    assert found["within_tolerance"]
    assert found["config"]["model"]["mlp_ratio"] != 4


def test_a_kan_can_be_matched_to_another_kan(tmp_path, capsys):
    flags = ["--kind", "kan", "--kan", "shakespeare_mini_kan", "--out", str(tmp_path / "m.yaml")]
    assert match(capsys, "shakespeare_char_micro_kan", *flags)["within_tolerance"]
    kan = load_config(tmp_path / "m.yaml").model.kan
    assert kan == load_preset("shakespeare_mini_kan")[1].model.kan


@given(
    start=st.integers(1, 5000),
    wanted=st.floats(0.5, 5000),
    power=st.floats(0.3, 2),
    offset=st.floats(0, 3),
)
def test_the_nearest_size_is_that_of_trying_all(start, wanted, power, offset):
    def ratio(size: int) -> float:
        calls.append(size)
        return (offset + size**power) / (offset + wanted**power)

    calls: list[int] = []
    size, found = nearest_size(ratio, start, 0.0)
    assert len(calls) <= 40
    best = min(range(1, 5002), key=lambda k: abs(math.log(ratio(k))))
    assert found == ratio(size)
    assert abs(math.log(found)) == pytest.approx(abs(math.log(ratio(best))))


def test_step_times_are_matched_with_few_measurements(monkeypatch, tmp_path, capsys):
    """With a machine on which a step takes as long as its FLOPs and its layers say."""
    timed = []

    def step(job):
        return job.flops / 1e9 + 0.3 * job.config.n_layer

    def interleaved(tasks, repeats, device, progress):
        timed.append(tasks)
        return {name: Timing(1.1 * ms, ms, 2 * ms, repeats) for name, ms in tasks.items()}

    monkeypatch.setattr(matching, "step", step)
    monkeypatch.setattr(matching, "interleaved", interleaved)
    flags = ["--by", "step_time", "--device", "cpu", "--dtype", "float32"]
    found = match(capsys, "shakespeare_mini_kan", *flags)
    assert found["within_tolerance"]
    assert found["mismatch_of_medians"] == pytest.approx(found["mismatch"])
    assert len(timed) <= 12
    assert "by the medians" in found["config"]["about"]
    assert "batch 16 x 128" in found["config"]["about"]


def test_memory_is_matched(monkeypatch, capsys):
    monkeypatch.setattr(matching, "step_memory", lambda job: 10**7 + job.config.n_embd * 10**6)
    flags = ["--by", "memory", "--device", "cpu", "--vary", "n_embd"]
    found = match(capsys, "shakespeare_mini_kan", *flags)
    assert found["config"]["model"]["n_embd"] == 96
    assert found["mismatch"] == 0


@pytest.mark.parametrize(("peak", "words"), [(None, "did not fit"), (0, "too small to see")])
def test_memory_that_cannot_be_measured_is_no_match(peak, words, monkeypatch, capsys):
    monkeypatch.setattr(matching, "step_memory", lambda job: peak)
    assert main(["match", "shakespeare_mini_kan", "--by", "memory", "--device", "cpu"]) == 1
    assert words in capsys.readouterr().err


def test_real_steps_are_timed(tiny_experiment, capsys):
    flags = ["--by", "step_time", "--device", "cpu", "--dtype", "float32", "--repeats", "1"]
    found = match(capsys, str(tiny_experiment), *flags, "--vary", "n_layer")
    assert found["value"] > 0
    assert found["reference_value"] > 0
    assert found["config"]["model"]["kan"]["sites"] == []


@pytest.mark.parametrize(
    ("flags", "words", "status"),
    [
        (["nothing"], "unknown preset nothing", 2),
        (["shakespeare_mini_kan", "--by", "weight"], "--by", 2),
        (["shakespeare_mini_kan", "--vary", "n_embd", "n_embd"], "name each once", 2),
        (["shakespeare_mini_kan", "--vary", "n_head"], "--vary n_head: must be any of", 2),
        (["shakespeare_mini_kan", "--out", "matched.txt"], "ends in .yaml", 2),
        (["shakespeare_mini_kan", "--repeats", "0"], "--repeats 0", 2),
        (["shakespeare_mini_kan", "--batch_size", "-1"], "--batch_size -1", 2),
        (["shakespeare_mini_kan", "--vocab_size", "0"], "--vocab_size 0", 2),
        (["quickstart_gpt", "--kan", "quickstart_gpt"], "without KAN layers", 2),
        (["shakespeare_mini_kan", "--by", "memory", "--device", "toaster"], "--device toaster", 2),
        (["shakespeare_mini_kan", "--var", "n_embd"], "did you mean --vary?", 2),
    ],
)
def test_bad_flags(flags, words, status, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["match", *flags]) == status
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_is_not_written_over(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("about: years of work\n", encoding="utf-8")
    assert main(["match", "shakespeare_mini_kan", "--out", str(tmp_path / "mine.yaml")]) == 2
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8") == "about: years of work\n"


def test_widths_keep_pairs_of_rope_and_groups_whole(tmp_path, capsys):
    preset = tmp_path / "rope.yaml"
    shape = "{n_layer: 2, n_head: 3, n_embd: 72, block_size: 32, position: rope"
    preset.write_text(f"model: {shape}, kan: {{sites: [mlp_in], share: 'group:8'}}}}\n", "utf-8")
    for kind in ("plain", "kan"):
        found = match(capsys, str(preset), "--vary", "n_embd", "--kind", kind, "--kan", str(preset))
        width = found["config"]["model"]["n_embd"]
        assert width % (24 if kind == "kan" else 6) == 0


def test_a_width_below_its_smallest_step_starts_at_one_step():
    model = with_changes(load_preset("quickstart_kan")[1].model, **{"kan.share": "group:1024"})
    size_of, resized = matching.SIZES["n_embd"]
    assert size_of(model) == 1
    assert resized(model, 1).n_embd == matching.unit(model) == 1024
