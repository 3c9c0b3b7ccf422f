"""What every tokenizer is: text to token ids and back, saved as readable JSON."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nanogpkant.base.errors import UserError
from nanogpkant.base.files import read_json, write_json


class Tokenizer(ABC):
    """Text to token ids and back. Two are equal if they give every text the same ids.

    Attributes:
        type: its name in ``TYPES`` and in its file.
        vocab_size: ids run from 0 to ``vocab_size - 1``.
        eot: the id that ends a document, where documents follow one another; None: there is none.
        start: what a text without a prompt begins from.
    """

    type: ClassVar[str]
    vocab_size: int
    eot: int | None = None
    start: str = "\n"

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Token ids of ``text``: shape (tokens,), type ``dtype``.

        Raises:
            UserError: ``text`` holds what the vocabulary cannot express.
        """

    @abstractmethod
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The UTF-8 bytes whose token ids are ``ids``; a few ids may end within a character.

        Raises:
            UserError: an id is outside 0 .. vocab_size - 1.
        """

    @abstractmethod
    def as_json(self) -> dict[str, Any]:
        """All that there is to it, but for its type."""

    @classmethod
    @abstractmethod
    def from_json(cls, value: dict[str, Any]) -> "Tokenizer":
        """The tokenizer that ``as_json`` described.

        Raises:
            UserError: ``value`` describes none; the message goes on from "FILE is not".
        """

    @property
    @abstractmethod
    def byte_lengths(self) -> np.ndarray:
        """How many bytes of text each id stands for: (vocab_size,), int64."""

    @property
    def dtype(self) -> np.dtype:
        """The smallest type that holds every id: uint8, or little-endian uint16 or uint32."""
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")

    def decode(self, ids: Iterable[int]) -> str:
        """The text whose token ids are ``ids``: a list, an array or a tensor on the CPU.

        What is no whole character, at either end say, becomes U+FFFD.

        Raises:
            UserError: an id is outside 0 .. vocab_size - 1.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def save(self, path: Path) -> None:
        """Write it to ``path`` as JSON, atomically."""
        write_json(path, {"type": self.type, **self.as_json()})

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read what ``save`` wrote.

        Raises:
            UserError: the file is missing or malformed.
        """
        value = read_json(path)
        try:
            return cls.from_json(value if isinstance(value, dict) else {})
        except UserError as error:
            raise UserError(f"{path} is not {error}") from error

    def checked(self, ids: Iterable[int]) -> np.ndarray:
        """``ids`` as an int64 array of ids that exist.

        Raises:
            UserError: an id is outside 0 .. vocab_size - 1.
        """
        ids = np.asarray(ids, dtype=np.int64)
        outside = ids[(ids < 0) | (ids >= self.vocab_size)]
        if outside.size:
            raise UserError(
                f"token id {outside[0]} is not in the vocabulary: "
                f"ids run from 0 to {self.vocab_size - 1}"
            )
        return ids
