"""A run's tokenizer as tokenizer.json of the tokenizers library, for transformers and others.

Ids are the same and every text is restored unchanged. A character that a character tokenizer does
not know is an error there too: to drop or replace it would silently change the text.
"""

from itertools import pairwise
from typing import Any

from nanogpkant.base.errors import from_extra
from nanogpkant.data import BPETokenizer, ByteTokenizer, CharTokenizer
from nanogpkant.data import Tokenizer as OurTokenizer
from nanogpkant.data.tokenizer.bpe import END, shown_bytes

with from_extra("hf", "a tokenizer for other libraries"):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

PADDING = "<|pad|>"


def to_tokenizers(tokenizer: OurTokenizer) -> Tokenizer:
    """The same tokenizer, of the tokenizers library."""
    made = {"char": _of_characters, "byte": _of_bytes, "bpe": _of_pairs}[tokenizer.type](tokenizer)
    special = END if END in made.get_vocab() else PADDING
    made.add_special_tokens([AddedToken(special, special=True, normalized=False)])
    return made


def _of_characters(tokenizer: CharTokenizer) -> Tokenizer:
    ids = {character: number for number, character in enumerate(tokenizer.characters)}
    made = Tokenizer(models.WordLevel(ids, unk_token=""))  # no such token: an error
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    return made


def _of_bytes(tokenizer: ByteTokenizer) -> Tokenizer:
    made = Tokenizer(models.BPE({shown: byte for byte, shown in enumerate(shown_bytes())}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return made


def _of_pairs(tokenizer: BPETokenizer) -> Tokenizer:
    shown = shown_bytes()
    names = ["".join(shown[byte] for byte in token) for token in tokenizer.tokens]
    ids = {name: number for number, name in enumerate(names)} | {END: len(names)}
    pairs = [(names[a], names[b]) for a, b in merges(tokenizer.tokens)]
    made = Tokenizer(models.BPE(ids, pairs, ignore_merges=True))
    cut = pre_tokenizers.Split(Regex(tokenizer.pattern), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([cut, to_bytes])
    made.decoder = decoders.ByteLevel()
    return made


def merges(tokens: tuple[bytes, ...]) -> list[tuple[int, int]]:
    """The two tokens that each token of several bytes is merged from, by increasing id.

    Ids give the order of merges, not the pairs: a token's pair is what remains of its bytes after
    all merges of lower ids.
    """
    ids = {token: number for number, token in enumerate(tokens)}
    found = []
    for number, token in enumerate(tokens):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            joined = [ids.get(a + b, number) for a, b in pairwise(parts)]
            if (lowest := min(joined)) >= number:
                break  # no pairs lead to it: it only stands for a text that is exactly this token
            at = joined.index(lowest)
            parts[at : at + 2] = [tokens[lowest]]
        if len(parts) == 2:
            found.append((ids[parts[0]], ids[parts[1]]))
    return found


def tokenizer_config(tokenizer: OurTokenizer, block_size: int) -> dict[str, Any]:
    """tokenizer_config.json, with transformers' own settings.

    Padding stands on the left, as ``generate`` needs. The padding token is the one that ends a text
    or else has an id beyond the vocabulary, which the model never reads: see its
    ``attention_mask``. In a text, the names of both are ordinary characters.
    """
    ends = {"eos_token": END, "bos_token": END} if tokenizer.type == "bpe" else {}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **ends,
        "pad_token": END if ends else PADDING,
        "padding_side": "left",
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": block_size,
        "model_input_names": ["input_ids", "attention_mask"],
    }
