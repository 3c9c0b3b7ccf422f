"""The commands of docs/larger_data.md are run, in order, with short texts instead of long ones."""

import gzip
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nanogpkant.cli import main
from nanogpkant.data import DATASETS, TokenData, corpus
from nanogpkant.data.tokenizer import train_bpe

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/larger_data.md").read_text(encoding="utf-8")
TEXT = "the quick brown fox jumps over the lazy dog and reads a text " * 100


def code(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def reader(hub, tiny_run, tmp_path, monkeypatch) -> Path:
    """A folder with the files that the page names, and no network behind it."""
    pytest.importorskip("tiktoken")
    pytest.importorskip("tokenizers")
    small = train_bpe([TEXT], 300)
    monkeypatch.setattr("nanogpkant.data.corpus.gpt2", lambda: small)
    monkeypatch.setattr(
        corpus, "download", lambda url, file, *_: file.write_text(TEXT, encoding="utf-8")
    )
    for name in ("enwik8", "text8"):
        short = replace(DATASETS[name], checksum=None, lengths=None)
        monkeypatch.setitem(DATASETS, name, short)
    for name in ("tinystories", "openwebtext", "fineweb_edu"):
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], val_fraction=0.1))
    folder = tmp_path / "reader"
    (folder / "shelf").mkdir(parents=True)
    monkeypatch.chdir(folder)
    Path("enwik8.gz").write_bytes(gzip.compress(TEXT.encode()))
    for name in ("novel.txt", "sequel.txt"):
        Path(name).write_text(TEXT, encoding="utf-8")
    tales = "<|endoftext|>".join(f"tale {number} {TEXT[:99]}" for number in range(100))
    Path("tales.txt").write_text(tales, encoding="utf-8")
    for number in range(60):
        Path(f"shelf/{number}.txt").write_text(f"{number} {TEXT[:100]}", encoding="utf-8")
    lines = [json.dumps({"body": f"{number} {TEXT[:100]}"}) for number in range(100)]
    Path("pages.jsonl").write_text("\n".join(lines), encoding="utf-8")
    shutil.copy(hub / "0.parquet", "rows.parquet")
    shutil.copytree(tiny_run, folder / "runs/enwik8")
    return folder


def test_the_page_works(reader, capsys):
    lines = [
        shlex.split(line, comments=True) for block in code("bash") for line in block.splitlines()
    ]
    assert len(lines) > 15
    for words in lines:
        assert words[0] == "nanogpkant"
        if words[1] == "train":
            words = [*words, "--print_config"]
        assert main(words[1:]) == 0, (words, capsys.readouterr().err)
    prepared = {words[2] for words in lines if words[1] == "prepare"}
    assert {path.name for path in Path("data").iterdir()} == prepared
    for name in prepared:
        TokenData.open(Path("data") / name).verify()
    sequel = TokenData.open(Path("data/sequel"))
    assert sequel.tokenizer == TokenData.open(Path("data/novel_bpe")).tokenizer
    for block in code("python"):
        exec(block, {})
    assert capsys.readouterr().out.rstrip().endswith(TEXT[int(0.9 * len(TEXT)) :][:20].rstrip())


def test_every_file_that_the_page_names_exists():
    for path in re.findall(r"`((?:results|benchmarks)/[^`]+)`", PAGE):
        assert (ROOT / path).is_file()


def test_every_dataset_has_a_row():
    named = {name for name in DATASETS if "shakespeare" not in name}
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == named
