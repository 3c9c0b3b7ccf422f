"""Errors for the user: one line that names the problem and the remedy."""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any, NoReturn

# In messages of torch about a tensor that does not fit.
TOO_LARGE = re.compile(
    "out of memory|allocate (shared )?memory|enough memory|ALLOC_FAILED|bad_alloc|buffer size"
    "|[Ss]torage size|overflow"
)
# Names of types, for people.
IN_WORDS = {
    **{"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"},
    **{"list": "a list such as [a, b]", "tuple": "two numbers such as [-1, 1]"},
}


class UserError(Exception):
    """A problem that the user can solve. Printed as one line; exit status 1."""

    exit_status = 1


class UsageError(UserError):
    """An invalid flag, key or value. Raised before anything is loaded; exit status 2."""

    exit_status = 2


def refuse(flag: str, value: object, remedy: str) -> NoReturn:
    """Raise the one-line error for an invalid value of a flag."""
    raise UsageError(f"--{flag} {value!s:.80}: {remedy}")


def check_seed(seed: Any, flag: str = "seed") -> None:
    """Refuse a seed outside the range of any random generator in use."""
    is_whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if not (is_whole and 0 <= int(seed) < 2**31):
        refuse(flag, seed, "must be a whole number from 0 to 2147483647")


def require_positive(**values: int | None) -> None:
    """Refuse a count that is given and below 1, or above what any computer could do.

    Raises:
        UsageError: naming the flag.
    """
    for name, value in values.items():
        if value is not None and not 1 <= value <= 10**12:
            most = "at least 1" if value < 1 else f"at most {10**12:,}"
            refuse(name, value, f"must be {most}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    if isinstance(error, RuntimeError):
        return bool(TOO_LARGE.search(str(error)))
    return isinstance(error, MemoryError)


def one_line(error: BaseException) -> str:
    """The message of an error as one line of at most 800 characters; its type if it has none."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 800 else f"{words[:500]} ... {words[-250:]}"


def nearest(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """A hint for an unknown name: the most similar known one, else ``otherwise`` or all of them.

    The last parts of dotted names are compared too.
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    if not near:
        last_parts = {each.rpartition(".")[2].lstrip("-"): each for each in known}
        last = name.rpartition(".")[2].lstrip("-")
        near = [last_parts[part] for part in difflib.get_close_matches(last, last_parts, n=1)]
    return f"did you mean {near[0]}?" if near else otherwise or f"known are {', '.join(known)}"


@contextmanager
def from_extra(extra: str, what: str) -> Iterator[None]:
    """Import packages of an optional dependency inside.

    Raises:
        UserError: one is missing; the message begins with ``what`` and says how to install it.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        remedy = f"pip install 'nanogpkant[{extra}]'"
        raise UserError(f"{what} needs the {package} package: {remedy}") from error


@contextmanager
def prefixed(place: str) -> Iterator[None]:
    """Put a place, a file for instance, before the message of any UserError."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{place}: {error}") from error


class ToldElsewhereError(UserError):
    """An error that another process of the same run reports for all."""

    def __init__(self, exit_status: int) -> None:
        super().__init__("rank 0 reports the reason")
        self.exit_status = exit_status
