"""Shards, workers, and preparations that are killed, fail, or meet damage."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nanogpkant.base.errors import UserError
from nanogpkant.data import TokenData, encode, prepare, read

SMALL = {
    encode: {"BATCH": 200, "FLUSH": 1000, "SHARD_TOKENS": 700},
    read: {"PIECE": 100, "WINDOW": 50, "CHUNK_BYTES": 50},
}
SETTINGS = "".join(
    f"\nfrom nanogpkant.data import {module.__name__.rpartition('.')[2]} as m; "
    + "; ".join(f"m.{name} = {value}" for name, value in values.items())
    for module, values in SMALL.items()
)

KILLED = f"""
import os, signal, sys
from pathlib import Path
from nanogpkant.data import prepare{SETTINGS}
def kill(done, total):
    if done >= float(sys.argv[1]) * total:
        os.kill(os.getpid(), signal.SIGKILL)
prepare("own", Path(sys.argv[2]), Path(sys.argv[3]), kill, tokenizer="byte")
"""


@pytest.fixture
def small(monkeypatch):
    for module, values in SMALL.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)


@pytest.fixture(params=["one text", "documents"])
def texts(request, tmp_path) -> Path:
    """The same sentences as one text, and as a file of documents between others."""
    lines = [f"Sentence {number} of a longer text." for number in range(400)]
    if request.param == "one text":
        (tmp_path / "text").write_text("\n".join(lines), encoding="utf-8")
        return tmp_path / "text"
    (tmp_path / "folder").mkdir()
    for part in range(4):
        content = "".join(json.dumps({"text": line}) + "\n" for line in lines[part::4])
        (tmp_path / f"folder/{part}.jsonl").write_text(content, encoding="utf-8")
    return tmp_path / "folder"


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def killed(share: float, data_dir: Path, file: Path) -> Path:
    """Where a run came to that killed itself when that share of the text was read."""
    command = [sys.executable, "-P", "-c", KILLED, str(share), str(data_dir), str(file)]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert not (data_dir / "own").exists()
    return data_dir / ".own.preparing"


@pytest.mark.usefixtures("small")
def test_shards_are_bounded_and_read_as_one(texts, tmp_path):
    data = TokenData.open(prepare("own", tmp_path, texts, tokenizer="byte"))
    data.verify()
    assert len(data.meta["splits"]["train"]) > 10
    sizes = [shard["tokens"] for shard in data.meta["splits"]["train"]]
    assert sizes[:-1] == [700] * (len(sizes) - 1)
    files = [data.folder / shard["file"] for shard in data.meta["splits"]["train"]]
    assert np.asarray(data.train).tobytes() == b"".join(file.read_bytes() for file in files)
    if texts.is_file():
        whole = np.concatenate([data.train, data.val]).tobytes()
        assert whole == texts.read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("share", [0.52, 0.97])
def test_killed_and_gone_on_with(texts, tmp_path, share, monkeypatch):
    """The bytes are those of a run in one go, and what was finished is not made again."""
    whole = prepare("own", tmp_path / "whole", texts, tokenizer="byte")
    work = killed(share, tmp_path / "data", texts)
    assert (work / "progress.json").is_file() == (share > 0.9)
    encoded = []
    monkeypatch.setattr(encode, "encode_all", spy(encode.encode_all, encoded))
    folder = prepare("own", tmp_path / "data", texts, tokenizer="byte")
    assert content(folder) == content(whole)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["own"]
    total = sum(len(split) for split in TokenData.open(folder).splits.values())
    assert sum(encoded) < 0.4 * total if share > 0.9 else sum(encoded) > 0.9 * total


def spy(encode_all, encoded):
    def spied(tokenizer, batches, workers):
        for batch, ids in encode_all(tokenizer, batches, workers):
            encoded.append(batch.size)
            yield batch, ids

    return spied


def stop_near_the_end(done, total):
    if done > 0.97 * total:
        raise KeyboardInterrupt


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("damage", ["altered", "missing", "cut", "progress", "another text"])
def test_work_that_is_not_what_it_was_is_begun_again(texts, tmp_path, damage):
    with pytest.raises(KeyboardInterrupt):
        prepare("own", tmp_path / "data", texts, stop_near_the_end, tokenizer="byte")
    work = tmp_path / "data/.own.preparing"
    shard = work / "train-00001.bin"
    if damage == "altered":
        shard.write_bytes(b"x" + shard.read_bytes()[1:])
    elif damage == "missing":
        shard.unlink()
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "progress":
        (work / "progress.json").write_text('{"key": 1}', encoding="utf-8")
    else:
        file = texts if texts.is_file() else texts / "0.jsonl"
        file.write_text(file.read_text(encoding="utf-8").replace("longer", "LONGER"))
    whole = prepare("own", tmp_path / "whole", texts, tokenizer="byte")
    assert content(prepare("own", tmp_path / "data", texts, tokenizer="byte")) == content(whole)


@pytest.mark.usefixtures("small")
def test_any_number_of_workers_makes_the_same(texts, tmp_path):
    one, *others = (
        content(prepare("own", tmp_path / f"{n}", texts, tokenizer="byte", workers=n))
        for n in (1, 2, 7)
    )
    assert all(other == one for other in others)


FULL_DISK = f"""
import resource, sys
from pathlib import Path
from nanogpkant.data import prepare{SETTINGS}
from nanogpkant.data import encode
from nanogpkant.base.errors import UserError
encode.SHARD_TOKENS = 6000
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    prepare("own", Path(sys.argv[1]), Path(sys.argv[2]), None, tokenizer="byte")
except UserError as error:
    print(error)
"""


@pytest.mark.usefixtures("small")
def test_a_full_disk_keeps_what_was_finished(texts, tmp_path, monkeypatch):
    pytest.importorskip("resource")
    monkeypatch.setattr(encode, "SHARD_TOKENS", 6000)
    command = [sys.executable, "-P", "-c", FULL_DISK, str(tmp_path / "data"), str(texts)]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60)
    assert result.stdout.startswith(f"cannot write {tmp_path / 'data/own'}: "), result.stderr
    assert (tmp_path / "data/.own.preparing/progress.json").is_file()
    whole = prepare("own", tmp_path / "whole", texts, tokenizer="byte")
    again = prepare("own", tmp_path / "data", texts, tokenizer="byte")
    assert content(again) == content(whole)


def test_two_processes_at_once(tmp_path):
    """The second waits for the first, and takes what it made."""
    (tmp_path / "text").write_text("A sentence of a text.\n" * 20000, encoding="utf-8")
    script = (
        "import sys; from pathlib import Path; from nanogpkant.data import prepare\n"
        "print(prepare('own', Path(sys.argv[1]), Path(sys.argv[2])))"
    )
    command = [sys.executable, "-P", "-c", script, str(tmp_path / "data"), str(tmp_path / "text")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    printed = [process.communicate(timeout=60)[0].decode().strip() for process in both]
    assert printed == [str(tmp_path / "data/own")] * 2
    TokenData.open(tmp_path / "data/own").verify()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["own"]


def test_a_shard_altered_or_missing_after_the_fact(texts, tmp_path):
    folder = prepare("own", tmp_path, texts, tokenizer="byte")
    shard = folder / "val-00000.bin"
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    with pytest.raises(UserError, match="damaged .val-00000.bin is not what was written.*remove"):
        prepare("own", tmp_path, texts, tokenizer="byte")
    shard.unlink()
    with pytest.raises(UserError, match="damaged .val-00000.bin has 0 bytes where"):
        TokenData.open(folder)
