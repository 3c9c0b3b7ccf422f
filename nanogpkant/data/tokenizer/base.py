"""Base class of tokenizers: text to token ids and back, saved as readable JSON."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nanogpkant.base.errors import UserError
from nanogpkant.base.files import write_json


class Tokenizer(ABC):
    """Text to token ids and back. Two are equal if they give every text the same ids.

    Attributes:
        type: its name in ``TYPES`` and in its file.
        vocab_size: ids run from 0 to ``vocab_size - 1``.
        eot: the id that ends a document in a sequence of documents; None: there is none.
        start: prompt of a text generated without one.
    """

    type: ClassVar[str]
    vocab_size: int
    eot: int | None = None
    start: str = "\n"

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Token ids of ``text``: shape (tokens,), type ``dtype``.

        Raises:
            UserError: the vocabulary cannot express ``text``.
        """

    @abstractmethod
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The UTF-8 bytes of token ids; they may begin or end within a character.

        Raises:
            UserError: an id is outside 0 .. vocab_size - 1.
        """

    @abstractmethod
    def as_json(self) -> dict[str, Any]:
        """Its content, without the type."""

    @classmethod
    @abstractmethod
    def from_json(cls, value: dict[str, Any]) -> "Tokenizer":
        """The tokenizer with the content ``value``.

        Raises:
            UserError: ``value`` is malformed; the message continues "FILE is not ".
        """

    @property
    @abstractmethod
    def byte_lengths(self) -> np.ndarray:
        """Bytes of text of each id: (vocab_size,), int64."""

    @property
    def dtype(self) -> np.dtype:
        """The smallest type that holds every id: uint8, or little-endian uint16 or uint32."""
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids: a list, an array or a tensor on the CPU.

        Incomplete characters, as at either end, become U+FFFD.

        Raises:
            UserError: an id is outside 0 .. vocab_size - 1.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        write_json(path, {"type": self.type, **self.as_json()})

    def checked(self, ids: Iterable[int]) -> np.ndarray:
        """``ids`` as an int64 array.

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

    @property
    @abstractmethod
    def content(self) -> Hashable:
        """All that its ids depend on."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.content == other.content

    def __hash__(self) -> int:
        return hash((self.type, self.content))
