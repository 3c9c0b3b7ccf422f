"""The commands of docs/sharing.md, one after the other, in a folder of their own.

Its Python runs in test_huggingface.py. ONNX and the harness, which take long, have tests of their
own; here their commands must be understood.
"""

import re
import shlex
import shutil
from pathlib import Path

from nanogpkant.cli import main
from nanogpkant.share import export, harness

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sharing.md"


def test_its_commands_work(hub, tiny_run: Path, tmp_path: Path, monkeypatch, capsys):
    shutil.copytree(tiny_run, tmp_path / "runs" / "quickstart_kan")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(harness, "find_spec", lambda name: object())
    monkeypatch.setattr(harness, "_evaluate", lambda *_, **__: {"task": {"acc,none": 1.0}})
    monkeypatch.setattr(
        export, "write_onnx", lambda draft, trained: (draft / "model.onnx").write_bytes(b"x")
    )
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    ours = [words[1:] for words in commands if words[0] == "nanogpkant"]
    assert [words[0] for words in ours] == [*["export"] * 3, "push", "pull", "push", *["eval"] * 2]
    for words in ours:
        assert main(words) == 0, capsys.readouterr().err
    assert main(["sample", "runs/pulled", "--tokens", "3"]) == 0
    assert "acc" in capsys.readouterr().out
