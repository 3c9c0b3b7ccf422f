"""Tokenizers: text to token ids and back, saved as readable JSON."""

from pathlib import Path

from nanogpkant.data.tokenizer.base import Tokenizer
from nanogpkant.data.tokenizer.byte import ByteTokenizer
from nanogpkant.data.tokenizer.char import CharTokenizer
from nanogpkant.errors import UserError
from nanogpkant.files import read_json

__all__ = ["TOKENIZERS", "ByteTokenizer", "CharTokenizer", "Tokenizer", "load_tokenizer"]

KINDS: tuple[type[Tokenizer], ...] = (CharTokenizer, ByteTokenizer)
TOKENIZERS = {kind.type: kind for kind in KINDS}  # by the "type" in their files


def load_tokenizer(path: Path) -> Tokenizer:
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
