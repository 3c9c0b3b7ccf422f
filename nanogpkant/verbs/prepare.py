"""The verb that turns a text into a dataset."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nanogpkant.base.answer import Answer
from nanogpkant.base.console import bar
from nanogpkant.base.errors import UserError, refuse
from nanogpkant.base.files import read_json

CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class PreparedDataset(Answer):
    """A dataset that is ready for training."""

    on_stdout: ClassVar[bool] = False
    folder: Path
    meta: dict[str, Any]
    """the content of its meta.json: source, settings, tokens of each split, fingerprint"""

    def as_dict(self) -> dict[str, Any]:
        return {"folder": str(self.folder), **self.meta}

    def words(self) -> str:
        return f"{self.meta['dataset']} is ready in {self.folder}"


def prepare(
    dataset: str,
    *,
    file: str | None = None,
    dir: str = "data",
    tokenizer: str | None = None,
    vocab_size: int | None = None,
    field: str = "text",
    separator: str | None = None,
    val_fraction: float | None = None,
    workers: int = CORES,
) -> PreparedDataset:
    """Turn a text, or a whole corpus, into token files for training.

    An interrupted preparation resumes; an existing dataset is verified and kept.

    Args:
        dataset: a name of your own with --file, or one of: shakespeare_char (embedded, 1.1 MB),
            shakespeare (the same in GPT-2's tokens), shakespeare_all_char (embedded, 4.8 MB),
            tinyshakespeare_char (the canonical file, downloaded), enwik8 and text8 (Wikipedia, 100
            MB, downloaded), tinystories (1.9 GB, streamed), openwebtext (40 GB, streamed),
            fineweb_edu (45 GB, streamed).
        file: text to read: plain text, .jsonl or .parquet, optionally with .gz, or a folder of
            them.
        dir: folder of all prepared datasets.
        tokenizer: char, byte, gpt2, bpe, or a run, dataset or tokenizer.json to take the tokenizer
            from; left out: the dataset's own, char for a text of yours.
        vocab_size: tokens of a vocabulary trained by bpe; left out: 8192.
        field: key of the text in a line of JSON, or its column in a table.
        separator: text between the documents of a plain text, \\n for a newline; left out: each
            file is one document.
        val_fraction: share of the characters, or of the documents, to validate on; left out: the
            dataset's own, 0.1 for a text of yours.
        workers: threads that encode.

    Raises:
        UsageError: the name or a setting is unknown or cannot work.
        UserError: the text cannot be read or downloaded, or another dataset has that name.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> text = Path(folder.name, "text.txt")
        >>> _ = text.write_text("to be or not to be\\n" * 100)
        >>> prepare("hamlet", file=str(text), dir=folder.name).meta["vocab_size"]
        8
        >>> folder.cleanup()
    """
    from nanogpkant.data import prepare as prepare_dataset

    with bar(f"preparing {dataset}", "bytes") as progress:
        folder = prepare_dataset(
            dataset,
            Path(dir),
            Path(file or refuse("file", "''", "must name a text")) if file is not None else None,
            progress,
            tokenizer=tokenizer and _tokenizer_of(tokenizer),
            vocab_size=vocab_size,
            field=field,
            separator=separator and separator.replace("\\n", "\n"),
            val_fraction=val_fraction,
            workers=workers,
        )
    return PreparedDataset(folder, read_json(folder / "meta.json"))


def _tokenizer_of(choice: str) -> str:
    """The tokenizer.json of a run that is given by name; any other choice as it is."""
    from nanogpkant.data import TOKENIZERS

    if choice not in TOKENIZERS and not Path(choice).exists():
        from nanogpkant.run.folder import open_run

        with suppress(UserError):  # prepare names the choices
            return str(open_run(Path(choice)).tokenizer_file)
    return choice
