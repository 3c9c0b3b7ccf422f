"""Reading files with clear errors, and writing them atomically, also if the process is killed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.base.lock import only_writer

LARGEST = 1 << 30  # bytes of a text that is read whole


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating-system error while writing ``path`` into one line.

    Raises:
        UserError: the disk is full, the folder is read-only, or the like.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free some space there, "
            "change its permissions or name another folder"
        ) from error


def fsync_file(path: Path) -> None:
    """Flush a file to the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    """Flush the entries of a folder, so that a rename survives a power failure (POSIX only)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, renamed to ``path`` at the end; the folder is made if missing.

    Raises:
        UserError: it cannot be written; the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            fsync_file(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(path.parent)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace the file ``path`` by ``content`` (text as UTF-8), completely or not at all.

    Bytes of a file's name that are not text, which Python reads as surrogates, become escapes.

    Raises:
        UserError: the file cannot be written.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_text(path: Path, most: int = LARGEST, errors: str = "strict") -> str:
    """Read a UTF-8 text file of at most so many bytes; ``errors`` as of ``bytes.decode``.

    Raises:
        UserError: the file is missing, larger or not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise UserError(f"{path} has more than {most:,} bytes: no such file is so large")
        return content.decode("utf-8", errors).replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        remedy = "save it as UTF-8 text first"
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): {remedy}") from error
    except ValueError as error:  # no name of a file
        raise UserError(f"cannot read {path}: {error}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file that this project wrote.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): it was damaged or edited") from error


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or has a key twice in one object.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is there twice")
    return values


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_new(out: Path) -> bool:
    """Whether there is nothing, or an empty folder, which is no link and not the current one."""
    is_free = out.is_dir() and not any(out.iterdir()) and out.resolve() != Path.cwd()
    return not out.is_symlink() and (is_free or not out.exists())


def check_is_new(out: Path) -> None:
    """Refuse ``--out`` where no new folder can be made.

    Raises:
        UsageError: ``is_new`` says so.
    """
    if not is_new(out):
        if out.resolve() == Path.cwd():
            raise UsageError(f"--out {out}: is the folder that you are in; name another")
        raise UsageError(f"--out {out}: exists and is not an empty folder; name another")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder to fill, renamed to ``out`` at the end; removed if anything fails.

    Raises:
        UserError: it cannot be written, or another process is writing it.
        UsageError: ``out`` is not empty.
    """
    place = out.absolute()  # "." has no name
    draft = place.with_name(f".{place.name}.tmp")
    with only_writer(out):
        check_is_new(out)
        with writing(out):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        try:
            yield draft
            with writing(out):
                if place.exists():
                    place.rmdir()
                draft.rename(place)
                fsync_folder(out.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
