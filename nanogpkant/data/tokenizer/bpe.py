"""Byte-level byte-pair encoding: GPT-2's, or one trained here."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from nanogpkant.base.errors import UserError, from_extra
from nanogpkant.data.network import answer
from nanogpkant.data.tokenizer.base import Tokenizer

END = "<|endoftext|>"
SMALLEST_BPE = 257  # tokens: every byte, and the end of text

# Pretokens of GPT-2: contractions, words, numbers and other signs, each with a space before it, and
# white space. Possessive quantifiers: same result, faster.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


class BPETokenizer(Tokenizer):
    """Byte-pair encoding by tiktoken: in each pretoken the pair with the lowest id merges first.

    ``<|endoftext|>`` in a text is text; only ``eot`` ends a document.

    Args:
        tokens: the bytes of each id; every single byte is among them.
        pattern: regular expression of the pretokens.

    Raises:
        UserError: tiktoken is not installed, or the tokens or the pattern are invalid.
    """

    type = "bpe"

    def __init__(self, tokens: Sequence[bytes], pattern: str = PATTERN):
        self.tokens, self.pattern = tuple(tokens), pattern
        self.eot = len(self.tokens)
        super().__init__([*map(len, self.tokens), 0], (self.tokens, pattern))
        if len(set(self.tokens)) < self.eot or not {bytes([b]) for b in range(256)} <= set(tokens):
            raise UserError("a byte-level vocabulary: its tokens must differ and have every byte")
        with from_extra("data", "byte-pair encoding"):
            import tiktoken
        ranks = {token: id_ for id_, token in enumerate(self.tokens)}
        try:
            self._encoding = tiktoken.Encoding(
                "bpe", pat_str=pattern, mergeable_ranks=ranks, special_tokens={END: self.eot}
            )
        except ValueError as error:
            problem = "a byte-level vocabulary: its pattern is no regular expression"
            raise UserError(problem) from error

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "BPETokenizer":
        tokens, pattern = value.get("tokens"), value.get("pattern")
        if not isinstance(pattern, str) or not isinstance(tokens, list):
            raise UserError('a byte-level vocabulary: it needs "tokens" and a "pattern"')
        try:
            return cls([token.encode("latin-1") for token in tokens], pattern)
        except (AttributeError, UnicodeEncodeError) as error:
            message = 'a byte-level vocabulary: "tokens" must be strings, a character for each byte'
            raise UserError(message) from error

    def as_json(self) -> dict[str, Any]:
        return {
            "pattern": self.pattern,
            "tokens": [token.decode("latin-1") for token in self.tokens],
        }

    def encode(self, text: str) -> np.ndarray:
        try:
            return self._encoding.encode_to_numpy(text, disallowed_special=()).astype(self.dtype)
        except UnicodeEncodeError as error:
            raise UserError(f"the text has no UTF-8 form: {error.reason}") from error

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return self._encoding.decode_bytes(self.checked(ids).tolist())

    def __reduce__(self) -> tuple:
        return BPETokenizer, (self.tokens, self.pattern)

    def __repr__(self) -> str:
        return f"BPETokenizer({self.vocab_size} tokens)"


def gpt2() -> BPETokenizer:
    """GPT-2's tokenizer, 50,257 tokens; tiktoken downloads and caches it.

    Raises:
        UserError: tiktoken is not installed, or cannot get it.
    """
    with from_extra("data", "--tokenizer gpt2"):
        import tiktoken
    remedy = "prepare where there is a network, or give --tokenizer a tokenizer.json made there"
    encoding = answer(lambda: tiktoken.get_encoding("gpt2"), "GPT-2's vocabulary", remedy)
    return BPETokenizer(
        [encoding.decode_single_token_bytes(id_) for id_ in range(encoding.eot_token)]
    )


def train_bpe(texts: Iterable[str], vocab_size: int) -> BPETokenizer:
    """Train a vocabulary of ``vocab_size`` tokens, or fewer if ``texts`` have too few pairs.

    Raises:
        UserError: the tokenizers package is not installed.
    """
    with from_extra("data", "--tokenizer bpe"):
        from tokenizers import Tokenizer as Trained
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import ByteLevel
        from tokenizers.trainers import BpeTrainer
    trained = Trained(BPE())
    trained.pre_tokenizer = ByteLevel(add_prefix_space=False)  # cuts by the same pattern
    trainer = BpeTrainer(
        vocab_size=vocab_size - 1,  # and the end of text
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    ids = trained.get_vocab()
    byte_of = {character: byte for byte, character in enumerate(shown_bytes())}
    tokens = sorted(ids, key=lambda token: ids[token])
    return BPETokenizer([bytes(byte_of[character] for character in token) for token in tokens])


def shown_bytes() -> list[str]:
    """The character for each byte in the files of GPT-2's vocabulary."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]  # printable in Latin-1
    others = iter(range(256, 512))
    return [chr(byte if byte in shown else next(others)) for byte in range(256)]
