"""The commands of docs/many_gpus.md: ours resolve, and the launchers' flags are ones they have."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from nanogpkant.cli import main

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "many_gpus.md").read_text(encoding="utf-8")
SLURM = (DOCS / "slurm.sh").read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
    lines = text.replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines if not line.startswith("first=")]
    return [words for words in split if "nanogpkant" in words]


IN_PAGE = commands("".join(re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)))


@pytest.mark.parametrize("words", [*IN_PAGE, *commands(SLURM)], ids=" ".join)
def test_the_commands_work(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["quickstart_kan" if word.startswith("${PRESET") else word for word in words]
    own = words.index("nanogpkant") + 1
    last = [] if words[own] == "plan" else ["--print_config"]
    assert main([*words[own:], *last]) == 0, capsys.readouterr().err
    if "torchrun" in words:
        flags = words[words.index("torchrun") + 1 : own]
        numbers = [re.sub(r"^\$\w+$", "2", flag) for flag in flags]
        assert get_args_parser().parse_args(numbers).training_script == "nanogpkant"


def test_there_are_commands_to_run():
    assert len(IN_PAGE) == 10
    assert len(commands(SLURM)) == 1


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_slurm_script_is_a_script():
    subprocess.run(["bash", "-n", str(DOCS / "slurm.sh")], check=True)


def test_every_file_that_the_page_names_exists():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", PAGE) if "://" not in link]
    assert links
    assert all((DOCS / path).is_file() for path in links)
