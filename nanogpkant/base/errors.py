"""Errors meant for a person: one line that names what is wrong and what would be right."""

import re

# What torch says where a tensor does not fit.
TOO_LARGE = re.compile("memory|[Ss]torage size|overflow")


class UserError(Exception):
    """Something the person running the program can mend. Printed as one line; exit status 1."""

    exit_status = 1


class UsageError(UserError):
    """A flag, key or value that can never work. Raised before anything is loaded; exit status 2."""

    exit_status = 2


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that something does not fit into memory."""
    if isinstance(error, RuntimeError):
        return bool(TOO_LARGE.search(str(error)))
    return isinstance(error, MemoryError)


def one_line(error: BaseException) -> str:
    """What another project's error says, for a line of ours."""
    return " ".join(str(error).split()) or type(error).__name__


class ToldElsewhereError(UserError):
    """An error that another process of the same run says for all."""

    def __init__(self, exit_status: int) -> None:
        super().__init__("rank 0 says why")
        self.exit_status = exit_status
