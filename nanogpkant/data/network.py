"""What comes over a network: never waited for without an end, and one clear line where it fails."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

from nanogpkant.base.errors import UserError

DOWNLOAD_TIMEOUT = 30  # seconds without an answer
ANSWER_TIMEOUT = 60  # seconds until a library that reaches out has to be done

Result = TypeVar("Result")


def download(url: str, remedy: str) -> bytes:
    """All that lies at ``url``.

    Raises:
        UserError: it cannot be had; the message ends with ``remedy``.
    """
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT) as response:
            return response.read()
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"cannot download {url}: {error}; try again, or {remedy}") from error


def check_reachable(url: str, what: str, remedy: str) -> None:
    """Make sure that a server answers at all, whatever it says.

    Raises:
        UserError: it does not, so that there is no way to ``what``; the message ends with
            ``remedy``.
    """
    try:
        urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT).close()
    except urllib.error.HTTPError:
        return
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"cannot get {what}: {url} does not answer ({error}); {remedy}") from error


def answer(ask: Callable[[], Result], what: str, remedy: str) -> Result:
    """What ``ask`` returns, which may reach out to a network and has its own idea of patience.

    Raises:
        UserError: it failed, or took longer than ``ANSWER_TIMEOUT`` seconds; ``what`` names what
            was wanted, and the message ends with ``remedy``.
    """
    answers: SimpleQueue[tuple[bool, object]] = SimpleQueue()

    def work() -> None:
        try:
            answers.put((True, ask()))
        except Exception as error:  # each library has errors of its own
            answers.put((False, error))

    Thread(target=work, daemon=True).start()
    try:
        succeeded, found = answers.get(timeout=ANSWER_TIMEOUT)
    except Empty:
        succeeded, found = False, f"no answer in {ANSWER_TIMEOUT} seconds"
    if not succeeded:
        reason = " ".join(str(found).split())[:200] or type(found).__name__
        raise UserError(f"cannot get {what}: {reason}; {remedy}")
    return found
