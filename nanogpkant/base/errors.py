"""Errors for the user: one line that names the problem and the remedy."""

import re

# In messages of torch about a tensor that does not fit.
TOO_LARGE = re.compile("memory|[Ss]torage size|overflow")


class UserError(Exception):
    """A problem that the user can solve. Printed as one line; exit status 1."""

    exit_status = 1


class UsageError(UserError):
    """An invalid flag, key or value. Raised before anything is loaded; exit status 2."""

    exit_status = 2


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    if isinstance(error, RuntimeError):
        return bool(TOO_LARGE.search(str(error)))
    return isinstance(error, MemoryError)


def one_line(error: BaseException) -> str:
    """The message of a library's error as one line; its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


class ToldElsewhereError(UserError):
    """An error that another process of the same run reports for all."""

    def __init__(self, exit_status: int) -> None:
        super().__init__("rank 0 reports the reason")
        self.exit_status = exit_status
