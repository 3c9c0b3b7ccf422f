"""The datasets known by name."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import ascii_letters, ascii_lowercase

from nanogpkant.base.errors import UsageError, nearest
from nanogpkant.data import shakespeare


@dataclass(frozen=True)
class Dataset:
    """A corpus known by name: embedded, downloaded, streamed, or a user's own."""

    name: str
    embedded: Callable[[], str] | None = None
    """returns the text, without a network"""
    url: str | None = None
    checksum: str | None = None
    """of its UTF-8 bytes, "sha256:..." or "md5:...", if known"""
    characters: str | None = None
    """the vocabulary of characters, if not simply those that occur"""
    tokenizer: str = "char"
    lengths: dict[str, int] | None = None
    """characters of each split, if set by convention"""
    hub: tuple[str, str | None] | None = None
    """repository and configuration on the Hugging Face Hub"""
    val_fraction: float = 0.1
    """of the characters, or of the documents"""

    @property
    def needs_network(self) -> bool:
        """Whether it, or its tokenizer, must be downloaded unless a file is given."""
        return bool(self.url or self.hub) or self.tokenizer == "gpt2"


STREAMED = {"tokenizer": "gpt2", "val_fraction": 0.0005}
DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "shakespeare_char",
            embedded=shakespeare.tinyshakespeare,
            # Canonical: the 3 occurs only in a running head, "3 KING HENRY VI".
            characters="\n !$&',-.3:;?" + ascii_letters,
        ),
        Dataset("shakespeare", embedded=shakespeare.tinyshakespeare, tokenizer="gpt2"),
        Dataset("shakespeare_all_char", embedded=shakespeare.all_plays),
        Dataset(
            "tinyshakespeare_char",
            url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            checksum="sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
        Dataset(
            "enwik8",
            url="https://mattmahoney.net/dc/enwik8.zip",
            checksum="md5:a1fa5ffddb56f4953e226637dabbb36a",
            tokenizer="byte",
            # characters in 90, 5 and 5 million bytes
            lengths={"train": 89_655_885, "val": 4_982_413, "test": 4_983_534},
        ),
        Dataset(
            "text8",
            url="https://mattmahoney.net/dc/text8.zip",
            checksum="md5:3bea1919949baf155f99411df5fada7e",
            characters=" " + ascii_lowercase,
            lengths={"train": 90_000_000, "val": 5_000_000, "test": 5_000_000},
        ),
        Dataset(
            "tinystories", hub=("roneneldan/TinyStories", None), tokenizer="gpt2", val_fraction=0.01
        ),
        Dataset("openwebtext", hub=("Skylion007/openwebtext", None), **STREAMED),
        Dataset("fineweb_edu", hub=("HuggingFaceFW/fineweb-edu", "sample-10BT"), **STREAMED),
    )
}


def find(name: str, file: Path | None) -> Dataset:
    """The dataset of that name; with a file, any name."""
    check_name(name)
    dataset = DATASETS.get(name)
    if dataset is None and file is None:
        hint = nearest(name, DATASETS)
        raise UsageError(f"unknown dataset {name!r} (your own text needs --file PATH): {hint}")
    if dataset is not None and dataset.embedded and file is not None:
        problem = f"{name} is embedded and takes no file; give the dataset another name"
        raise UsageError(f"--file {file}: {problem}")
    return dataset or Dataset(name)


def check_name(name: str) -> None:
    """Check that a name can be a folder's."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(
            f"dataset name {name!r} cannot name a folder: use letters, digits, _, - and ."
        )
