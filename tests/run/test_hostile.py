"""Files of a run that lie: one line each, before anything is computed or written from them."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest
import torch

from nanogpkant import sample
from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.base.escape import csv_cell, fenced, markdown
from nanogpkant.base.files import parse_json, read_text, sha256_of
from nanogpkant.cli import main
from nanogpkant.config import load_config, read_yaml
from nanogpkant.kan.features import Features
from nanogpkant.run.checkpoint import load_checkpoint, write_weights
from nanogpkant.run.folder import TRAINING, open_run
from nanogpkant.run.metrics import read_metrics


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(copytree(tiny_run, tmp_path / "run"))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")][-1]


def rewrite_training(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what training saved, with a manifest that matches."""
    folder = load_checkpoint(open_run(run), "last").folder
    saved = torch.load(folder / TRAINING, weights_only=True)
    change(saved)
    torch.save(saved, folder / TRAINING)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"][TRAINING] = sha256_of(folder / TRAINING)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def moments(saved: dict[str, Any]) -> dict[str, torch.Tensor]:
    return saved["optimizer"]["state"][0]


TAMPERED = {
    "smaller": lambda s: moments(s).update(exp_avg=torch.zeros(3)),
    "larger": lambda s: moments(s).update(exp_avg_sq=torch.zeros(999, 999)),
    "no step": lambda s: moments(s).pop("step"),
    "more": lambda s: moments(s).update(max_exp_avg_sq=torch.zeros(3)),
    "nan": lambda s: moments(s)["exp_avg"].fill_(math.nan),
    "negative": lambda s: moments(s)["exp_avg_sq"].fill_(-1),
    "negative step": lambda s: moments(s)["step"].fill_(-1),
    "half": lambda s: moments(s).update(exp_avg=moments(s)["exp_avg"].half()),
    "sparse": lambda s: moments(s).update(exp_avg=moments(s)["exp_avg"].to_sparse()),
    "text": lambda s: s["optimizer"]["state"].update({0: "x"}),
    "another parameter": lambda s: s["optimizer"]["state"].update({99: moments(s)}),
    "no groups": lambda s: s["optimizer"].update(param_groups=[]),
    "groups swapped": lambda s: s["optimizer"]["param_groups"].reverse(),
    "another step": lambda s: s.update(step=3),
    "nan seconds": lambda s: s.update(seconds=math.nan),
    "more seconds than a step adds to": lambda s: s.update(seconds=1e300),
    "unknown": lambda s: s.update(extra=1),
    "no optimizer": lambda s: s.pop("optimizer"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_moments_are_compared_with_the_model_before_a_kernel_reads_them(
    how: str, run: Path, tiny_experiment: Path, capsys
):
    rewrite_training(run, TAMPERED[how])
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    flags = ["--resume", "--train.max_iters", "14", "--out", str(run)]
    assert main(["train", str(tiny_experiment), *flags]) == 1
    assert "step-000012" in said(capsys)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_an_index_without_entries_deletes_nothing(run: Path, tiny_experiment: Path, capsys):
    """One checkpoint is found again; of several none is guessed at."""
    index = run / "checkpoints" / "index.json"
    index.write_text("{}", encoding="utf-8")
    copytree(run / "checkpoints" / "step-000012", run / "checkpoints" / "step-000008")
    flags = ["--resume", "--train.max_iters", "14", "--out", str(run)]
    assert main(["train", str(tiny_experiment), *flags]) == 1
    assert "index.json" in said(capsys)
    assert (run / "checkpoints" / "step-000012").is_dir()
    rmtree(run / "checkpoints" / "step-000008")
    assert main(["train", str(tiny_experiment), *flags]) == 0
    assert read_metrics(run / "metrics.jsonl")[0]["step"] == 0


@pytest.mark.parametrize("command", ["sample", "eval", "train", "convert", "info"])
def test_another_vocabulary_of_equal_size_is_refused(
    command: str, run: Path, tiny_experiment: Path, tmp_path: Path, capsys
):
    file = run / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    tokenizer["characters"][-1] = "~"
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    arguments = {
        "train": ["train", str(tiny_experiment), "--out", str(run), "--resume"],
        "convert": ["convert", str(run), "--out", str(tmp_path / "converted")],
    }
    assert main(arguments.get(command, [command, str(run)])) == 1
    assert "vocabulary" in said(capsys)


def test_other_heads_of_the_same_shapes_are_refused(run: Path, capsys):
    text = (run / "config.yaml").read_text(encoding="utf-8")
    (run / "config.yaml").write_text(text.replace("n_head: 2", "n_head: 4"), encoding="utf-8")
    assert main(["sample", str(run)]) == 1
    assert "model.n_head 4" in said(capsys)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOMB, "aliases"),
        ("model: &a [*a]", "aliases"),
        ("about: " + "[" * 5000, "nested too deeply"),
        ("about: x\nabout: y\n", "twice"),
        ("train: {seed: 1, seed: 2}", "twice"),
        ("about: x\n" * 200_000, "bytes"),
        (f"train: {{seed: {'9' * 5000}}}", "not a YAML file"),
        ("model: " + str(list(range(9999))), "must hold keys"),
    ],
)
def test_a_configuration_is_bounded(text: str, problem: str, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=problem) as found:
        load_config(tmp_path / "config.yaml")
    assert len(str(found.value)) < 1000


def test_json_is_bounded(tmp_path: Path):
    for text in ("[" * 100_000, '{"a": 1, "a": 2}', "9" * 5000):
        with pytest.raises(ValueError):
            parse_json(text)
    (tmp_path / "large").write_text("x" * 11, encoding="utf-8")
    with pytest.raises(UserError, match="more than 10 bytes"):
        read_text(tmp_path / "large", 10)
    assert read_yaml(Path(__file__).parents[2] / "nanogpkant/config/presets/quickstart_kan.yaml")


@pytest.mark.parametrize("step", ["1e400", "-1", "1.5", '"12"', "true", "[12]"])
def test_a_step_of_a_manifest_is_a_whole_number(step: str, run: Path, capsys):
    file = run / "checkpoints" / "step-000012" / "manifest.json"
    text = file.read_text(encoding="utf-8").replace('"step": 12', f'"step": {step}')
    file.write_text(text, encoding="utf-8")
    assert main(["sample", str(run)]) == 1
    assert "manifest.json" in said(capsys)


@pytest.mark.parametrize("setting", ["dir", "file"])
def test_a_run_may_not_have_data_written_elsewhere(setting, run, tmp_path, monkeypatch, capsys):
    """Nor a text from elsewhere read, unless the user prepares it."""
    config = load_config(run / "config.yaml")
    secret, here = tmp_path / "secret.txt", tmp_path / "here"
    secret.write_text("mine " * 1000, encoding="utf-8")
    here.mkdir()
    monkeypatch.chdir(here)
    text = (run / "config.yaml").read_text(encoding="utf-8")
    new_dir = str(tmp_path / "there") if setting == "dir" else "data"
    new_file = str(secret) if setting == "file" else "null"
    text = text.replace(config.data.dir, new_dir).replace(str(config.data.file), new_file)
    (run / "config.yaml").write_text(text, encoding="utf-8")
    assert main(["eval", str(run)]) == 1
    assert "nanogpkant prepare corpus" in said(capsys)
    assert not (tmp_path / "there").exists()
    assert list(here.iterdir()) == []


def test_what_a_run_says_is_escaped_everywhere(run: Path, tmp_path: Path, capsys):
    hostile = "<script>x</script> ![p](http://x/y) | z"
    text = (run / "config.yaml").read_text(encoding="utf-8")
    (run / "config.yaml").write_text(text.replace("a test", f'"{hostile}"'), encoding="utf-8")
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    environment |= {"device_name": hostile, "command": f"```\n{hostile}"}
    (run / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    assert main(["export", str(run), "--out", str(tmp_path / "card")]) == 0
    card = (tmp_path / "card" / "README.md").read_text(encoding="utf-8")
    outside = "".join(card.split("````")[::2])
    assert "<script>" not in outside and "![" not in outside
    assert main(["compare", str(run), "--out", str(tmp_path / "report")]) == 0
    for file in (tmp_path / "report").glob("*.md"):
        lines = file.read_text(encoding="utf-8").splitlines()  # indented by 4, they are code
        assert not any("<script>" in line for line in lines if not line.startswith("    "))


def test_escapes():
    assert markdown("a\n| b [c](d) <e>") == r"a \| b \[c\](d) &lt;e>"
    assert markdown("__init__ a_b *c* `d`") == r"\_\_init\_\_ a_b \*c\* \`d\`"
    assert markdown(r"\[x\](http://y)") == r"\\\[x\\\](http://y)"  # an escape does not escape ours
    assert fenced("a ```` b", "sh") == "`````sh\na ```` b\n`````"
    assert [csv_cell(v) for v in ("=1", "-a", "@x", "a=", -1)] == ["'=1", "'-a", "'@x", "a=", -1]


def test_rows_that_are_gone_are_told(run: Path, tiny_experiment: Path, capsys):
    """Cut, or NUL to the end, as after a power failure."""
    flags = ["--resume", "--train.max_iters", "14", "--out", str(run)]
    file = run / "metrics.jsonl"
    content = file.read_bytes()
    half = content[: len(content) // 2]
    file.write_bytes(half + bytes(len(content) - len(half)))
    assert main(["train", str(tiny_experiment), *flags]) == 0
    assert "are lost" in capsys.readouterr().err
    assert read_metrics(file)[-1]["step"] == 14


def test_a_file_half_written_by_a_kill_is_cleaned_up(run: Path, tiny_experiment: Path):
    stale = [run / ".config.yaml.tmp-1", run / "checkpoints" / ".index.json.tmp-99"]
    for file in stale:
        file.write_text("x", encoding="utf-8")
    flags = ["--resume", "--train.max_iters", "14", "--out", str(run)]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    assert not any(file.exists() for file in stale)


def test_equal_weights_are_equal_files(tmp_path: Path):
    contents = set()
    for number in range(20):
        write_weights(tmp_path / f"{number}", {"w": torch.ones(3)}, {"é": '{"a": 1}'})
        contents.add((tmp_path / f"{number}").read_bytes())
    assert len(contents) == 1


PLACES = {b"caf\xe9", b"\xff\xfe", "é日".encode()}


def under(locale: str, code: str, *arguments: str | bytes) -> None:
    """Run code that calls ``main`` in a process of another locale."""
    command = [sys.executable, "-c", f"import sys\nfrom nanogpkant.cli import main\n{code}"]
    environment = os.environ | {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_any_path_under_any_locale(locale: str, tiny_experiment: Path, tmp_path: Path):
    code = """
short = ["--train.max_iters", "2", "--train.eval_interval", "2"]
for out in sys.argv[2:]:
    assert main(["train", sys.argv[1], "--out", out, *short]) == 0
    assert main(["sample", out]) == 0
"""
    places = [os.fsencode(tmp_path) + b"/" + place for place in PLACES]
    under(locale, code, str(tiny_experiment), *places)
    assert {os.fsencode(path.name) for path in tmp_path.iterdir()} == PLACES


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_reports_on_any_path_under_any_locale(tiny_run: Path, tmp_path: Path):
    run = os.fsencode(copytree(tiny_run, tmp_path / "é日"))
    code = """
small = ["--budget", "64", "--top", "1", "--layers", "blocks.0.mlp.into"]
for verb, *flags in (["compare"], ["interpret", *small]):
    assert main([verb, sys.argv[1], "--out", sys.argv[2], *flags]) == 0
"""
    under("C", code, run, run + b"/out")
    report = (tmp_path / "é日" / "out" / "report.md").read_text(encoding="utf-8")
    assert "é日" in report


def test_overwriting_a_symbolic_link_removes_nothing(tiny_run, tiny_experiment, tmp_path, capsys):
    copytree(tiny_run, tmp_path / "run")
    (tmp_path / "link").symlink_to("run")
    command = ["train", str(tiny_experiment), "--out", str(tmp_path / "link"), "--overwrite"]
    assert main(command) == 2
    assert "symbolic link" in said(capsys)
    assert load_checkpoint(open_run(tmp_path / "link"), "last").step == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "run"]


def test_a_folder_given_as_nothing_is_this_one(tiny_run: Path, tmp_path, monkeypatch, capsys):
    run = Path(copytree(tiny_run, tmp_path / "run"))
    monkeypatch.chdir(run)
    assert main(["export", ".", "--out", ""]) == 2
    assert "--out .: is the folder that you are in" in said(capsys)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["export", str(run), "--out", "."]) == 2
    assert "--out .: is the folder that you are in" in said(capsys)
    assert main(["train", "quickstart_kan", "--out", "../empty"]) == 2
    assert "--out ../empty: is the folder that you are in" in said(capsys)
    Path("link").symlink_to(tmp_path / "empty")
    assert main(["train", "quickstart_kan", "--out", "link"]) == 2
    assert "--out link: " in said(capsys)


def test_features_nested_too_deeply_are_no_features():
    with pytest.raises(ValueError, match="no basis"):
        Features.from_spec('{"basis": ' + "[" * 100_000)


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("sample --tokens 1000000000000000000000", "--tokens"),
        ("prune --share 0.5 --out p --finetune 1000000000000000000000", "--finetune"),
        ("sample --samples 1000000000000000000000", "--samples"),
        ("eval --random_batches 1000000000000000000000", "--random_batches"),
    ],
)
def test_counts_that_no_computer_could_do(command: str, flag: str, tiny_run: Path, capsys):
    verb, *flags = command.split()
    assert main([verb, str(tiny_run), *flags]) == 2
    assert f"{flag} 1000000000000000000000: must be at most" in said(capsys)


def test_a_probability_that_rounds_to_zero_takes_the_most_likely(tiny_run: Path):
    texts = [sample(str(tiny_run), tokens=5, device="cpu", top_p=p).texts for p in (1e-320, 1e-9)]
    assert texts[0] == texts[1]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full", "2> >(head -c 1 >/dev/null)"])
def test_standard_error_may_be_closed_or_full(stderr: str, tiny_experiment: Path, tmp_path: Path):
    words = [sys.executable, "-m", "nanogpkant.cli", "train", str(tiny_experiment), "--out", "r"]
    command = f"{' '.join(words)} {stderr}"
    ended = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True)
    assert ended.returncode == 0
    assert load_checkpoint(open_run(tmp_path / "r"), "last").step == 12


@pytest.mark.parametrize(
    ("variables", "status"),
    [({"RANK": "1"}, 0), ({"RANK": "abc"}, 2), ({"WORLD_SIZE": "2", "RANK": "abc"}, 2)],
)
def test_a_rank_alone_silences_nothing(variables, status, tiny_experiment, tmp_path):
    command = [sys.executable, "-m", "nanogpkant.cli", "train", str(tiny_experiment), "--out", "r"]
    environment = os.environ | variables
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == status
    assert ("validation loss" if status == 0 else "RANK is abc") in ended.stderr


@pytest.mark.parametrize("what", ["moments", "weights"])
def test_weights_too_large_to_compute_with_are_told(what, run, tiny_experiment, capsys):
    from test_checkpoint import rewrite_weights

    if what == "weights":
        rewrite_weights(run, lambda w: [t.fill_(3e38) for t in w.values() if t.is_floating_point()])
        assert main(["sample", str(run)]) == 1
        assert "not finite" in said(capsys)
        assert main(["eval", str(run)]) == 1
        assert "its loss is" in said(capsys)
    else:
        rewrite_training(run, lambda s: moments(s)["exp_avg"].fill_(3e38))
        flags = ["--resume", "--train.max_iters", "20", "--out", str(run)]
        assert main(["train", str(tiny_experiment), *flags]) in (0, 1)


def test_an_empty_folder_name_is_not_the_default(tiny_experiment: Path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(tiny_experiment), "--out", ""]) == 2
    assert list(tmp_path.iterdir()) == []


def test_usage_errors_are_one_line_however_long_the_value():
    from nanogpkant.config import ModelConfig

    with pytest.raises(UsageError) as found:
        ModelConfig(n_embd=10**4000)
    assert len(str(found.value)) < 200
