"""A run's tokenizer as transformers reads one: tokenizer.json of the tokenizers library.

Ids are the same, every text that the run's tokenizer takes comes back unchanged, and no code is
needed. A character that the model has never seen is an error, as it is here: dropping it or putting
another in its place would be a silent change of the text.
"""

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from nanogpkant.data import CharTokenizer

PADDING = "<|pad|>"


def to_tokenizers(tokenizer: CharTokenizer) -> Tokenizer:
    """The same tokenizer, of the tokenizers library."""
    made = of_characters(tokenizer)
    made.add_special_tokens([AddedToken(PADDING, special=True, normalized=False)])
    return made


def of_characters(tokenizer: CharTokenizer) -> Tokenizer:
    ids = {character: number for number, character in enumerate(tokenizer.characters)}
    made = Tokenizer(models.WordLevel(ids, unk_token=""))  # there is no such token: an error
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    return made


def tokenizer_config(block_size: int) -> dict[str, Any]:
    """tokenizer_config.json: what transformers adds to it.

    Padding has an id beyond the model's, which never reads it: see ``attention_mask`` there. It
    stands on the left, where ``generate`` wants it. A text that happens to hold its name is text.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PADDING,
        "padding_side": "left",
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": block_size,
        "model_input_names": ["input_ids", "attention_mask"],
    }
