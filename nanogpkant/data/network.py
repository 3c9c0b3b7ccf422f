"""Requests over a network, bounded in time; failures are one-line errors that end with a remedy."""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import BinaryIO, TypeVar

from nanogpkant.base.console import note
from nanogpkant.base.errors import UserError, one_line

TIMEOUT = 30  # seconds without an answer
ANSWER_TIMEOUT = 60  # seconds for a library that makes requests of its own
ATTEMPTS = 3  # in a row that bring nothing new
PAUSE = 2  # seconds before another attempt
BLOCK_BYTES = 1 << 18

Progress = Callable[[int, int | None], None]  # (bytes done, bytes in all if known)
Result = TypeVar("Result")
FAILURES = (OSError, http.client.HTTPException)


def download(url: str, path: Path, progress: Progress, remedy: str) -> None:
    """Stream ``url`` into a file, continuing where a broken connection stopped."""
    attempts, furthest = 0, 0
    with open(path, "wb") as file:
        while True:
            try:
                return _continue_download(url, file, progress)
            except FAILURES as error:
                attempts = 0 if file.tell() > furthest else attempts + 1
                furthest = max(furthest, file.tell())
                is_refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
                if is_refused or attempts == ATTEMPTS:
                    reason = f"cannot download {url}: {one_line(error)}"
                    raise UserError(f"{reason}; try again, or {remedy}") from error
                note(f"{url}: {one_line(error)}; trying again")
                time.sleep(PAUSE)


def _continue_download(url: str, file: BinaryIO, progress: Progress) -> None:
    start = file.tell()
    headers = {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if start and response.status != http.client.PARTIAL_CONTENT:  # the whole file again
            file.seek(0)
            file.truncate()
        total = None if response.length is None else file.tell() + response.length
        while block := response.read(BLOCK_BYTES):
            file.write(block)
            progress(file.tell(), total)
        if response.length:  # the connection ended early
            raise http.client.IncompleteRead(b"", response.length)


def check_reachable(url: str, what: str, remedy: str) -> None:
    """Check that a server answers, with any status."""
    try:
        urllib.request.urlopen(url, timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        return
    except FAILURES as error:
        raise UserError(f"cannot get {what}: {url} does not answer ({error}); {remedy}") from error


def answer(ask: Callable[[], Result], what: str, remedy: str) -> Result:
    """The result of ``ask``, which may make requests without a time limit."""
    answers: SimpleQueue[Result | Exception] = SimpleQueue()

    def work() -> None:
        try:
            answers.put(ask())
        except Exception as error:  # libraries define their own
            answers.put(error)

    Thread(target=work, daemon=True).start()
    try:
        found = answers.get(timeout=ANSWER_TIMEOUT)
    except Empty:
        found = TimeoutError(f"no answer in {ANSWER_TIMEOUT} seconds")
    if isinstance(found, Exception):
        raise UserError(f"cannot get {what}: {one_line(found)[:200]}; {remedy}") from found
    return found
