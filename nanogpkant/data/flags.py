"""The flags of prepare. Nothing here loads torch, so that --help answers at once."""

import os

from jsonargparse import ArgumentParser

from nanogpkant.data.catalog import DATASETS
from nanogpkant.data.corpus import TOKENIZERS, VOCAB_SIZE


def add_prepare_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    known = "; ".join(f"{d.name}: {d.about}" for d in DATASETS.values())
    add("dataset", help=f"a name of your own with --file, or one of: {known}")
    add(
        "--file",
        help="what to read instead: plain text, .jsonl or .parquet, with .gz or not, or a folder "
        "of them (default: none)",
    )
    add("--dir", default="data", help="folder that datasets lie in")
    add(
        "--tokenizer",
        help=f"{', '.join(TOKENIZERS)}, or a run, dataset or tokenizer.json whose tokenizer to use "
        "(default: the dataset's own, char for a text of yours)",
    )
    add("--vocab_size", type=int | None, help=f"tokens that bpe makes (default: {VOCAB_SIZE})")
    add("--field", default="text", help="where the text is in a line of JSON or a row of a table")
    add(
        "--separator",
        help="what stands between the documents of a plain text, \\n for a new line "
        "(default: none, each file is one document)",
    )
    add(
        "--val_fraction",
        type=float | None,
        help="share of the text, or of its documents, to validate on (default: 0.1 of a text of "
        "yours, the dataset's own otherwise)",
    )
    cores = os.cpu_count() or 1
    add("--workers", type=int, default=cores, help="processes that encode, at most")
