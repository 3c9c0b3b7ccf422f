"""The result of a verb: an object in Python, text or JSON on the command line; and that line."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar


class Answer:
    """Base of every verb's result, a dataclass."""

    on_stdout: ClassVar[bool] = True
    """whether ``words`` are the product, for standard output; otherwise they only report what was
    done, on standard error"""
    failure: str | None = None
    """reason for exit status 1, printed after the words"""

    def as_dict(self) -> Any:
        """The result in JSON types, for ``--json``."""
        return asdict(self)  # pyright: ignore[reportArgumentType]

    def words(self) -> str:
        """The result as text, of one or more lines."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.words()


def command_line() -> str:
    """The command that this process was started with, if it was one of ours."""
    program = Path(sys.argv[0])
    if "nanogpkant" in (program.stem, program.parent.name):
        return shlex.join(["nanogpkant", *sys.argv[1:]])
    return "called from Python"
