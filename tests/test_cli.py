"""The command line: what each verb prints, and the one line that bad input gets."""

import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import torch

from nanogpkant.cli import VERBS, function_of, main
from nanogpkant.config import RunConfig, field_names, preset_names
from nanogpkant.run.metrics import read_metrics
from nanogpkant.verbs import flags


def error_line(capsys: pytest.CaptureFixture[str], *arguments: str, status: int) -> str:
    """Run a command that must fail with this status and exactly one line."""
    assert main(list(arguments)) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("error: ")
    return line


BAD_SETTINGS = [
    (["--model.n_embd", "100"], "multiple of --model.n_head 6; 102 would be"),
    (["--model.kan.grid_size", "0"], "--model.kan.grid_size 0"),
    (["--model.kan.spline_order", "6"], "must be 1 to 5"),
    (["--model.kan.grid_range", "[1, -1]"], "--model.kan.grid_range [1.0, -1.0]"),
    (["--model.kan.sites", "[mlp_in, mlp_in]"], "twice"),
    (["--model.kan.sites", "[everything]"], "--model.kan.sites"),
    (["--model.n_layer", "0"], "--model.n_layer 0"),
    (["--model.mlp_ratio", "-1"], "--model.mlp_ratio -1"),
    (["--model.mlp_ratio", "0.001"], "leaves the MLP no width at all"),
    (["--model.dropout", "1"], "below 1"),
    (["--model.dropout", "nan"], "--model.dropout nan"),
    (["--optim.learning_rate", "-1"], "--optim.learning_rate -1"),
    (["--optim.min_lr", "1"], "--optim.learning_rate"),
    (["--optim.lr_decay_iters", "100"], "above --optim.warmup_iters 100"),
    (["--train.max_iters", "0"], "--train.max_iters 0"),
    (["--train.max_iters", "abc"], "--train.max_iters abc: must be a whole number"),
    (["--train.max_seconds", "0"], "--train.max_seconds 0.0: must be above 0"),
    (["--optim.kan_weight_decay", "x"], "--optim.kan_weight_decay x: must be a number or null"),
    (["--model.kan.sites", "qkv"], "--model.kan.sites qkv: must be a list such as [a, b]"),
    (["--train.dtype", "float8"], "train.dtype"),
    (["--train.dtype", "float16", "--train.device", "cpu"], "float16"),
    (["--train.device", "toaster"], "must be auto, cpu, cuda"),
    (["--train.seed", "5000000000"], "--train.seed 5000000000"),
    (["--model.kan.grid_range", "[-1e308, 1e308]"], "--model.kan.grid_range"),
    (["--train.keep_every", "100"], "multiple of --train.eval_interval 250"),
    (["--model.n_embdd", "3"], "did you mean --model.n_embd?"),
    (["--n_embd", "3"], "did you mean --model.n_embd?"),
    (["--data.dataset", "shakespear_char"], "did you mean shakespeare_char"),
]


@pytest.mark.parametrize(("flags", "words"), BAD_SETTINGS, ids=lambda v: "".join(v)[:40])
def test_impossible_settings_are_refused_before_anything_is_loaded(flags, words, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["train", "shakespeare_char_micro", "--out", str(out), "--data.dir", str(tmp_path)]
    assert words in error_line(capsys, *command, *flags, status=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("n_embd", "words", "status"),
    [("6000000000000", "must be at most 1,048,576", 2), ("1048576", "lower --model.n_embd", 1)],
)
def test_a_model_that_no_memory_holds(n_embd, words, status, tiny_experiment, tmp_path, capsys):
    flags = ["--model.n_embd", n_embd, "--out", str(tmp_path / "run")]
    assert words in error_line(capsys, "train", str(tiny_experiment), *flags, status=status)
    assert not (tmp_path / "run").exists()


def test_memory_that_runs_out_is_one_line(tiny_experiment, tmp_path, capsys, monkeypatch):
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("nanogpkant.training.loop.train", fail)
    command = ["train", str(tiny_experiment), "--out", str(tmp_path / "run")]
    assert "out of memory: lower --train.batch_size" in error_line(capsys, *command, status=1)


def test_a_grid_that_no_input_reaches(tiny_experiment, tmp_path, capsys):
    flags = ["--model.kan.grid_range", "[20, 30]", "--out", str(tmp_path / "run")]
    line = error_line(capsys, "train", str(tiny_experiment), *flags, status=2)
    assert "out of reach" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: {n_layr: 2}", "unknown key model.n_layr: did you mean model.n_layer?"),
        ("modell: {n_layer: 2}", "did you mean model?"),
        ("model: 3", "model must hold keys and values"),
        ("- 1", "must hold keys and values"),
        ("model: {n_layer: two}", "--model.n_layer 'two': must be a whole number"),
        ("model: {n_layer: }", "--model.n_layer None: must be a whole number"),
        ("model: {n_layer: true}", "must be a whole number"),
        ("model: {kan: {sites: mlp_in}}", "--model.kan.sites"),
        ("model: {kan: {grid_range: [1]}}", "--model.kan.grid_range"),
        ("model: {init: xavier}", "must be one of gpt2, fan_in"),
        ("a: [", "not a YAML file"),
        ("about: 2024-13-45", "not a YAML file"),
        ("model: {n_embd: 7, n_head: 2}", "multiple of --model.n_head"),
        ("!!python/object/apply:os.system ['touch hacked']", "not a YAML file"),
    ],
)
def test_a_bad_yaml_file_is_named(text, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(text, encoding="utf-8")
    line = error_line(capsys, "train", "mine.yaml", status=2)
    assert "mine.yaml" in line
    assert words in line
    assert [p.name for p in tmp_path.iterdir()] == ["mine.yaml"]


def test_unknown_names_suggest_the_nearest(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "did you mean quickstart_kan?" in error_line(capsys, "train", "quickstart-kan", status=2)
    assert "does not exist" in error_line(capsys, "train", "mine.yaml", status=2)
    assert "did you mean train?" in error_line(capsys, "trian", status=2)
    assert "known are prepare, train" in error_line(capsys, "xyz", status=2)
    assert "unknown dataset" in error_line(capsys, "prepare", "moby_dick", status=2)
    assert "preset" in error_line(capsys, "train", status=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"too short for a block of sixteen", "--model.block_size"),
        (b"caf\xe9 " * 500, "not UTF-8"),
    ],
)
def test_bad_texts(content, words, tiny_experiment, tmp_path, capsys):
    (tmp_path / "text.txt").write_bytes(content)
    flags = ["--data.dataset", "mine", "--data.file", str(tmp_path / "text.txt")]
    flags += ["--data.dir", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    line = error_line(capsys, "train", str(tiny_experiment), *flags, status=1)
    assert words in line
    assert not (tmp_path / "run").exists()


def test_a_text_that_is_not_there(tiny_experiment, tmp_path, capsys):
    flags = ["--data.dataset", "mine", "--data.file", "nowhere.txt", "--out", str(tmp_path / "run")]
    assert "nowhere.txt" in error_line(capsys, "train", str(tiny_experiment), *flags, status=1)


def test_a_dataset_from_the_network_is_not_fetched_unasked(tiny_experiment, tmp_path, capsys):
    flags = ["--data.dataset", "tinyshakespeare_char", "--data.file", "null"]
    flags += ["--data.dir", str(tmp_path), "--out", str(tmp_path / "run")]
    line = error_line(capsys, "train", str(tiny_experiment), *flags, status=1)
    assert "nanogpkant prepare tinyshakespeare_char" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_a_device_that_is_not_there(device, tiny_experiment, tiny_run, tmp_path, capsys):
    flags = ["--train.device", device, "--out", str(tmp_path / "run")]
    line = error_line(capsys, "train", str(tiny_experiment), *flags, status=2)
    assert f"device {device}: this machine has none" in line
    assert "none" in error_line(capsys, "sample", str(tiny_run), "--device", device, status=2)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written(tiny_experiment, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    command = ["train", str(tiny_experiment), "--out", str(tmp_path / "file" / "run")]
    assert "cannot write" in error_line(capsys, *command, status=1)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "in the way"


def test_a_full_disk_stops_training_and_loses_nothing(tiny_experiment, tiny_run, tmp_path):
    """No file may grow past what a checkpoint of twice the width needs: as on a full disk."""
    copy = tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    before = {p: p.read_bytes() for p in copy.rglob("step-*/*")}
    command = ["train", str(tiny_experiment), "--out", str(copy), "--resume"]
    command += ["--train.max_iters", "16"]
    done = subprocess.run(
        [sys.executable, "-m", "nanogpkant.cli", *command],
        capture_output=True,
        encoding="utf-8",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        check=False,
    )
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: cannot write")
    assert "step-000016" in line
    assert all(path.read_bytes() == content for path, content in before.items())
    assert not list(copy.rglob("*.tmp*"))
    assert main(command) == 0


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*arguments])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_the_reader(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(capsys, verb, "--help")
    assert text == help_of(capsys, "help", verb)
    assert "--json" in text
    assert "required" not in text
    assert "(default: null)" not in text
    assert max(map(len, text.splitlines())) <= 80
    parser = flags.parser_of(verb, function_of(verb))
    own = {action.dest: action for action in parser._actions}
    for parameter in flags.own_parameters(function_of(verb)):
        assert own[parameter.name.rstrip("_")].help, f"{verb} does not say what {parameter.name} is"
        default = parameter.default
        if isinstance(default, list):
            default = " ".join(default)
        if isinstance(default, int | float | str) and not isinstance(default, bool):
            assert f"(default: {default})" in " ".join(text.split())
        for choices in (parameter.annotation, *get_args(parameter.annotation)):
            if get_origin(choices) is Literal:
                assert f"{{{','.join(get_args(choices))}}}" in text


def test_help_of_training_shows_the_first_settings_and_how_to_see_all(capsys):
    short = help_of(capsys, "train", "--help")
    shown = [name for name in field_names(RunConfig) if f"--{name} " in short]
    assert sorted(shown) == sorted(flags.FIRST_SETTINGS)
    assert "--help_all" in short
    assert main(["train", "--help_all"]) == 0
    everything = capsys.readouterr().out
    leaves = [n for n in field_names(RunConfig) if n not in ("model", "model.kan")]
    sections = {field.name for field in fields(RunConfig)}
    assert all(f"--{name} " in everything for name in leaves if name not in sections - {"about"})


def test_help_comes_without_loading_torch():
    code = "import sys\nfrom nanogpkant.cli import VERBS, main\n"
    code += "for verb in VERBS:\n  try: main([verb, '--help'])\n  except SystemExit: pass\n"
    code += "main(['--help'])\nassert not {'torch', 'numpy', 'pandas'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_the_verbs_are_listed(capsys):
    assert main([]) == 2
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)
    assert max(map(len, text.splitlines())) <= 110
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.count(".") == 2


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_tab_completion_knows_verbs_and_flags(shell, capsys):
    script = help_of(capsys, "--print_completion", shell)
    assert "interpret" in script
    assert "--train.max_iters" in script
    assert "--print_completion" not in help_of(capsys, "presets", "--help")  # set back


def test_bash_completes_a_verb_and_a_flag(tmp_path, capsys):
    (tmp_path / "script").write_text(help_of(capsys, "--print_completion", "bash"))
    ask = f"source {tmp_path / 'script'}; COMP_WORDS=(nanogpkant {{}}); COMP_CWORD={{}}; "
    ask += "$(complete -p nanogpkant | sed 's/.*-F //; s/ .*//') nanogpkant; echo ${{COMPREPLY[@]}}"
    for words, number, wanted in (("int", 1, "interpret"), ("export --form", 2, "--format")):
        done = subprocess.run(
            ["bash", "-c", ask.format(words, number)], capture_output=True, encoding="utf-8"
        )
        assert wanted in done.stdout.split(), done.stderr


def test_a_config_file_gives_flags(tiny_run, tmp_path, capsys):
    (tmp_path / "how.yaml").write_text("tokens: 7\ndevice: cpu\n", encoding="utf-8")
    command = ["sample", str(tiny_run), "--config", str(tmp_path / "how.yaml"), "--json"]
    assert main(command) == 0
    assert len(json.loads(capsys.readouterr().out)["samples"][0]) == 7
    assert main([*command, "--tokens", "9"]) == 0
    assert len(json.loads(capsys.readouterr().out)["samples"][0]) == 9
    assert "tokens: 500" in help_of(capsys, "sample", str(tiny_run), "--print_config")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vary: [n_embd, {a: 1}]", "--vary {a: 1}: must be text"),
        ("vary: n_embd", "--config: a flag that takes several values needs a list, [a, b]"),
        ("repeats: [3]", "--repeats [3]: must be a whole number"),
        ("nix: 3", "unknown flag --nix"),
    ],
)
def test_a_config_file_that_will_not_do(text, words, tmp_path, capsys):
    (tmp_path / "how.yaml").write_text(text, encoding="utf-8")
    command = ["match", "quickstart_kan", "--config", str(tmp_path / "how.yaml")]
    assert words.replace("'", "") in error_line(capsys, *command, status=2).replace("'", "")


def test_presets_are_listed_and_print_their_configuration(capsys):
    assert main(["presets", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == preset_names()
    for name, row in rows.items():
        assert row["about"]
        assert main(["train", name, "--print_config"]) == 0
        assert f"about: {row['about'][:20]}" in capsys.readouterr().out
    original = rows["shakespeare_char_micro_kan"]
    assert round(original["parameters_without_positions"] / 1e6, 2) == 8.86
    assert main(["presets"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(rows)


def test_runs_are_listed_and_described(tiny_run, tmp_path, capsys):
    shutil.copytree(tiny_run, tmp_path / "tiny")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.yaml").write_text("a: [", encoding="utf-8")
    assert main(["runs", "--folder", str(tmp_path), "--json"]) == 0
    broken, tiny = json.loads(capsys.readouterr().out)
    assert broken["model"] == "damaged" and "config.yaml" in broken["problem"]
    losses = [r["loss"] for r in read_metrics(tiny_run / "metrics.jsonl") if r["split"] == "val"]
    assert (tiny["step"], tiny["max_iters"], tiny["best_val_loss"]) == (12, 12, min(losses))
    assert main(["runs", "--folder", str(tmp_path)]) == 0
    head, _, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "model", "step", "loss", "age"]
    assert "12/12" in line and f"{min(losses):.4f}" in line
    assert main(["info", str(tmp_path / "tiny")]) == 0
    text = capsys.readouterr().out
    assert "12 of 12" in text and f"{losses[-1]:.4g}" in text
    assert main(["runs", "--folder", str(tmp_path / "tiny/checkpoints")]) == 0
    assert "no runs in" in capsys.readouterr().out


def test_print_config_shows_the_flags_and_reads_back(tmp_path, capsys):
    flags = ["--model.n_layer", "3", "--optim.learning_rate", "3e-4", "--print_config"]
    assert main(["train", "quickstart_kan", *flags]) == 0
    text = capsys.readouterr().out
    assert "n_layer: 3" in text
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    assert main(["train", str(tmp_path / "mine.yaml"), "--print_config"]) == 0
    assert capsys.readouterr().out == text


def test_eval_says_what_training_said(tiny_run, capsys):
    assert main(["eval", str(tiny_run), "--json", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    figures = ["loss", "perplexity", "bits_per_char", "accuracy", "tokens", "bits_per_byte"]
    assert list(result) == ["split", *figures]
    rows = [r for r in read_metrics(tiny_run / "metrics.jsonl") if r["split"] == "val"]
    assert result["loss"] == pytest.approx(min(r["loss"] for r in rows), rel=1e-6)
    assert main(["eval", str(tiny_run), "--split", "train", "--random_batches", "3"]) == 0
    assert "nats" in capsys.readouterr().err


def test_sample_writes_json_or_streams(tiny_run, tmp_path, capsys):
    command = ["sample", str(tiny_run), "--tokens", "30", "--device", "cpu", "--seed", "3"]
    assert main([*command, "--prompt", "Speak", "--json", "--samples", "2"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["prompt"] == "Speak"
    assert [len(text) for text in result["samples"]] == [30, 30]
    assert main([*command, "--prompt", "Speak"]) == 0
    streamed = capsys.readouterr().out
    assert streamed.startswith("Speak")
    assert len(streamed) == len("Speak") + 30 + 1
    (tmp_path / "prompt.txt").write_text("Speak", encoding="utf-8")
    assert main([*command, "--prompt_file", str(tmp_path / "prompt.txt")]) == 0
    assert capsys.readouterr().out == streamed
    assert main([*command, "--prompt", "Speak", "--no_cache"]) == 0
    assert capsys.readouterr().out == streamed
    assert main([*command, "--samples", "2"]) == 0
    assert capsys.readouterr().out.count("---") == 2


@pytest.mark.parametrize(
    ("flags", "words", "status"),
    [
        (["--prompt", "Grüße"], "ü", 1),
        (["--prompt", ""], "--prompt is empty", 2),
        (["--prompt", "a", "--prompt_file", "b"], "leave one out", 2),
        (["--prompt_file", "nowhere.txt"], "nowhere.txt", 1),
        (["--temperature", "-1"], "--temperature -1", 2),
        (["--top_k", "0"], "--top_k 0", 2),
        (["--top_p", "1.5"], "--top_p 1.5", 2),
        (["--tokens", "0"], "--tokens 0", 2),
        (["--seed", "99999999999999999999"], "--seed", 2),
        (["--checkpoint", "../.."], "no checkpoint ../..", 1),
        (["--samples", "0"], "--samples 0", 2),
        (["--checkpoint", "step-000005"], "no checkpoint step-000005", 1),
        (["--dtype", "float16", "--device", "cpu"], "float16", 2),
        (["--temprature", "1"], "did you mean --temperature?", 2),
    ],
)
def test_bad_sampling_settings(tiny_run, capsys, flags, words, status):
    assert words in error_line(capsys, "sample", str(tiny_run), *flags, status=status)


@pytest.mark.parametrize("flag", ["batch_size 0", "random_batches -1", "length 0", "length 17"])
def test_bad_evaluation_settings(tiny_run, capsys, flag):
    line = error_line(capsys, "eval", str(tiny_run), *f"--{flag}".split(), status=2)
    assert f"--{flag}" in line


def test_any_temperature_above_zero_can_be_divided_by(tiny_run):
    assert main(["sample", str(tiny_run), "--tokens", "5", "--temperature", "1e-45"]) == 0


def test_a_plot_is_a_png(tiny_run, tmp_path, capsys):
    command = ["compare", str(tiny_run), "--plot", str(tmp_path / "plot.xyz")]
    assert main(command) == 2
    assert "ends in .png" in capsys.readouterr().err


def test_a_name_that_no_file_system_takes(tiny_experiment, tmp_path, capsys):
    out = str(tmp_path / ("x" * 300))
    assert "xxx" in error_line(capsys, "train", str(tiny_experiment), "--out", out, status=1)


def test_prepare_reports_what_it_made(corpus, tmp_path, capsys):
    command = ["prepare", "mine", "--file", str(corpus), "--dir", str(tmp_path), "--json"]
    assert main(command) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["train_tokens"] + made["val_tokens"] == len(corpus.read_text(encoding="utf-8"))
    assert Path(made["folder"]) == tmp_path / "mine"


def test_debug_gives_the_traceback(tmp_path):
    with pytest.raises(Exception, match="is not a run"):
        main(["eval", str(tmp_path), "--debug"])


def test_a_reader_that_leaves_early_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m nanogpkant.cli presets | true",
        shell=True,
        capture_output=True,
        executable="/bin/bash" if Path("/bin/bash").exists() else None,
    )
    assert b"Traceback" not in done.stderr


def test_text_is_utf8_whatever_the_locale_says(tiny_run):
    env = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "nanogpkant.cli", "sample", str(tiny_run), "--prompt", "ü"],
        capture_output=True,
        env=env,
    )
    assert "ü" in done.stderr.decode("utf-8")
