"""Tokenizers: text to token ids and back, saved as readable JSON."""

from pathlib import Path

from nanogpkant.base.errors import UserError
from nanogpkant.base.files import read_json
from nanogpkant.data.tokenizer.base import Tokenizer
from nanogpkant.data.tokenizer.bpe import SMALLEST_BPE, BPETokenizer, gpt2, train_bpe
from nanogpkant.data.tokenizer.byte import ByteTokenizer
from nanogpkant.data.tokenizer.char import END, CharTokenizer

__all__ = [
    "END",
    "SMALLEST_BPE",
    "TYPES",
    "BPETokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "Tokenizer",
    "gpt2",
    "load_tokenizer",
    "train_bpe",
]

# by the "type" in their files
TYPES: dict[str, type[Tokenizer]] = {
    kind.type: kind for kind in (CharTokenizer, ByteTokenizer, BPETokenizer)
}


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer of any type.

    Raises:
        UserError: the file is missing, malformed or of an unknown type.
    """
    value = read_json(path)
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in list(TYPES):
        known = ", ".join(map(repr, TYPES))
        raise UserError(f'{path} is not a tokenizer: its "type" is {kind!r}, not one of {known}')
    try:
        return TYPES[kind].from_json(value)
    except UserError as error:
        raise UserError(f"{path} is not {error}") from error
