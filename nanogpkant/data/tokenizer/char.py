"""One token a character."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from nanogpkant.base.errors import UserError
from nanogpkant.data.tokenizer.base import Tokenizer

END = "\0"  # ends a document; text does not contain it otherwise


class CharTokenizer(Tokenizer):
    """One token a character (a Unicode code point); ids are in the order of code points.

    Args:
        characters: the vocabulary, in any order; repeats are dropped.

    Raises:
        UserError: there are no characters, or one of them is not a single character.
    """

    type = "char"

    def __init__(self, characters: Sequence[str]):
        if not characters or not all(map(_is_character, characters)):
            raise UserError("a character vocabulary must be one or more single characters")
        self.characters = tuple(sorted(set(characters)))
        sizes = (len(c.encode("utf-8")) * (c != END) for c in self.characters)
        super().__init__(sizes, self.characters)
        self.eot = self.characters.index(END) if END in self.characters else None
        self.start = "\n" if "\n" in self.characters else self.characters[0]
        # code point of each id, and id of each code point, -1 if not in the vocabulary
        self._codes = np.array([ord(character) for character in self.characters], dtype="<u4")
        self._ids = np.full(self._codes[-1] + 2, -1, dtype=np.int32)
        self._ids[self._codes] = np.arange(self.vocab_size)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "CharTokenizer":
        characters = value.get("characters")
        if (
            not isinstance(characters, list)
            or not characters
            or not all(map(_is_character, characters))
            or characters != sorted(set(characters))  # another order would renumber the tokens
        ):
            raise UserError(
                'a character tokenizer: "characters" must be a sorted list of distinct single '
                "characters"
            )
        return cls(characters)

    def as_json(self) -> dict[str, Any]:
        return {"characters": list(self.characters)}

    def encode(self, text: str) -> np.ndarray:
        # surrogatepass: an undecodable byte from a terminal is reported below
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        ids = self._ids[np.minimum(codes, len(self._ids) - 1)]  # the last entry is always -1
        if (ids < 0).any():
            raise UserError(self._unseen([text[i] for i in np.flatnonzero(ids < 0)]))
        return ids.astype(self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        return self._codes[self.checked(ids)].tobytes().decode("utf-32-le")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return self.decode(ids).encode("utf-8")

    def _unseen(self, characters: Sequence[str]) -> str:
        named = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in list(dict.fromkeys(characters))[:5])
        vocabulary = "".join(self.characters)
        shown = repr(vocabulary if len(vocabulary) <= 100 else vocabulary[:100] + "...")
        return (
            f"the text holds characters that the vocabulary does not: {named}; "
            f"use only its {self.vocab_size} characters {shown}"
        )

    def __repr__(self) -> str:
        return f"CharTokenizer({''.join(self.characters)!r})"


def _is_character(value: object) -> bool:
    """Whether ``value`` is one character; a lone surrogate is not."""
    return isinstance(value, str) and len(value) == 1 and not "\ud800" <= value <= "\udfff"
