"""Text into tokens: datasets by name, tokenizers, token files and batches."""

from nanogpkant.data.batches import Batches, blocks, check_length
from nanogpkant.data.corpus import DATASETS, Dataset, Options, ensure, prepare
from nanogpkant.data.tokenizer import (
    TOKENIZERS,
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    load_tokenizer,
)
from nanogpkant.data.tokens import TokenData, Tokens

__all__ = [
    "DATASETS",
    "TOKENIZERS",
    "Batches",
    "ByteTokenizer",
    "CharTokenizer",
    "Dataset",
    "Options",
    "TokenData",
    "Tokenizer",
    "Tokens",
    "blocks",
    "check_length",
    "ensure",
    "load_tokenizer",
    "prepare",
]
