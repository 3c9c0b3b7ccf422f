"""From a stream of text to pieces of documents, and from documents to splits.

A piece is (text, whether its document ends with it). A document is one piece, or, where it is long,
several: it is cut only where a space or a new line follows something else, which no tokenizer here
reaches across, so that the tokens are those of the whole.
"""

import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b

from nanogpkant.base.errors import UserError

Piece = tuple[str, bool]

PIECE = 1 << 20  # characters, about, that long documents are cut into
HEAD = 1 << 16  # characters at a document's beginning that decide on its split
WINDOW = 1 << 12  # characters at a piece's end in which a place to cut is looked for
LONGEST = 1 << 23  # characters without a place to cut at, after which the cut comes anyway

GAP = re.compile(r"(?<=\S)[ \n]")


def pieces(chunks: Iterable[str], separator: str | None = None) -> Iterator[Piece]:
    """Cut a stream of text into documents at ``separator``, which is dropped, and into pieces.

    Without a separator all of it is one document. Empty documents are left out, and between
    separators blank ones. The first piece of a document has its first ``HEAD`` characters at least,
    or all of it.
    """
    rest, begun = "", False
    for chunk in chunks:
        rest += chunk
        if separator:
            *whole, rest = rest.split(separator)
            for document in whole:
                if begun or document.strip():
                    yield document, True
                begun = False
        if len(rest) >= PIECE and (at := _last_gap(rest, len(separator or ""))):
            yield rest[:at], False
            rest, begun = rest[at:], True
    if begun or (rest.strip() if separator else rest):
        yield rest, True


def _last_gap(text: str, kept: int) -> int:
    """Where to cut a long text, but for the last ``kept`` characters; 0 is nowhere yet."""
    gaps = [match.start() for match in GAP.finditer(text, len(text) - WINDOW, len(text) - kept)]
    return gaps[-1] if gaps else (len(text) // 2 if len(text) >= LONGEST else 0)


class ByPosition:
    """One text, cut where so many characters have gone by.

    Args:
        lengths: characters of each split, in the order of the text, at least 1 each.
        label: what people call the text.
    """

    def __init__(self, lengths: dict[str, int], label: str):
        self._changed = UserError(f"{label} changed while it was read: prepare it again")
        self._left = [[split, length] for split, length in lengths.items()]

    def __call__(self, text: str, ends: bool) -> Iterator[tuple[str, str]]:
        """The parts of the next piece, each with its split.

        Raises:
            UserError: the text is longer than the splits, or ends before them.
        """
        while text:
            if not self._left:
                raise self._changed
            split, length = self._left[0]
            part, text = text[:length], text[length:]
            yield split, part
            self._left[0][1] -= len(part)
            if length == len(part):
                self._left.pop(0)
        if ends and self._left:
            raise self._changed


class ByContent:
    """Documents, each in the split that a hash of its beginning says.

    The same text is in the same split wherever it occurs, whatever else there is, so that no copy
    of a training document is validated on.

    Args:
        val_fraction: share of the documents that is for validation.
    """

    def __init__(self, val_fraction: float):
        self._limit = int(val_fraction * (1 << 64))
        self._split: str | None = None  # of the document that goes on

    def __call__(self, text: str, ends: bool) -> Iterator[tuple[str, str]]:
        """The next piece with its split."""
        if self._split is None:
            head = text[:HEAD].encode("utf-8", "surrogateescape")
            draw = int.from_bytes(blake2b(head, digest_size=8).digest(), "big")
            self._split = "val" if draw < self._limit else "train"
        split, self._split = self._split, None if ends else self._split
        yield split, text
