"""One corpus on its way to its folder: which splits, which tokenizer, what meta.json says."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

from nanogpkant.base.errors import UserError
from nanogpkant.base.files import fsync_folder, write_json
from nanogpkant.data import documents, shards, sources
from nanogpkant.data.building import PROGRESS, Built, Divide, batches, build
from nanogpkant.data.catalog import Dataset
from nanogpkant.data.documents import ByContent, ByPosition
from nanogpkant.data.scan import Scan
from nanogpkant.data.sources import Advance, Source
from nanogpkant.data.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer, gpt2, train_bpe
from nanogpkant.data.tokens import FORMAT, fingerprint_of

TRAINING_CHARACTERS = 100_000_000  # at most, that a vocabulary is trained on
WORKER_BYTES = 4 << 20  # of text, below which one more process is not worth its start


@dataclass(frozen=True)
class Job:
    """What is to be made of what.

    Attributes:
        folder: what is to be there in the end.
        source: what is read.
        dataset: what is known of it.
        scan: what a first pass found out about it.
        settings: what else the result depends on.
        given: the tokenizer, where it is not made here.
        workers: processes that encode, at most.
    """

    folder: Path
    source: Source
    dataset: Dataset
    scan: Scan
    settings: dict[str, Any]
    given: Tokenizer | None
    workers: int

    def run(self, advance: Advance) -> None:
        """Build the dataset beside where it belongs, and give it its name once it is whole.

        Raises:
            UserError: the source cannot be read, or a split gets nothing.
            OSError: the folder cannot be written.
        """
        work = self.folder.with_name(f".{self.folder.name}.preparing")
        try:
            built = build(
                work,
                self.key(),
                self.source,
                self.divide(),
                self.lengths() or ("train", "val"),
                self.make_tokenizer,
                self.worth_starting(),
                advance,
            )
            write_json(work / "meta.json", self.meta(built, work / "tokenizer.json"))
            work.rename(self.folder)
            fsync_folder(self.folder.parent)
            (self.folder / PROGRESS).unlink()
        finally:
            if not (work / PROGRESS).exists():  # nothing that another try could go on with
                rmtree(work, ignore_errors=True)

    def worth_starting(self) -> int:
        """How many of the workers there is work for; all, where the size is not known."""
        size = self.source.size or self.workers * WORKER_BYTES
        return min(self.workers, 1 + size // WORKER_BYTES)

    def key(self) -> str:
        """All that decides on the result, and on which pieces a source is read in."""
        reading = [sources.CHUNK_BYTES, documents.PIECE, documents.WINDOW, documents.LONGEST]
        writing = [FORMAT, shards.SHARD_TOKENS]
        return json.dumps([self.scan.sha256, self.settings, reading, writing])

    def lengths(self) -> dict[str, int]:
        """Characters of each split of one text; documents have no such lengths."""
        if not self.source.one_text:
            return {}
        if self.dataset.lengths:
            return self.dataset.lengths
        train = int((1 - self.settings["val_fraction"]) * self.scan.length)
        return {"train": train, "val": self.scan.length - train}

    def divide(self) -> Divide:
        """What puts the source's pieces into splits, at its beginning."""
        if self.source.one_text:
            return ByPosition(self.lengths(), self.source.label)
        return ByContent(self.settings["val_fraction"])

    def make_tokenizer(self) -> Tokenizer:
        """The tokenizer that the settings ask for.

        Raises:
            UserError: a package is missing, the network is, or documents could not be told apart.
        """
        makers = {
            "char": lambda: CharTokenizer(self.dataset.characters or self.scan.characters),
            "byte": ByteTokenizer,
            "gpt2": gpt2,
            "bpe": lambda: train_bpe(self.training_texts(), self.settings["vocab_size"]),
        }
        tokenizer = self.given or makers[self.settings["tokenizer"]]()
        if tokenizer.eot is None and not self.source.one_text:
            raise UserError(
                f"--tokenizer {self.settings['tokenizer']} has no token to end a document with: "
                "use one that was made of documents"
            )
        return tokenizer

    def training_texts(self) -> Iterator[str]:
        """Text of the training split, from the beginning, for a vocabulary to be trained on."""
        left = TRAINING_CHARACTERS
        for batch in batches(self.source, self.divide(), (0, 0), lambda count: None):
            for split, text, _ in batch.texts:
                if split == "train" and left > 0:
                    yield text
                    left -= len(text)
            if left <= 0:
                return

    def meta(self, built: Built, tokenizer_file: Path) -> dict[str, Any]:
        """The content of meta.json.

        Raises:
            UserError: a split is empty.
        """
        for split, made in built.splits.items():
            if not made:
                raise UserError(
                    f"{self.source.label}: not one document is in the {split} split; take more "
                    f"of them, or another --val_fraction than {self.settings['val_fraction']}"
                )
        return {
            "format": FORMAT,
            "dataset": self.folder.name,
            "source": self.source.label,
            "source_sha256": self.scan.sha256,
            "settings": self.settings,
            "dtype": built.tokenizer.dtype.name,
            **{f"{split}_tokens": built.count(split) for split in built.splits},
            "vocab_size": built.tokenizer.vocab_size,
            "fingerprint": fingerprint_of(built.hashes(), tokenizer_file),
            "splits": built.splits,
        }
