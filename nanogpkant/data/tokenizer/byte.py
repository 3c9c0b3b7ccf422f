"""One token a byte."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from nanogpkant.data.tokenizer.base import Tokenizer


class ByteTokenizer(Tokenizer):
    """One token a byte of UTF-8: 256 ids, for any text, and for any bytes at all.

    Bytes that are not UTF-8 go through text as Python's surrogate escapes and come out unchanged.
    Byte 0, which text does not hold, ends a document where several follow one another.
    """

    type = "byte"
    vocab_size = 256
    eot = 0
    dtype = np.dtype("u1")
    byte_lengths = np.ones(256, dtype=np.int64)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ByteTokenizer":
        return cls()

    def as_json(self) -> dict[str, Any]:
        return {}

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8", "surrogateescape"), dtype=self.dtype)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return self.checked(ids).astype(self.dtype).tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByteTokenizer)

    def __hash__(self) -> int:
        return hash(self.type)

    def __repr__(self) -> str:
        return "ByteTokenizer()"
