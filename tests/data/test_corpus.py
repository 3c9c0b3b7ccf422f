import hashlib
import json
import os
import shutil
import string
import subprocess
import sys
import threading
import urllib.request
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.data import (
    DATASETS,
    CharTokenizer,
    TokenData,
    corpus,
    ensure,
    network,
    prepare,
    read,
)
from nanogpkant.pretrained import pretrained_folder

TEXT = "Äpfel, 梨 und 🍒; " * 100
URLOPEN = urllib.request.urlopen


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a test reached for the network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def data_dir(tmp_path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def text_file(tmp_path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {f.name: (f.read_bytes(), f.stat().st_mtime_ns) for f in folder.iterdir()}


def decoded(folder: Path) -> str:
    data = TokenData.open(folder)
    data.verify()
    return data.tokenizer.decode(data.train) + data.tokenizer.decode(data.val)


def shard(file: Path, tokens: int) -> dict:
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"file": file.name, "tokens": tokens, "sha256": sha256}


# --- a custom text


def test_prepare_a_file(text_file, data_dir):
    folder = prepare("fruit", data_dir, text_file)
    assert folder == data_dir / "fruit"
    assert decoded(folder) == TEXT
    names = ["meta.json", "tokenizer.json", "train-00000.bin", "val-00000.bin"]
    assert sorted(content(folder)) == names
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    train = int(0.9 * len(TEXT))
    assert meta == {
        "format": 2,
        "dataset": "fruit",
        "source": str(text_file),
        "source_sha256": hashlib.sha256(TEXT.encode()).hexdigest(),
        "settings": {
            "tokenizer": "char",
            "vocab_size": None,
            "val_fraction": 0.1,
            "field": "text",
            "separator": None,
        },
        "dtype": "uint16",
        "train_tokens": train,
        "val_tokens": len(TEXT) - train,
        "vocab_size": len(set(TEXT)),
        "fingerprint": TokenData.open(folder).fingerprint,
        "splits": {
            "train": [shard(folder / "train-00000.bin", train)],
            "val": [shard(folder / "val-00000.bin", len(TEXT) - train)],
        },
    }
    assert [path.name for path in data_dir.iterdir()] == ["fruit"]


def test_token_files_are_raw_little_endian_ids(text_file, data_dir):
    folder = prepare("fruit", data_dir, text_file)
    ids = CharTokenizer(TEXT).encode(TEXT[: int(0.9 * len(TEXT))])
    assert np.array_equal(np.fromfile(folder / "train-00000.bin", dtype="<u2"), ids)


def test_wide_vocabularies_take_four_bytes(tmp_path, data_dir):
    text = "".join(chr(code) for code in range(0x10000, 0x20001))
    file = tmp_path / "wide.txt"
    file.write_text(text, encoding="utf-8")
    folder = prepare("wide", data_dir, file)
    assert TokenData.open(folder).train.dtype == np.dtype("<u4")
    assert decoded(folder) == text


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=2), chunk=st.integers(1, 9))
def test_any_text_cut_anywhere(tmp_path_factory, monkeypatch, text, chunk):
    tmp_path = tmp_path_factory.mktemp("any")
    monkeypatch.setattr(read, "CHUNK_BYTES", chunk)  # so that characters are cut in two
    (tmp_path / "any.txt").write_bytes(text.encode())
    assert decoded(prepare("any", tmp_path, tmp_path / "any.txt")) == text


def test_equal_texts_have_equal_fingerprints_whatever_the_chunks(text_file, data_dir, monkeypatch):
    first = TokenData.open(prepare("first", data_dir, text_file)).fingerprint
    monkeypatch.setattr(read, "CHUNK_BYTES", 7)
    assert TokenData.open(prepare("second", data_dir, text_file)).fingerprint == first
    text_file.write_text(TEXT + "!", encoding="utf-8")
    assert TokenData.open(prepare("third", data_dir, text_file)).fingerprint != first


def test_progress_runs_to_the_end(text_file, data_dir, monkeypatch):
    monkeypatch.setattr(read, "CHUNK_BYTES", 100)
    seen = []
    prepare("fruit", data_dir, text_file, lambda done, total: seen.append((done, total)))
    total = 2 * len(TEXT.encode())
    assert {t for _, t in seen} == {total}
    assert [d for d, _ in seen] == sorted({d for d, _ in seen})
    assert seen[-1] == (total, total)
    assert len(seen) > 20


def test_prepared_once(text_file, data_dir):
    folder = prepare("fruit", data_dir, text_file)
    before = content(folder)
    assert prepare("fruit", data_dir, text_file) == folder
    assert content(folder) == before


def test_the_same_text_is_known_however_it_was_read(tmp_path, data_dir):
    documents, latin = tmp_path / "documents.txt", tmp_path / "latin.txt"
    documents.write_text("one<|end|>two<|end|>three" * 20, encoding="utf-8")
    latin.write_bytes(b"caf\xe9 " * 50)
    prepare("tales", data_dir, documents, separator="<|end|>")
    assert ensure("tales", data_dir, documents) == data_dir / "tales"
    prepare("latin", data_dir, latin, tokenizer="byte")
    assert ensure("latin", data_dir, latin) == data_dir / "latin"


def test_another_text_under_the_same_name(text_file, data_dir):
    before = content(prepare("fruit", data_dir, text_file))
    text_file.write_text("another text", encoding="utf-8")
    with pytest.raises(UserError, match="already holds another text under that name: choose"):
        prepare("fruit", data_dir, text_file)
    assert content(data_dir / "fruit") == before


def test_prepare_notices_damage(text_file, data_dir):
    folder = prepare("fruit", data_dir, text_file)
    (folder / "train-00000.bin").write_bytes(bytes((folder / "train-00000.bin").stat().st_size))
    with pytest.raises(UserError, match=r"damaged .*train-00000.bin is not what was.* remove that"):
        prepare("fruit", data_dir, text_file)
    (folder / "meta.json").unlink()
    with pytest.raises(UserError, match=r"damaged \(it has no meta.json\)"):
        prepare("fruit", data_dir, text_file)


# --- texts and places that will not do


def test_empty_file(text_file, data_dir):
    text_file.write_bytes(b"")
    with pytest.raises(UserError, match=r"text\.txt is empty"):
        prepare("fruit", data_dir, text_file)
    assert not data_dir.exists()


@pytest.mark.parametrize("chunk", [1, 4, 1 << 20])
@pytest.mark.parametrize(
    ("raw", "offset"),
    [
        (b"caf\xe9!", 3),
        (b"\xff\xfet\0", 0),
        ("né".encode() + b"\xe6\xa2", 3),
        (b"ab\xf0\x9f(", 2),
        (b"\xef\xbb\xbfab\xff", 5),
    ],
)
def test_not_utf8(text_file, data_dir, monkeypatch, chunk, raw, offset):
    monkeypatch.setattr(read, "CHUNK_BYTES", chunk)
    text_file.write_bytes(raw)
    with pytest.raises(UserError, match=rf"text\.txt is not UTF-8 text: .* at byte {offset};"):
        prepare("fruit", data_dir, text_file)
    assert not data_dir.exists()


@pytest.mark.parametrize("chunk", [1, 4, 1 << 20])
def test_a_byte_order_mark_is_no_text(text_file, data_dir, monkeypatch, chunk):
    monkeypatch.setattr(read, "CHUNK_BYTES", chunk)
    text_file.write_text("an apple, \ufeff an apple" * 20, encoding="utf-8-sig")
    data = TokenData.open(prepare("fruit", data_dir, text_file))
    ids = np.concatenate([data.train, data.val])
    assert data.tokenizer.decode(ids) == "an apple, \ufeff an apple" * 20


def test_missing_file_and_folder_for_a_file(tmp_path, data_dir):
    with pytest.raises(UserError, match=r"--file .*none\.txt does not exist: name a text"):
        prepare("fruit", data_dir, tmp_path / "none.txt")
    (tmp_path / "folder/.hidden").mkdir(parents=True)
    (tmp_path / "folder/.hidden/text.txt").write_text("hidden", encoding="utf-8")
    with pytest.raises(UserError, match=r"--file .*folder holds no files: name a text"):
        prepare("fruit", data_dir, tmp_path / "folder")


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_a_pipe_is_no_text(tmp_path, data_dir):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"--file .*pipe is not a regular file: name a text"):
        prepare("fruit", data_dir, tmp_path / "pipe")


@pytest.mark.parametrize("where", ["", "below"])
def test_data_dir_that_cannot_be_made(tmp_path, text_file, where):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot write .*fruit: "):
        prepare("fruit", tmp_path / "file" / where, text_file)


def test_a_file_that_changes_while_it_is_read(text_file, data_dir):
    def grow(done, total):
        if done == total and text_file.stat().st_size == len(TEXT.encode()):
            with open(text_file, "a", encoding="utf-8") as file:
                file.write("Ä")

    with pytest.raises(UserError, match=r"text\.txt changed while it was read"):
        prepare("fruit", data_dir, text_file, grow)
    assert list(data_dir.glob("*")) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../fruit", "a/b", "-x", ".hidden", "a b", "a\n"])
def test_names_that_cannot_be_folders(text_file, data_dir, name):
    with pytest.raises(UsageError, match="cannot name a folder"):
        prepare(name, data_dir, text_file)
    with pytest.raises(UsageError, match="cannot name a folder"):
        ensure(name, data_dir)


def test_unknown_names_suggest_the_nearest(data_dir):
    with pytest.raises(UsageError, match=r"'shakespear_char' .*: did you mean shakespeare_char\?"):
        prepare("shakespear_char", data_dir)
    with pytest.raises(UsageError, match=r"'xyz' .*--file PATH\): known are shakespeare_char, "):
        ensure("xyz", data_dir)


def test_embedded_names_take_no_file(text_file, data_dir):
    with pytest.raises(UsageError, match="shakespeare_char is embedded and takes no file"):
        prepare("shakespeare_char", data_dir, text_file)
    with pytest.raises(UsageError, match="--separator '---': the dataset is one text"):
        prepare("shakespeare_char", data_dir, separator="---")


# --- interrupted and simultaneous runs

FULL_DISK = """
import resource, sys
from pathlib import Path
from nanogpkant.data import prepare
from nanogpkant.base.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    prepare("fruit", Path(sys.argv[1]), Path(sys.argv[2]))
except UserError as error:
    print(error)
"""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-P", "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60)


def test_full_disk(text_file, data_dir):
    pytest.importorskip("resource")
    result = run(FULL_DISK, data_dir, text_file)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"cannot write {data_dir / 'fruit'}: ")
    assert "free some space" in result.stdout
    assert list(data_dir.glob("*")) == []


def test_after_a_failing_rename_another_try_goes_on(text_file, data_dir, monkeypatch):
    def fail(self, target):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="Permission denied"):
        patch.setattr(Path, "rename", fail)
        prepare("fruit", data_dir, text_file)
    assert [path.name for path in data_dir.iterdir()] == [".fruit.preparing"]
    assert decoded(prepare("fruit", data_dir, text_file)) == TEXT
    assert [path.name for path in data_dir.iterdir()] == ["fruit"]


@pytest.mark.parametrize("same", [True, False])
def test_another_process_is_first(text_file, tmp_path, data_dir, monkeypatch, same):
    other_text = TEXT if same else "another text"
    (tmp_path / "other.txt").write_text(other_text, encoding="utf-8")
    other = prepare("fruit", tmp_path / "elsewhere", tmp_path / "other.txt")
    lock = corpus.only_writer

    def lock_late(folder, wait):
        shutil.copytree(other, data_dir / "fruit")
        return lock(folder, wait)

    monkeypatch.setattr(corpus, "only_writer", lock_late)
    if same:
        prepare("fruit", data_dir, text_file)
    else:
        with pytest.raises(UserError, match="already holds another text"):
            prepare("fruit", data_dir, text_file)
    assert decoded(data_dir / "fruit") == other_text
    assert [path.name for path in data_dir.iterdir()] == ["fruit"]


# --- embedded datasets


def test_shakespeare_char(data_dir):
    folder = prepare("shakespeare_char", data_dir)
    data = TokenData.open(folder)
    assert data.vocab_size == 65
    environment = pretrained_folder("shakespeare-mini-kan") / "environment.json"
    assert data.fingerprint == json.loads(environment.read_text())["data_fingerprint"]
    assert data.tokenizer == CharTokenizer("\n !$&',-.3:;?" + string.ascii_letters)
    assert len(data.train) + len(data.val) == len(decoded(folder)) > 1_100_000
    before = content(folder)
    assert prepare("shakespeare_char", data_dir) == folder
    assert content(folder) == before


def test_shakespeare_char_has_the_canonical_vocabulary(canonical):
    characters = sorted(set(canonical))
    assert CharTokenizer(DATASETS["shakespeare_char"].characters) == CharTokenizer(characters)


def test_shakespeare_all_char(data_dir):
    data = TokenData.open(prepare("shakespeare_all_char", data_dir))
    assert len(data.train) > 4_000_000
    assert data.tokenizer.decode(data.train[:9]) == "THESEUS:\n"


def test_the_catalog():
    for name, dataset in DATASETS.items():
        assert dataset.name == name
        assert dataset.needs_network == (dataset.embedded is None or dataset.tokenizer == "gpt2")


# --- downloads


class Server(ThreadingHTTPServer):
    """Serves ``content``; ``plan`` says what becomes of the next requests, else all goes well.

    A status refuses; a number of bytes ends the connection after so many; None never answers.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = b""
        self.plan: list[HTTPStatus | int | None] = []
        self.takes_ranges = True
        self.ranges: list[str | None] = []  # asked for, by request
        self.stopped = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/text.txt"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.ranges.append(wanted)
        answer = self.server.plan.pop(0) if self.server.plan else len(self.server.content)
        if answer is None:
            self.server.stopped.wait()
            return
        if isinstance(answer, HTTPStatus):
            self.send_error(answer)
            return
        is_part = wanted is not None and self.server.takes_ranges
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if is_part else 0
        content = self.server.content[start:]
        self.send_response(206 if is_part else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:answer])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    """Stands in for the canonical text's; a short text stands in for that."""
    with Server() as server:
        server.content = TEXT.encode()
        checksum = f"sha256:{hashlib.sha256(server.content).hexdigest()}"
        dataset = replace(DATASETS["tinyshakespeare_char"], url=server.url, checksum=checksum)
        monkeypatch.setitem(DATASETS, dataset.name, dataset)
        monkeypatch.setattr(urllib.request, "urlopen", URLOPEN)
        monkeypatch.setattr(network, "PAUSE", 0)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.stopped.set()
        server.shutdown()
        thread.join()


def test_download(server, data_dir):
    seen = []
    folder = prepare("tinyshakespeare_char", data_dir, None, lambda *at: seen.append(at))
    assert decoded(folder) == TEXT
    assert json.loads((folder / "meta.json").read_text())["source"] == server.url
    assert seen[0] == (len(server.content), len(server.content))
    assert prepare("tinyshakespeare_char", data_dir) == folder
    assert server.ranges == [None]  # without a second download


@pytest.mark.parametrize("takes_ranges", [True, False])
def test_a_broken_download_goes_on(server, data_dir, takes_ranges):
    server.takes_ranges = takes_ranges
    server.plan = [700, HTTPStatus.BAD_GATEWAY, 600]
    folder = prepare("tinyshakespeare_char", data_dir)
    assert decoded(folder) == TEXT
    last = f"bytes={1300 if takes_ranges else 600}-"
    assert server.ranges == [None, "bytes=700-", "bytes=700-", last]


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ([HTTPStatus.NOT_FOUND], "HTTP Error 404: Not Found"),
        ([HTTPStatus.SERVICE_UNAVAILABLE] * 3, "HTTP Error 503"),
        ([3, 0, 0, 0], "IncompleteRead"),
        ([None] * 3, "timed out"),
    ],
)
def test_download_fails(server, data_dir, monkeypatch, plan, reason):
    monkeypatch.setattr(network, "TIMEOUT", 0.3)
    server.plan = plan
    error = rf"cannot download {server.url}: .*{reason}.*; try again, .*--file PATH"
    with pytest.raises(UserError, match=error) as raised:
        prepare("tinyshakespeare_char", data_dir)
    assert "\n" not in str(raised.value)
    assert not data_dir.exists()
    assert server.plan == []


def test_a_server_out_of_reach(server, data_dir):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="cannot download .*Connection refused.* --file PATH"):
        prepare("tinyshakespeare_char", data_dir)
    assert not data_dir.exists()


@pytest.mark.parametrize("change", [lambda b: b[:500], lambda b: b.replace(b"und", b"and")])
def test_download_of_another_text(server, data_dir, change):
    server.content = change(server.content)
    with pytest.raises(UserError, match="is not the text of tinyshakespeare_char: it has sha256:"):
        prepare("tinyshakespeare_char", data_dir)
    assert not data_dir.exists()


def test_a_file_must_be_the_original_too(text_file, data_dir):
    with pytest.raises(UserError, match=r"text\.txt is not the text of tinyshakespeare_char"):
        prepare("tinyshakespeare_char", data_dir, text_file)
    assert not data_dir.exists()


@pytest.mark.parametrize("name", ["tinyshakespeare_char", "enwik8"])
def test_a_canonical_text_is_no_folder_of_documents(name, text_file, data_dir):
    """Their checksum is one text's, so that documents under its name would go unchecked."""
    folder = text_file.parent / "folder"
    folder.mkdir()
    text_file.rename(folder / text_file.name)
    with pytest.raises(UsageError, match=f"{name} is one text: name the file of it"):
        prepare(name, data_dir, folder)
    with pytest.raises(UsageError, match="--separator 'x': the dataset is one text"):
        prepare(name, data_dir, folder / text_file.name, separator="x")
    assert not data_dir.exists()


def test_the_canonical_file(canonical_file, canonical, data_dir):
    folder = prepare("tinyshakespeare_char", data_dir, canonical_file)
    data = TokenData.open(folder)
    assert (len(data.train), len(data.val)) == (1_003_854, 111_540)
    assert data.vocab_size == 65
    assert decoded(folder) == canonical
    assert prepare("tinyshakespeare_char", data_dir) == folder  # known by its hash


# --- ensure


def test_ensure_prepares_what_needs_no_network(data_dir, text_file):
    assert TokenData.open(ensure("shakespeare_char", data_dir)).vocab_size == 65
    assert decoded(ensure("fruit", data_dir, text_file)) == TEXT


def test_ensure_does_not_download(data_dir):
    with pytest.raises(UserError, match="nanogpkant prepare tinyshakespeare_char --file PATH"):
        ensure("tinyshakespeare_char", data_dir)
    assert not data_dir.exists()


@pytest.mark.usefixtures("server")
def test_ensure_takes_what_is_prepared(data_dir, text_file):
    folder = prepare("tinyshakespeare_char", data_dir)
    assert ensure("tinyshakespeare_char", data_dir) == folder
    own = prepare("fruit", data_dir, text_file)
    text_file.unlink()
    assert ensure("fruit", data_dir) == own


@pytest.mark.parametrize(
    ("text", "settings", "problem"),
    [
        ("a", {}, "has one character"),
        (TEXT, {"val_fraction": 1e-300}, "--val_fraction 1e-300: leaves no character"),
        (TEXT, {"tokenizer": "bpe", "vocab_size": 10**11}, "--vocab_size 100000000000: must be"),
    ],
)
def test_numbers_that_leave_nothing_to_do(tmp_path, data_dir, text, settings, problem):
    (tmp_path / "short.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=problem):
        prepare("fruit", data_dir, tmp_path / "short.txt", **settings)
    assert not (data_dir / "fruit").exists()
