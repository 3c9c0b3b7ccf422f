"""The tokenizer beside a GPT-2, read as one of ours."""

from pathlib import Path
from typing import Any

from nanogpkant.base.errors import UserError
from nanogpkant.base.files import read_json, read_text
from nanogpkant.data.tokenizer import BPETokenizer
from nanogpkant.data.tokenizer.bpe import END, shown_bytes

REMEDY = "take it away, and the tokenizer of --data.dataset counts"


def read_tokenizer(folder: Path) -> BPETokenizer | None:
    """Read ``vocab.json`` and ``merges.txt``, or ``tokenizer.json``; None without either.

    Raises:
        UserError: not of GPT-2's kind: byte-level, tokens in the order of their merges, the end of
            text last.
    """
    file = folder / "vocab.json"
    if file.is_file() and (folder / "merges.txt").is_file():
        lines = read_text(folder / "merges.txt").splitlines()
        merges = [line for line in lines if line and not line.startswith("#version")]
        return _from(file, read_json(file), merges)
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        saved = read_json(file)
        model, cut = saved["model"], saved["pre_tokenizer"]
        cuts_alike = cut["type"] == "ByteLevel" and not cut["add_prefix_space"]
        cuts_alike &= cut.get("use_regex", True)
        if model["type"] != "BPE" or not cuts_alike or saved["normalizer"] is not None:
            raise UserError(f"{file} is no byte-level tokenizer of GPT-2's kind: {REMEDY}")
        added = {token["content"]: token["id"] for token in saved["added_tokens"]}
        merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
        return _from(file, model["vocab"] | added, merges)
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} is not a file of the tokenizers package: {REMEDY}") from error


def _from(file: Path, vocabulary: Any, merges: list[str]) -> BPETokenizer:
    """Tokens in the order of their ids, which must be the order of the merges."""
    if not isinstance(vocabulary, dict) or not all(type(i) is int for i in vocabulary.values()):
        raise UserError(f"{file} is no vocabulary of tokens and ids: {REMEDY}")
    byte_of = {character: byte for byte, character in enumerate(shown_bytes())}
    names = sorted(vocabulary, key=vocabulary.__getitem__)
    merged = [merge.replace(" ", "", 1) for merge in merges]
    is_in_order = [vocabulary[name] for name in names] == list(range(len(names)))
    if not is_in_order or names[-1:] != [END] or names[len(byte_of) : -1] != merged:
        problem = f"256 bytes, then the merges in their order, then {END}"
        raise UserError(f"{file} is not of GPT-2's kind, {problem}: {REMEDY}")
    try:
        return BPETokenizer([bytes(byte_of[c] for c in name) for name in names[:-1]])
    except KeyError as error:
        raise UserError(f"{file} has a token with {error}, which is no byte: {REMEDY}") from error
