"""One writer a folder: a lock that the system releases when its holder ends, however it ends."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from nanogpkant.base.console import note
from nanogpkant.base.errors import UserError


class BusyError(UserError):
    """Another process writes that folder."""


@contextmanager
def only_writer(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder, made or not yet: a file beside it, removed at the end.

    Again in the same thread it is held once more. Between hosts it holds as far as their shared
    file system has locks: NFS and Lustre do, unless they are mounted without.

    Args:
        wait: until the other process is done, instead of an error.

    Raises:
        BusyError: another process holds it.
        UserError: the file cannot be written.
    """
    try:
        place = folder.resolve()  # the same by whichever name
        file = place.with_name(f".{place.name}.lock")
        lock = FileLock(file, is_singleton=True)
        made = [parent for parent in place.parents if not parent.exists()]
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            busy = f"{folder} is being written by {_holder(file)}"
            if not wait:
                raise BusyError(f"{busy}: wait until it is done, or end it") from None
            note(f"waiting: {busy}")
            lock.acquire()
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{folder} cannot be the name of a folder: {error}") from error
    try:
        with suppress(OSError):  # on Windows a locked file cannot be written
            file.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        if lock.lock_counter == 1:
            with suppress(OSError):  # on Windows a locked file cannot be removed
                file.unlink()
        lock.release()
        for parent in made:
            with suppress(OSError):  # it is not empty
                parent.rmdir()


def _holder(file: Path) -> str:
    """The process that holds a lock, as it has written itself."""
    try:
        return file.read_text(encoding="utf-8")[:200] or "another process"
    except (OSError, ValueError):
        return "another process"
