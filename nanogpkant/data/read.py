"""Text from files, archives and the Hugging Face Hub, read piece by piece.

A corpus is a sequence of parts, such as files; a part is a sequence of pieces: (text, whether its
document ends there). A document is one piece or, if long, several: it is cut only at a space or
newline after another character, which no tokenizer here merges across, so the tokens are those of
the whole. At most one document is in memory.
"""

import codecs
import gzip
import hashlib
import io
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from nanogpkant.base.errors import UserError, from_extra, one_line
from nanogpkant.data.network import answer, check_reachable

if TYPE_CHECKING:
    from datasets import IterableDataset

Advance = Callable[[int], None]  # called with the bytes read since the last call
Piece = tuple[str, bool]

CHUNK_BYTES = 1 << 20
UNPACKING = zlib.error, lzma.LZMAError, zipfile.BadZipFile
ROWS = 1 << 10  # of a table, read at a time
PIECE = 1 << 20  # characters, about, of the pieces of a long document
HEAD = 1 << 16  # characters that the first piece of a document has at least, if it is longer
WINDOW = 1 << 12  # last characters of a piece, in which it may be cut
LONGEST = 1 << 23  # characters without a place to cut, after which any place will do

GAP = re.compile(r"(?<=\S)[ \n]")
TEXT_TYPE = re.compile(r"(large_)?string|string_view|dictionary<values=(large_)?string")


@dataclass(frozen=True)
class Part:
    """A file, or another text read from beginning to end."""

    size: int
    """bytes, for the progress bar"""
    pieces: Callable[[Advance], Iterator[Piece]]
    file: Path | None = None


@dataclass(frozen=True)
class Corpus:
    """All the text of a dataset."""

    label: str
    """its name in messages and in meta.json"""
    parts: tuple[Part, ...]
    one_text: bool
    """a single document, split by position; otherwise documents, split by content"""
    sha256: str | None = None
    """its identity, if known without reading it"""

    @property
    def size(self) -> int:
        """Bytes, for the progress bar; 0 if unknown."""
        return sum(part.size for part in self.parts)


@dataclass(frozen=True)
class TextFormat:
    """How to find the text in files."""

    field: str = "text"
    """key of a JSON line, or column of a table"""
    separator: str | None = None
    """text between the documents of a plain text; None: a file is one document"""
    raw: bool = False
    """accept bytes that are not UTF-8, as surrogate escapes"""


def embedded_corpus(label: str, text: str) -> Corpus:
    """One text in memory."""

    def read(advance: Advance) -> Iterator[Piece]:
        advance(size)
        yield from pieces([text])

    size = len(text.encode("utf-8"))
    return Corpus(label, (Part(size, read),), one_text=True)


def file_corpus(path: Path, text_format: TextFormat) -> Corpus:
    """A file, or a folder of files in the order of their names; hidden files are skipped.

    Names ending in .jsonl, .ndjson or .parquet, optionally with .gz, give the format; all others
    are plain text. gzip and zip archives of one file are unpacked.
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
    readers = {".jsonl": read_jsonl, ".ndjson": read_jsonl, ".parquet": read_parquet}
    parts, one_text = [], path.is_file() and text_format.separator is None
    for file in files:
        suffix = Path(file.name.lower().removesuffix(".gz").removesuffix(".zip")).suffix
        reader = readers.get(suffix, read_text)
        one_text = one_text and reader is read_text
        parts.append(Part(file.stat().st_size, partial(reader, file, text_format), file))
    return Corpus(str(path), tuple(parts), one_text)


def hub_corpus(path: str, config: str | None, remedy: str) -> Corpus:
    """The training split of a dataset of the Hub, streamed: a file is a part, a row a document."""
    with from_extra("data", f"reading {path}"):
        from datasets import load_dataset
        from datasets.config import HF_ENDPOINT
    what = f"{path} from the Hugging Face Hub"
    check_reachable(HF_ENDPOINT, what, remedy)
    load = partial(load_dataset, path, config, split="train", streaming=True)
    stream = answer(load, what, remedy)
    known = (stream.info.splits or {}).get("train")
    size = known.num_bytes if known and known.num_bytes else 0
    label, files = f"{path} on the Hugging Face Hub", stream.num_shards
    shards = (partial(_read_shard, label, stream, number) for number in range(files))
    parts = [Part(size // files, shard) for shard in shards]
    identity = json.dumps([[path, config, "train", "text"], size, files]).encode()
    return Corpus(label, tuple(parts), False, hashlib.sha256(identity).hexdigest())


def _read_shard(
    label: str, stream: "IterableDataset", number: int, advance: Advance
) -> Iterator[Piece]:
    if stream.num_shards > 1:
        stream = stream.shard(num_shards=stream.num_shards, index=number)
    try:
        for row in stream:
            text = row.get("text", 0)
            if not isinstance(text, str | None):
                raise UserError(f"{label} has no text in the column 'text'")
            if text:
                advance(len(text))
                yield without_surrogates(text), True
    except UserError:
        raise
    except Exception as error:  # of datasets, the Hub's client or the network
        reason = one_line(error)[:200]
        raise UserError(f"cannot read {label}: {reason}; run the same again to resume") from error


def read_text(file: Path, text_format: TextFormat, advance: Advance) -> Iterator[Piece]:
    """Read a plain text."""
    return pieces(_chunks(file, text_format.raw, advance), text_format.separator)


def _chunks(file: Path, raw: bool, advance: Advance) -> Iterator[str]:
    # chunks may end within a character
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape" if raw else "strict")
    offset = 0  # of the first byte not yet decoded
    with unpacked(file, advance) as stream:
        try:
            while block := stream.read(CHUNK_BYTES):
                text = decoder.decode(block)
                yield text if raw or offset else text.removeprefix("\ufeff")  # byte order mark
                offset = stream.tell() - len(decoder.getstate()[0])
            yield decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{file} is not UTF-8 text: {error.reason} at byte {offset + error.start}; "
                "convert it to UTF-8 first, or take its bytes with --tokenizer byte"
            ) from error


def read_jsonl(file: Path, text_format: TextFormat, advance: Advance) -> Iterator[Piece]:
    """Read JSON lines, one document each."""
    field = text_format.field
    with unpacked(file, advance) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:  # also raised for invalid UTF-8
                raise UserError(f"{file}, line {number} is not JSON: {error}") from error
            text = value.get(field, 0) if isinstance(value, dict) else 0
            if not isinstance(text, str | None):
                remedy = "--field names where it is"
                raise UserError(f"{file}, line {number} has no text under {field!r}: {remedy}")
            if text:
                yield without_surrogates(text), True


def read_parquet(file: Path, text_format: TextFormat, advance: Advance) -> Iterator[Piece]:
    """Read a table, one document a row."""
    with from_extra("data", f"reading {file}"):
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    with unpacked(file, advance) as stream:
        try:
            table = ParquetFile(stream)
            names = [f.name for f in table.schema_arrow if TEXT_TYPE.match(str(f.type))]
            if text_format.field not in names:
                remedy = f"--field names one of {', '.join(names)}" if names else "nor any other"
                raise UserError(f"{file} has no column of text {text_format.field!r}: {remedy}")
            for batch in table.iter_batches(ROWS, columns=[text_format.field]):
                yield from ((text, True) for text in batch.column(0).to_pylist() if text)
        except (ArrowException, UnicodeDecodeError) as error:
            reason = one_line(error)
            raise UserError(f"{file} is not a Parquet file, or damaged: {reason}") from error


def pieces(chunks: Iterable[str], separator: str | None = None) -> Iterator[Piece]:
    """Cut a stream of text into documents at ``separator``, which is dropped, and into pieces.

    Without a separator all of it is one document. Empty documents are skipped, and between
    separators blank ones. The first piece of a document has at least ``HEAD`` characters, or all.
    """
    rest, begun = "", False
    for chunk in chunks:
        rest += chunk
        if separator:
            *whole, rest = rest.split(separator)
            for document in whole:
                if begun or document.strip():
                    yield document, True
                begun = False
        if len(rest) >= PIECE and (at := _last_gap(rest, len(separator or ""))):
            yield rest[:at], False
            rest, begun = rest[at:], True
    if begun or (rest.strip() if separator else rest):
        yield rest, True


def _last_gap(text: str, kept: int) -> int:
    """Where to cut a long text, except in its last ``kept`` characters; 0: nowhere yet."""
    gaps = [match.start() for match in GAP.finditer(text, len(text) - WINDOW, len(text) - kept)]
    return gaps[-1] if gaps else (len(text) // 2 if len(text) >= LONGEST else 0)


def without_surrogates(text: str) -> str:
    """Text that UTF-8 can hold: lone surrogates, which JSON can express, become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn an error while reading ``file``, or an archive in it, into a ``UserError``."""
    try:
        yield
    except (OSError, EOFError, RuntimeError, *UNPACKING) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"cannot read {file}: {reason}") from error


@contextmanager
def unpacked(path: Path, advance: Advance) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked if it is gzip or a zip archive of one file.

    ``advance`` counts the bytes as they lie in the file.
    """
    with reading(path), io.BufferedReader(CountedFile(path, advance), CHUNK_BYTES) as file:
        magic = file.peek(4)[:4]
        if magic.startswith(b"\x1f\x8b"):
            yield cast(IO[bytes], gzip.GzipFile(fileobj=file))
        elif magic in (b"PK\x03\x04", b"PK\x05\x06"):  # the latter of no files
            with zipfile.ZipFile(file) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/")]
                if len(names) != 1:
                    remedy = "unpack it into a folder"
                    raise UserError(f"{path} is a zip archive of {len(names)} files: {remedy}")
                with archive.open(names[0]) as inside:
                    yield inside
        else:
            yield file


class CountedFile(io.FileIO):
    """A file that reports the bytes read from it."""

    def __init__(self, path: Path, advance: Advance):
        super().__init__(path)
        self._advance = advance

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        if count:
            self._advance(count)
        return count
