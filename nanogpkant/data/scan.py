"""The pass before any token is made: which corpus is this, and which characters occur in it?"""

import hashlib
from dataclasses import dataclass

from nanogpkant.base.errors import UserError
from nanogpkant.data.sources import Advance, Source, sha256_of_files
from nanogpkant.data.tokenizer.char import END


@dataclass(frozen=True)
class Scan:
    """What the pass finds out.

    Attributes:
        sha256: identifies the corpus: of the text itself where it is one text.
        checksum: of one text, in the form of the dataset's own; None where that has none.
        length: of one text, in characters.
        characters: that occur, where that was asked.
    """

    sha256: str
    checksum: str | None
    length: int
    characters: tuple[str, ...]


def scan(source: Source, is_alphabet_asked: bool, checksum: str | None, advance: Advance) -> Scan:
    """Read a corpus once, or twice: documents are identified by their files as they lie there.

    Raises:
        UserError: it cannot be read, or is empty.
    """
    if source.one_text:
        return _scan_text(source, is_alphabet_asked, checksum, advance)
    sha256 = source.sha256 or sha256_of_files(source, advance)
    characters: set[str] = set()
    if is_alphabet_asked:
        for part in source.parts:
            for text, _ in part.read(advance):
                characters.update(text)
        characters.add(END)
    return Scan(sha256, checksum, 0, tuple(sorted(characters)))


def _scan_text(
    source: Source, is_alphabet_asked: bool, checksum: str | None, advance: Advance
) -> Scan:
    kind = (checksum or "sha256").partition(":")[0]
    digests = {name: hashlib.new(name, usedforsecurity=False) for name in ("sha256", kind)}
    length, characters = 0, set()
    for text, _ in source.parts[0].read(advance):
        length += len(text)
        content = text.encode("utf-8", "surrogateescape")
        for digest in digests.values():
            digest.update(content)
        if is_alphabet_asked:
            characters.update(text)
    if length < 2:  # one character a split
        raise UserError(f"{source.label} is empty: a dataset needs text to train and validate on")
    found = checksum and f"{kind}:{digests[kind].hexdigest()}"
    return Scan(digests["sha256"].hexdigest(), found, length, tuple(sorted(characters)))
