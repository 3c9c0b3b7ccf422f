"""Text into tokens: datasets by name, tokenizers, token files and batches."""

from nanogpkant.data.batches import Batches, Blocks, blocks, check_length
from nanogpkant.data.catalog import DATASETS
from nanogpkant.data.corpus import TOKENIZERS, ensure, prepare
from nanogpkant.data.tokenizer import (
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    load_tokenizer,
)
from nanogpkant.data.tokens import SPLITS, Ids, TokenData, Tokens

__all__ = [
    "DATASETS",
    "SPLITS",
    "TOKENIZERS",
    "BPETokenizer",
    "Batches",
    "Blocks",
    "ByteTokenizer",
    "CharTokenizer",
    "Ids",
    "TokenData",
    "Tokenizer",
    "Tokens",
    "blocks",
    "check_length",
    "ensure",
    "load_tokenizer",
    "prepare",
]
