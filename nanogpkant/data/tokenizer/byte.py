"""One token a byte."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from nanogpkant.data.tokenizer.base import Tokenizer


class ByteTokenizer(Tokenizer):
    """One token a byte of UTF-8: 256 ids, for any text and any bytes.

    Bytes that are not UTF-8 are surrogate escapes in text and round-trip unchanged. Byte 0, which
    text does not contain, ends a document.
    """

    type = "byte"
    eot = 0

    def __init__(self) -> None:
        super().__init__([0] + [1] * 255, content=None)
        self.dtype = np.dtype("u1")

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ByteTokenizer":
        return cls()

    def as_json(self) -> dict[str, Any]:
        return {}

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8", "surrogateescape"), dtype=self.dtype)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return self.checked(ids).astype(self.dtype).tobytes()

    def __repr__(self) -> str:
        return "ByteTokenizer()"
