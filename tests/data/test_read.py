"""Files of every kind into documents, against the libraries that wrote them."""

import gzip
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanogpkant.base.errors import UserError
from nanogpkant.data import ByteTokenizer, TokenData, prepare, read
from nanogpkant.data.read import TextFormat, file_corpus

TEXTS = [f"Document {number}: Äpfel\nund 🍒." for number in range(300)]
BYTES = {"tokenizer": "byte", "val_fraction": 0.3}


def documents(path: Path, **text_format: object) -> list[str]:
    corpus = file_corpus(path, TextFormat(**text_format))
    assert not corpus.one_text
    found = [piece for part in corpus.parts for piece in part.pieces(lambda count: None)]
    assert all(ends for _, ends in found)
    return [text for text, _ in found]


def write_jsonl(path: Path, key: str = "text") -> Path:
    lines = [json.dumps({"id": n, key: text}) for n, text in enumerate(TEXTS)]
    path.write_text("\n".join(["", *lines, "", json.dumps({key: None})]) + "\n", encoding="utf-8")
    return path


def write_parquet(path: Path, key: str = "text") -> Path:
    table = pa.table({"id": range(len(TEXTS) + 2), key: [*TEXTS, None, ""]})
    pq.write_table(table, path, row_group_size=70)
    return path


def compressed(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return packed


def zipped(path: Path) -> Path:
    packed = path.with_name(path.name + ".zip")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, path.name)
    return packed


def encrypted() -> bytes:
    """A zip archive of one file whose headers say so."""
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr("a.txt", "text")
    content = bytearray(file.getvalue())
    content[6] = content[content.index(b"PK\x01\x02") + 8] = 1
    return bytes(content)


@pytest.mark.parametrize(
    "pack", [lambda path: path, compressed, zipped], ids=["plain", "gzip", "zip"]
)
@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_lines_and_rows(tmp_path, write, pack):
    suffix = {write_jsonl: ".jsonl", write_parquet: ".parquet"}[write]
    assert documents(pack(write(tmp_path / f"t{suffix}"))) == TEXTS
    assert documents(pack(write(tmp_path / f"u{suffix}", "body")), field="body") == TEXTS


def test_plain_text_with_a_separator(tmp_path):
    (tmp_path / "stories.txt").write_text("\n---\n".join(TEXTS) + "\n---\n", encoding="utf-8")
    assert documents(tmp_path / "stories.txt", separator="\n---\n") == TEXTS


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    (tmp_path / "b/c").mkdir(parents=True)
    (tmp_path / "b/c/z.md").write_text("second", encoding="utf-8")
    (tmp_path / "a.txt").write_text("first", encoding="utf-8")
    (tmp_path / "empty.txt").touch()
    (tmp_path / ".hidden").write_text("never", encoding="utf-8")
    write_parquet(tmp_path / "d.parquet")
    compressed(write_jsonl(tmp_path / "e.jsonl"))
    assert documents(tmp_path) == ["first", "second", *TEXTS, *TEXTS]


def test_the_same_tokens_from_every_kind_of_file(tmp_path):
    """Fingerprints agree; so do the documents of each split, with a zero byte after each."""
    files = [write_jsonl(tmp_path / "a.jsonl"), write_parquet(tmp_path / "b.parquet")]
    files.append(compressed(write_jsonl(tmp_path / "c.jsonl")))
    folders = [prepare(file.stem, tmp_path / "data", file, **BYTES) for file in files]
    data = [TokenData.open(folder) for folder in folders]
    assert len({d.fingerprint for d in data}) == 1
    found = [data[0].tokenizer.decode(data[0].split(s)).split("\0") for s in ("train", "val")]
    assert [texts.pop() for texts in found] == ["", ""]
    assert sorted(found[0] + found[1]) == sorted(TEXTS)
    assert not set(found[0]) & set(found[1])
    assert 50 < len(found[1]) < 130


def test_characters_of_documents(tmp_path):
    folder = prepare("own", tmp_path / "data", write_jsonl(tmp_path / "a.jsonl"))
    data = TokenData.open(folder)
    assert data.tokenizer.characters == tuple(sorted(set("\0".join(TEXTS))))
    assert data.tokenizer.decode([data.tokenizer.eot]) == "\0"
    assert data.tokenizer.decode(data.val).count("\0") + data.tokenizer.decode(data.train).count(
        "\0"
    ) == len(TEXTS)


def test_a_zip_of_one_file(tmp_path):
    text = "".join(TEXTS) * 100
    with zipfile.ZipFile(tmp_path / "text.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/text", text)
    data = TokenData.open(prepare("text", tmp_path / "data", tmp_path / "text.zip", **BYTES))
    content = np.concatenate([data.train, data.val]).tobytes()
    assert content == text.encode()
    with zipfile.ZipFile(tmp_path / "text.zip", "a") as archive:
        archive.writestr("more", "text")
    with pytest.raises(UserError, match="text.zip is a zip archive of 2 files: unpack it"):
        prepare("texts", tmp_path / "data", tmp_path / "text.zip")


def test_halves_of_surrogate_pairs_in_json(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud83cb \\ud83c\\udf52"}\n', encoding="utf-8")
    assert documents(tmp_path / "a.jsonl") == ["a\ufffdb 🍒"]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "a.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'{"text": "\xff"}\n', "a.jsonl, line 1 is not JSON"),
        ("a.jsonl", b'{"body": "a"}\n', "line 1 has no text under 'text': --field names where"),
        ("a.jsonl", b'{"text": 1}\n', "line 1 has no text under 'text'"),
        ("a.jsonl", b'["text"]\n', "line 1 has no text under 'text'"),
        ("a.parquet", b"PAR1 or not", "a.parquet is not a Parquet file, or damaged"),
        ("a.parquet", b"", "a.parquet is not a Parquet file, or damaged"),
        ("a.txt", gzip.compress(b"text" * 10000)[:50], "cannot read .*a.txt: Compressed file"),
        ("a.txt", gzip.compress(b"text" * 9)[:-6] + b"xxxxxx", "cannot read .*a.txt: CRC check"),
        ("a.txt", b"PK\x03\x04 or not", "cannot read .*a.txt: File is not a zip file"),
        ("a.zip", encrypted(), "cannot read .*a.zip: File 'a.txt' is encrypted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # gzip writes the time
)
def test_files_that_will_not_do(tmp_path, name, content, error):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=error) as raised:
        prepare("own", tmp_path / "data", tmp_path / name)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "data/own").exists()


def test_a_table_without_such_a_column(tmp_path):
    write_parquet(tmp_path / "a.parquet", "body")
    error = "has no column of text 'text': --field names one of body"
    with pytest.raises(UserError, match=error):
        documents(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="has no column of text 'id'"):
        documents(tmp_path / "a.parquet", field="id")


def test_without_pyarrow(tmp_path, monkeypatch):
    file = write_parquet(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pyarrow package: pip install 'nanogpkant\[data\]'"):
        documents(file)


def test_a_damaged_row_group(tmp_path):
    file = write_parquet(tmp_path / "a.parquet")
    content = bytearray(file.read_bytes())
    content[200:2000] = bytes(1800)
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*a\.parquet: ") as error:
        documents(file)
    assert "\n" not in str(error.value)


def test_no_document_for_a_split(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "alone"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="not one document is in the .* split; take more"):
        prepare("own", tmp_path / "data", tmp_path / "a.jsonl")


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    def fail(self, buffer):
        raise OSError(5, "Input/output error")

    file = write_jsonl(tmp_path / "a.jsonl")
    monkeypatch.setattr(read.CountedFile, "readinto", fail)
    with pytest.raises(UserError, match=r"cannot read .*a\.jsonl: Input/output error"):
        prepare("own", tmp_path / "data", file, **BYTES)


def test_bytes_that_are_not_utf8_in_a_folder(tmp_path):
    (tmp_path / "texts").mkdir()
    for number in range(50):
        (tmp_path / f"texts/{number}").write_bytes(b"caf\xe9 %d" % number)
    data = TokenData.open(prepare("own", tmp_path / "data", tmp_path / "texts", **BYTES))
    assert data.tokenizer == ByteTokenizer()
    assert np.asarray(data.train[:4]).tobytes() == b"caf\xe9"


def test_a_table_that_is_not_utf8(tmp_path):
    ends, content = np.array([0, 2], dtype="<i4"), pa.py_buffer(b"\xff\xfe")
    column = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(ends), content])
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="damaged"):
        documents(tmp_path / "a.parquet")


def test_lists_of_text_are_no_text(tmp_path):
    pq.write_table(pa.table({"text": [["a", "b"], ["c"]]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="nor any other"):
        documents(tmp_path / "a.parquet")
    words = pa.array(TEXTS).dictionary_encode()
    pq.write_table(pa.table({"text": words}), tmp_path / "b.parquet")
    assert documents(tmp_path / "b.parquet") == TEXTS
