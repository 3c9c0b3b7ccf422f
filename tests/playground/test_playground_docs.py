"""The commands of docs/playground.md, in a folder of their own."""

import json
import re
import shlex
import shutil
from pathlib import Path

from nanogpkant.cli import main
from nanogpkant.playground.edits import FORMAT
from nanogpkant.run.checkpoint import weights_hash
from nanogpkant.run.folder import open_run
from nanogpkant.run.load import load_model

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "playground.md").read_text(encoding="utf-8")


def test_its_commands_work(run_with_curves, tmp_path, monkeypatch, capsys):
    shutil.copytree(run_with_curves, tmp_path / "runs" / "quickstart_kan")
    monkeypatch.chdir(tmp_path)
    step = load_model("quickstart_kan").step
    edit = {"kind": "distance", "layer": "blocks.0.attention.bias", "head": 0, "values": [0.0] * 16}
    about = {
        "format": FORMAT,
        "step": step,
        "weights": weights_hash(open_run("quickstart_kan"), step),
    }
    Path("edits.json").write_text(json.dumps(about | {"edits": [edit]}), encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]
    assert [words[0] for words in commands] == ["play", "edit"]
    for words in commands:
        assert main(words) == 0, capsys.readouterr().err
    assert main(["sample", "runs/bent", "--tokens", "3"]) == 0


def test_its_pictures_exist():
    for name in re.findall(r"\]\(\.\./(.+?)\)", PAGE):
        assert (ROOT / name).is_file(), name
