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
        byte_lengths: bytes of text of each id: (vocab_size,), int64.
        dtype: of ids: uint8 for bytes, otherwise little-endian uint16 or, if too small, uint32.
        eot: the id that ends a document in a sequence of documents; None: there is none.
        start: prompt of a text generated without one.
    """

    type: ClassVar[str]
    eot: int | None = None
    start: str = "\n"

    def __init__(self, byte_lengths: Iterable[int], content: Hashable):
        self.byte_lengths = np.array(list(byte_lengths), dtype=np.int64)
        self.vocab_size = len(self.byte_lengths)
        self.dtype = np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")
        self._content = content  # all that ids depend on

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

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._content == other._content

    def __hash__(self) -> int:
        return hash((self.type, self._content))
