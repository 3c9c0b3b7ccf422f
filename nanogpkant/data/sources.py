"""Where text comes from: files and folders of them, packed or not, read piece by piece.

A source is a row of parts, such as the files of a folder; a part is a row of pieces, as
``nanogpkant.data.documents`` defines them. Nothing is ever held whole but one document.
"""

import codecs
import gzip
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from nanogpkant.base.errors import UserError
from nanogpkant.data.documents import Piece, pieces

Advance = Callable[[int], None]  # told how many bytes more were read

CHUNK_BYTES = 1 << 20
ROWS = 1 << 10  # of a table, read at a time


@dataclass(frozen=True)
class Part:
    """What is read from beginning to end: a file, say.

    Attributes:
        label: what people call it.
        size: bytes to be read, for showing progress.
        read: gives its pieces.
        open: its bytes as they lie there, packed perhaps; None where it is no file.
    """

    label: str
    size: int
    read: Callable[[Advance], Iterator[Piece]]
    open: Callable[[], BinaryIO] | None = None


@dataclass(frozen=True)
class Source:
    """A corpus.

    Attributes:
        label: what people call it.
        parts: read one after another.
        one_text: it is a single document, to be cut into splits by position.
        sha256: identifies it, where that is known without reading it.
    """

    label: str
    parts: tuple[Part, ...]
    one_text: bool
    sha256: str | None = None

    @property
    def size(self) -> int:
        """Bytes to be read, for showing progress; 0 where that is not known."""
        return sum(part.size for part in self.parts)


@dataclass(frozen=True)
class Reading:
    """How files are read.

    Attributes:
        field: where the text is in a line of JSON, or the column of a table.
        separator: stands between the documents of a plain text; None: each file is one.
        raw: take bytes that are not UTF-8 too, as surrogate escapes.
    """

    field: str = "text"
    separator: str | None = None
    raw: bool = False


def text_source(label: str, content: bytes, reading: Reading) -> Source:
    """One plain text that is in memory already."""
    return Source(label, (_part(label, len(content), partial(io.BytesIO, content), reading),), True)


def file_source(path: Path, reading: Reading) -> Source:
    """A file, or a folder of files, hidden ones left out, in the order of their names.

    Names that end in .jsonl or .parquet, with .gz after it or not, say so; all else is plain text.

    Raises:
        UserError: there is no such file, or none in the folder.
    """
    if path.is_dir():
        inside = (file for file in sorted(path.rglob("*")) if file.is_file())
        files = [f for f in inside if not any(p.startswith(".") for p in f.relative_to(path).parts)]
        if not files:
            raise UserError(f"--file {path} holds no files: name a text, or a folder of texts")
    elif path.is_file():
        files = [path]
    else:
        wrong = "is not a regular file" if path.exists() else "does not exist"
        raise UserError(f"--file {path} {wrong}: name a text, or a folder of texts")
    parts = [_part(str(f), f.stat().st_size, partial(open, f, "rb"), reading) for f in files]
    one_text = path.is_file() and reading.separator is None and _kind(str(path)) == "text"
    return Source(str(path), tuple(parts), one_text)


def sha256_of_files(source: Source, advance: Advance) -> str:
    """Identifies the files of a source by all that is in them, as they lie there.

    Raises:
        UserError: one cannot be read.
    """
    whole = hashlib.sha256()
    for part in source.parts:
        digest = hashlib.sha256()
        with reading_of(part.label), part.open() as file:
            while block := file.read(CHUNK_BYTES):
                digest.update(block)
                advance(len(block))
        whole.update(digest.digest())
    return whole.hexdigest()


def _part(label: str, size: int, open_: Callable[[], BinaryIO], reading: Reading) -> Part:
    read = {"text": read_text, "jsonl": read_jsonl, "parquet": read_parquet}[_kind(label)]
    return Part(label, size, partial(read, label, open_, reading), open_)


def _kind(name: str) -> str:
    suffix = Path(name.lower().removesuffix(".gz")).suffix
    return {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}.get(suffix, "text")


def read_text(
    label: str, open_: Callable[[], BinaryIO], reading: Reading, advance: Advance
) -> Iterator[Piece]:
    """A plain text, UTF-8.

    Raises:
        UserError: it cannot be read or is not UTF-8.
    """
    errors = "surrogateescape" if reading.raw else "strict"
    return pieces(_chunks(label, open_, errors, advance), reading.separator)


def _chunks(
    label: str, open_: Callable[[], BinaryIO], errors: str, advance: Advance
) -> Iterator[str]:
    """A text chunk by chunk; a character cut in two by a chunk's end is kept."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    offset = 0  # of the first byte not yet decoded
    with unpacked(label, open_, advance) as stream:
        try:
            while block := stream.read(CHUNK_BYTES):
                yield decoder.decode(block)
                offset = stream.tell() - len(decoder.getstate()[0])
            yield decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{label} is not UTF-8 text: {error.reason} at byte {offset + error.start}; "
                "convert it to UTF-8 first, or take its bytes with --tokenizer byte"
            ) from error


def read_jsonl(
    label: str, open_: Callable[[], BinaryIO], reading: Reading, advance: Advance
) -> Iterator[Piece]:
    """A JSON object a line, each a document.

    Raises:
        UserError: it cannot be read, or a line is not JSON with text in its field.
    """
    with unpacked(label, open_, advance) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:  # not UTF-8 is one too
                raise UserError(f"{label}, line {number} is not JSON: {error}") from error
            text = value.get(reading.field, 0) if isinstance(value, dict) else 0
            if not isinstance(text, str | None):
                raise UserError(
                    f"{label}, line {number} has no text under {reading.field!r}: "
                    "--field names where it is"
                )
            if text:
                yield without_surrogates(text), True


def read_parquet(
    label: str, open_: Callable[[], BinaryIO], reading: Reading, advance: Advance
) -> Iterator[Piece]:
    """A row a document.

    Raises:
        UserError: it cannot be read, or has no such column of text.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        remedy = "pip install 'nanogpkant[data]'"
        raise UserError(f"{label} is read with the pyarrow package: {remedy}") from error
    with unpacked(label, open_, advance) as stream:
        try:
            table = ParquetFile(stream)
            names = [f.name for f in table.schema_arrow if "string" in str(f.type)]
            if reading.field not in names:
                raise UserError(
                    f"{label} has no column of text {reading.field!r}: "
                    f"--field names one of {', '.join(names) or 'none that there is'}"
                )
            for batch in table.iter_batches(ROWS, columns=[reading.field]):
                yield from ((text, True) for text in batch.column(0).to_pylist() if text)
        except ArrowException as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{label} is not a Parquet file, or damaged: {reason}") from error


def without_surrogates(text: str) -> str:
    """Text that UTF-8 can hold: halves of surrogate pairs, which JSON can express, are U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


@contextmanager
def reading_of(label: str) -> Iterator[None]:
    """Turn what goes wrong in reading into one clear line."""
    try:
        yield
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UserError(f"cannot read {label}: {reason}") from error


@contextmanager
def unpacked(label: str, open_: Callable[[], BinaryIO], advance: Advance) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked where they are gzip's or those of a zip archive of one file.

    ``advance`` is told of the bytes as they lie in the file.
    """
    with reading_of(label), open_() as file:
        magic = file.read(4)
        file.seek(0)
        counted = io.BufferedReader(_Counted(file, advance), CHUNK_BYTES)
        if magic.startswith(b"\x1f\x8b"):
            yield gzip.GzipFile(fileobj=counted)
        elif magic == b"PK\x03\x04":
            with zipfile.ZipFile(counted) as archive, archive.open(_only(label, archive)) as inside:
                yield inside
        else:
            yield counted


def _only(label: str, archive: zipfile.ZipFile) -> str:
    names = [name for name in archive.namelist() if not name.endswith("/")]
    if len(names) != 1:
        raise UserError(f"{label} is a zip archive of {len(names)} files: unpack it into a folder")
    return names[0]


class _Counted(io.RawIOBase):
    """A file that tells how much is read from it."""

    def __init__(self, file: BinaryIO, advance: Advance):
        self._file, self._advance = file, advance

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: bytearray) -> int:
        count = self._file.readinto(buffer)
        if count:
            self._advance(count)
        return count
