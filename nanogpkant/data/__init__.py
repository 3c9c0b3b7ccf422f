"""Text into tokens: datasets by name, tokenizers, token files and batches."""

from nanogpkant.data.corpus import DATASETS, Dataset, ensure, prepare
from nanogpkant.data.tokenizer import CharTokenizer, load_tokenizer
from nanogpkant.data.tokens import Batches, TokenData, blocks, check_length

__all__ = [
    "DATASETS",
    "Batches",
    "CharTokenizer",
    "Dataset",
    "TokenData",
    "blocks",
    "check_length",
    "ensure",
    "load_tokenizer",
    "prepare",
]
