"""Text into tokens: datasets by name, tokenizers, token files and batches."""

from nanogpkant.data.batches import Batches, Blocks, blocks, check_length
from nanogpkant.data.corpus import DATASETS, Dataset, ensure, prepare
from nanogpkant.data.tokenizer import CharTokenizer, load_tokenizer
from nanogpkant.data.tokens import TokenData

__all__ = [
    "DATASETS",
    "Batches",
    "Blocks",
    "CharTokenizer",
    "Dataset",
    "TokenData",
    "blocks",
    "check_length",
    "ensure",
    "load_tokenizer",
    "prepare",
]
