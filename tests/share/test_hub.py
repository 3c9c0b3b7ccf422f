"""push and pull, by huggingface_hub's own client, against a stand-in for the Hub."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from nanogpkant.base.files import sha256_of
from nanogpkant.cli import main
from nanogpkant.share import hub as hub_module


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 1) -> str:
    """The one line of ours that a command ends with; the client may have warned before it."""
    assert main(list(arguments)) == status
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


@pytest.fixture
def shared(hub, exported: Path) -> dict[str, bytes]:
    """The files of a repository me/tiny-kan that holds the exported run."""
    hub.repos["me/tiny-kan"] = {path.name: path.read_bytes() for path in exported.iterdir()}
    return hub.repos["me/tiny-kan"]


def test_what_is_pushed_can_be_pulled(hub, exported, tmp_path, monkeypatch, capsys):
    assert main(["push", str(exported), "--repo", "tiny-kan", "--json"]) == 0
    pushed = json.loads(capsys.readouterr().out)
    assert pushed["repo"] == "me/tiny-kan"
    assert pushed["url"] == f"{hub.url}/me/tiny-kan"
    assert set(hub.repos["me/tiny-kan"]) == {path.name for path in exported.iterdir()}
    assert hub.private == []

    monkeypatch.chdir(tmp_path)
    assert main(["pull", "me/tiny-kan", "--json"]) == 0
    pulled = json.loads(capsys.readouterr().out)
    assert pulled["folder"] == str(Path("runs/tiny-kan"))
    assert pulled["commit"] == pushed["commit"]
    files = {path.name: sha256_of(path) for path in Path("runs/tiny-kan").iterdir()}
    assert files == {path.name: sha256_of(path) for path in exported.iterdir()}
    assert main(["sample", "runs/tiny-kan", "--tokens", "3"]) == 0


def test_a_run_is_exported_on_the_way(hub, tiny_run, capsys):
    assert main(["push", str(tiny_run), "--repo", "org/mine", "--private"]) == 0
    assert {"model.safetensors", "README.md"} < set(hub.repos["org/mine"])
    assert not any("training.pt" in name or "/" in name for name in hub.repos["org/mine"])
    assert hub.private == ["org/mine"]
    assert main(["push", str(tiny_run), "--repo", "org/mine"]) == 0  # again: a new version


def test_pushing_as_a_newcomer_would(hub, tmp_path):
    """In a process of its own, with the Hub's address and the token in the environment."""
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
    code = """
from nanogpkant.cli import main
assert main(["push", "pretrained:shakespeare-mini-kan", "--repo", "me/mini"]) == 0
assert main(["pull", "me/mini", "--out", "mini"]) == 0
"""
    subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, check=True)
    assert main(["sample", str(tmp_path / "mini"), "--tokens", "3"]) == 0


def test_without_a_token_pushing_says_how_to_log_in(no_account, exported, capsys):
    assert "hf auth login" in error_of(capsys, "push", str(exported), "--repo", "me/x")


def test_a_token_that_may_not_write(hub, exported, monkeypatch, capsys):
    line = error_of(capsys, "push", str(exported), "--repo", "somebody/elses")
    assert "the Hub refused" in line
    assert "token that may do this" in line
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert "log in" in error_of(capsys, "push", str(exported), "--repo", "me/x")


def test_a_damaged_export_is_not_pushed(hub, exported, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in exported.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "model.safetensors").write_bytes(b"x")
    line = error_of(capsys, "push", str(copy), "--repo", "me/x")
    assert "does not match manifest.json" in line
    assert hub.requests == []


@pytest.fixture
def commands(exported: Path, tmp_path: Path, monkeypatch) -> list[list[str]]:
    """A pull and a push by somebody with a token."""
    monkeypatch.setenv("HF_TOKEN", "hf_any")
    pull = ["pull", "me/x", "--out", str(tmp_path / "x")]
    return [pull, ["push", str(exported), "--repo", "me/x"]]


def test_a_hub_that_cannot_be_reached_is_said_at_once(no_account, commands, tmp_path, capsys):
    started = time.perf_counter()
    for command in commands:
        assert "cannot reach the Hub" in error_of(capsys, *command)
    assert time.perf_counter() - started < 5
    assert list(tmp_path.iterdir()) == []


def test_a_hub_that_never_answers_is_not_waited_for(
    no_account, commands, tmp_path, monkeypatch, capsys
):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(hub_module, "TIMEOUT", 0.2)
        for command in commands:
            assert "cannot reach the Hub" in error_of(capsys, *command)
    assert list(tmp_path.iterdir()) == []


def pull_error(capsys, to: Path, repo: str = "me/tiny-kan", status: int = 1) -> str:
    """The one line about what must not be pulled; nothing may be left of it."""
    line = error_of(capsys, "pull", repo, "--out", str(to / "pulled"), status=status)
    assert list(to.iterdir()) == []
    return line


def test_an_altered_file_is_refused(shared, tmp_path, capsys):
    shared["model.safetensors"] = shared["model.safetensors"][:-1] + b"x"
    line = pull_error(capsys, tmp_path)
    assert "model.safetensors of me/tiny-kan does not match its manifest.json" in line


def test_a_truncated_file_is_refused(shared, tmp_path, capsys):
    shared["config.yaml"] = shared["config.yaml"][:100]
    assert "config.yaml of me/tiny-kan does not match" in pull_error(capsys, tmp_path)


def test_a_connection_that_breaks_leaves_nothing(hub, shared, tmp_path, capsys):
    hub.cut = "model.safetensors"
    assert "cannot reach the Hub" in pull_error(capsys, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["sha256"].update({"../../outside": "0" * 64}), "names ../../outside"),
        (lambda m: m["sha256"].update({"/tmp/outside": "0" * 64}), "names /tmp/outside"),
        (lambda m: m["sha256"].update({"training.pt": "0" * 64}), "names training.pt"),
        (lambda m: m["sha256"].pop("model.safetensors"), "does not name model.safetensors"),
        (lambda m: m.pop("sha256"), "not a checkpoint's manifest"),
    ],
)
def test_a_manifest_that_asks_for_other_files_is_refused(shared, tmp_path, capsys, change, words):
    manifest = json.loads(shared["manifest.json"])
    change(manifest)
    shared["manifest.json"] = json.dumps(manifest).encode()
    line = pull_error(capsys, tmp_path)
    assert words in line


def test_a_repository_of_something_else(hub, tmp_path, capsys):
    hub.repos["me/other"] = {"config.json": b"{}"}
    assert "not an exported run" in pull_error(capsys, tmp_path, "me/other")
    assert "no such model on the Hub" in pull_error(capsys, tmp_path, "me/none")
    assert "OWNER/NAME" in pull_error(capsys, tmp_path, "../../etc", status=2)


def test_a_folder_in_use_is_not_pulled_into(hub, shared, tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("dear", encoding="utf-8")
    line = error_of(capsys, "pull", "me/tiny-kan", "--out", str(tmp_path), status=2)
    assert "not an empty folder" in line
    assert hub.requests == []


def test_folders_for_transformers_are_pushed_and_pointed_to(hub, tiny_run, tmp_path, capsys):
    folder = tmp_path / "hf"
    assert main(["export", str(tiny_run), "--out", str(folder), "--format", "hf"]) == 0
    (folder / "secret.txt").write_text("mine", encoding="utf-8")
    assert main(["push", str(folder), "--repo", "me/hf"]) == 0
    assert set(hub.repos["me/hf"]) == {path.name for path in folder.iterdir()} - {"secret.txt"}
    line = error_of(capsys, "pull", "me/hf", "--out", str(tmp_path / "pulled"))
    assert "a model for transformers" in line
    hub.repos["me/hf"]["mine.txt"] = b"stays"
    assert main(["push", str(tiny_run), "--repo", "me/hf"]) == 0  # another format takes its place
    assert main(["pull", "me/hf", "--out", str(tmp_path / "pulled")]) == 0
    assert "mine.txt" in hub.repos["me/hf"]
    assert "modeling_nanogpkant.py" not in hub.repos["me/hf"]
    (folder / "modeling_nanogpkant.py").write_text("import os\n", encoding="utf-8")
    line = error_of(capsys, "push", str(folder), "--repo", "me/hf")
    assert "modeling_nanogpkant.py does not match manifest.json" in line
