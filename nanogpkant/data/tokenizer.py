"""Tokenizers: text to token ids and back, saved as readable JSON."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from nanogpkant.errors import UserError
from nanogpkant.files import read_json, write_json


class CharTokenizer:
    """One token a character (a Unicode code point); ids follow the order of the code points.

    Args:
        characters: the vocabulary, in any order; repeats are dropped.

    Raises:
        UserError: there are no characters, or one of them is not a single character.
    """

    def __init__(self, characters: Sequence[str]):
        if not characters or not all(map(_is_character, characters)):
            raise UserError("a character vocabulary must be one or more single characters")
        self.characters = tuple(sorted(set(characters)))
        # code point of each id, and id of each code point; -1 stands for "not in the vocabulary"
        self._codes = np.array([ord(character) for character in self.characters], dtype="<u4")
        self._ids = np.full(self._codes[-1] + 2, -1, dtype=np.int32)
        self._ids[self._codes] = np.arange(self.vocab_size)

    @classmethod
    def from_text(cls, chunks: Iterable[str]) -> "CharTokenizer":
        """The tokenizer whose vocabulary is every character that occurs in ``chunks``."""
        characters: set[str] = set()
        for chunk in chunks:
            characters.update(chunk)
        return cls(tuple(characters))

    @classmethod
    def load(cls, path: Path) -> "CharTokenizer":
        """Read what ``save`` wrote.

        Raises:
            UserError: the file is missing or malformed.
        """
        value = read_json(path)
        characters = value.get("characters") if isinstance(value, dict) else None
        if (
            not isinstance(characters, list)
            or not characters
            or not all(map(_is_character, characters))
            or characters != sorted(set(characters))  # any other order would renumber the tokens
        ):
            raise UserError(
                f"{path} is not a character tokenizer: "
                '"characters" must be a sorted list of distinct single characters'
            )
        return cls(characters)

    def save(self, path: Path) -> None:
        """Write the vocabulary to ``path`` as JSON, atomically."""
        write_json(path, {"type": "char", "characters": list(self.characters)})

    @property
    def vocab_size(self) -> int:
        """How many characters there are."""
        return len(self.characters)

    @property
    def dtype(self) -> np.dtype:
        """The smallest type that holds every id: little-endian uint16, or uint32 past 65,536."""
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")

    def encode(self, text: str) -> np.ndarray:
        """Token ids of ``text``: shape (len(text),), type ``dtype``.

        Raises:
            UserError: ``text`` holds a character outside the vocabulary.
        """
        # surrogatepass: a terminal's undecodable byte should be reported below as unseen
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        ids = self._ids[np.minimum(codes, len(self._ids) - 1)]  # the last entry is always -1
        if (ids < 0).any():
            raise UserError(self._unseen([text[i] for i in np.flatnonzero(ids < 0)]))
        return ids.astype(self.dtype)

    def decode(self, ids: Iterable[int]) -> str:
        """The text whose token ids are ``ids``: a list, an array or a tensor on the CPU.

        Raises:
            UserError: an id is outside 0 .. vocab_size - 1.
        """
        ids = np.asarray(ids, dtype=np.int64)
        outside = ids[(ids < 0) | (ids >= self.vocab_size)]
        if outside.size:
            raise UserError(
                f"token id {outside[0]} has no character: ids run from 0 to {self.vocab_size - 1}"
            )
        return self._codes[ids].tobytes().decode("utf-32-le")

    def _unseen(self, characters: Sequence[str]) -> str:
        named = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in list(dict.fromkeys(characters))[:5])
        vocabulary = "".join(self.characters)
        shown = repr(vocabulary if len(vocabulary) <= 100 else vocabulary[:100] + "...")
        return (
            f"the text holds characters that the vocabulary does not: {named}; "
            f"use only its {self.vocab_size} characters {shown}"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CharTokenizer) and self.characters == other.characters

    def __hash__(self) -> int:
        return hash(self.characters)

    def __repr__(self) -> str:
        return f"CharTokenizer({''.join(self.characters)!r})"


TOKENIZERS = {"char": CharTokenizer}  # by the "type" in their files


def load_tokenizer(path: Path) -> CharTokenizer:
    """Read a tokenizer of whichever type ``path`` says it is.

    Raises:
        UserError: the file is missing, malformed or of an unknown type.
    """
    value = read_json(path)
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in list(TOKENIZERS):
        known = ", ".join(map(repr, TOKENIZERS))
        raise UserError(f'{path} is not a tokenizer: its "type" is {kind!r}, not one of {known}')
    return TOKENIZERS[kind].load(path)


def _is_character(value: object) -> bool:
    """Whether ``value`` is one character that UTF-8 can hold, which a surrogate half is not."""
    return isinstance(value, str) and len(value) == 1 and not "\ud800" <= value <= "\udfff"
