"""What a verb returns: an object in Python, words or JSON on the command line."""

from typing import Any, ClassVar


class Answer:
    """Base of every verb's result."""

    on_stdout: ClassVar[bool] = True
    """whether ``words`` are the product itself, for standard output; otherwise they only say what
    was done, and go to standard error"""
    failure: str | None = None
    """why the command fails all the same, after its words were printed; exit status 1"""

    def as_dict(self) -> Any:
        """The same in types of JSON, for ``--json``."""
        raise NotImplementedError

    def words(self) -> str:
        """The same for a person, of one or more lines."""
        raise NotImplementedError
