"""manifest.json: the SHA-256 of every file of a checkpoint or exported run, written beside them."""

from collections.abc import Collection, Iterable
from pathlib import Path

from nanogpkant.base.errors import UserError
from nanogpkant.base.files import read_json, sha256_of, write_json

MANIFEST = "manifest.json"


def write_manifest(folder: Path, step: int, names: Iterable[str]) -> None:
    """Record the files of a folder, and the step that their weights are of."""
    hashes = {name: sha256_of(folder / name) for name in names}
    write_json(folder / MANIFEST, {"step": step, "sha256": hashes})


def read_manifest(
    path: Path, required: Iterable[str], optional: Collection[str] = ()
) -> tuple[int, dict[str, str]]:
    """The step of a manifest's weights, and the SHA-256 of each of its files, by name.

    Args:
        required: names of files that must be in it.
        optional: names that may be; one that ends in / is any file in that folder.

    Raises:
        UserError: it is damaged, leaves a required file out, or names one that is neither.
    """
    manifest = read_json(path)
    try:
        step, hashes = manifest["step"], dict(manifest["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a checkpoint's manifest: altered") from error
    if not (type(step) is int and 0 <= step < 2**63):
        raise UserError(f"{path} is not a checkpoint's manifest: its step is {step!r:.30}")
    folders = [name for name in optional if name.endswith("/")]
    known = {*optional, *(f"{folder}{Path(name).name}" for folder in folders for name in hashes)}
    others = hashes.keys() - known
    for name in sorted({*required} ^ others):
        problem = "names" if name in hashes else "does not name"
        raise UserError(f"{path} {problem} {name}: it was altered, or is of another version")
    return step, hashes


def verify(folder: Path, required: Iterable[str], optional: Collection[str] = ()) -> int:
    """Compare a folder's files with its manifest; returns the step that their weights are of.

    Raises:
        UserError: a file is missing, or not the one that was saved.
    """
    step, hashes = read_manifest(folder / MANIFEST, required, optional)
    for name, sha256 in hashes.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing: the checkpoint is not whole")
        if sha256_of(folder / name) != sha256:
            remedy = "it was cut short or altered; use another checkpoint, or the original file"
            raise UserError(f"{folder / name} does not match {MANIFEST}: {remedy}")
    return step
