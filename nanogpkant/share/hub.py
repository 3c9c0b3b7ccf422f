"""``nanogpkant push`` and ``pull``: exported runs on the Hugging Face Hub, verified when pulled."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from nanogpkant.base.errors import UsageError, UserError, one_line
from nanogpkant.base.files import sha256_of
from nanogpkant.run.checkpoint import load_checkpoint
from nanogpkant.run.folder import EXPORTED, EXPORTED_IF_THERE, open_run
from nanogpkant.run.manifest import MANIFEST, read_manifest, verify
from nanogpkant.share.export import CARD, FOR_OTHERS, check_is_new, export_run, new_folder

TIMEOUT = 10  # seconds without an answer to the first request
LOG_IN = "log in with hf auth login, or set HF_TOKEN"


def push(path: Path, repo: str, private: bool = False) -> dict[str, Any]:
    """Upload a run, exported or to be exported, to the Hub.

    Args:
        path: the folder of an exported run, in any format, or of a run, of which the best
            checkpoint is taken.
        repo: NAME or OWNER/NAME of a repository; made if there is none.
        private: whether one that is made is for its owner alone.

    Returns:
        {"repo", "url", "commit"}.

    Raises:
        UserError: no such run, a damaged one, no token, or a Hub that cannot be reached or refuses.
        UsageError: ``repo`` is no name of a repository.
    """
    if get_token() is None:
        raise UserError(f"--repo {repo}: the Hub has to know who you are: {LOG_IN}")
    api = HfApi()
    with TemporaryDirectory() as temporary:
        folder, files = _verified(path, Path(temporary))
        with talking_of(repo):
            with suppress(RepositoryNotFoundError):
                api.model_info(repo, timeout=TIMEOUT)  # requests after this one have no limit
            made = api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=made.repo_id,
                folder_path=folder,
                allow_patterns=[*files, MANIFEST, CARD],
                commit_message=f"nanogpkant push {made.repo_name}",
            )
    return {"repo": made.repo_id, "url": str(made), "commit": commit.oid}


def _verified(path: Path, temporary: Path) -> tuple[Path, list[str]]:
    """An exported folder that is whole, made in ``temporary`` of another run; and its files."""
    for mark, files in FOR_OTHERS.items():
        if (path / mark).is_file():
            verify(path, files)
            return path, list(files)
    run = open_run(path)
    folder = run.path
    if not run.is_exported:
        folder = temporary / run.path.name
        export_run(path, folder)
    load_checkpoint(open_run(folder))  # verifies it
    return folder, [*EXPORTED, *EXPORTED_IF_THERE]


def pull(repo: str, to: Path) -> dict[str, Any]:
    """Download an exported run from the Hub, whole and verified or not at all.

    Args:
        repo: OWNER/NAME of the repository.
        to: the folder to write; one that is there has to be empty.

    Returns:
        {"repo", "folder", "step", "commit"}.

    Raises:
        UserError: no such repository, a Hub that cannot be reached, or files that are not those of
            an exported run or not the ones in its manifest.
        UsageError: ``to`` holds something, or ``repo`` is no name of a repository.
    """
    check_is_new(to)
    api = HfApi()
    with talking_of(repo):
        info = api.model_info(repo, timeout=TIMEOUT)
    names = [file.rfilename for file in info.siblings]
    if "config.json" in names:
        remedy = "a model for transformers, whose from_pretrained opens it"
        raise UserError(f"{repo} is not an exported run of nanogpkant, but {remedy}")
    with new_folder(to) as draft, talking_of(repo):

        def fetch(name: str) -> Path:
            path = api.hf_hub_download(repo, name, revision=info.sha, local_dir=draft)
            return Path(path)

        # The names that a manifest may have are known, so no file lands outside the folder.
        step, hashes = read_manifest(fetch(MANIFEST), EXPORTED, EXPORTED_IF_THERE)
        for name, sha256 in hashes.items():
            if sha256_of(fetch(name)) != sha256:
                remedy = "it was cut short or altered, and nothing was kept; try again"
                raise UserError(f"{name} of {repo} does not match its {MANIFEST}: {remedy}")
        if CARD in names:
            fetch(CARD)
        shutil.rmtree(draft / ".cache")  # the client's notes on what it downloaded
    return {"repo": repo, "folder": str(to), "step": step, "commit": info.sha}


@contextmanager
def talking_of(repo: str) -> Iterator[None]:
    """Turn what can go wrong on the way to the Hub into one clear line.

    Raises:
        UserError: instead of the client's errors.
        UsageError: ``repo`` is no name of a repository.
    """
    try:
        yield
    except UserError:
        raise
    except HFValidationError as error:
        raise UsageError(f"{repo}: must be NAME or OWNER/NAME of a repository") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{repo}: no such model on the Hub; if it is private, {LOG_IN}") from error
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):  # the connection broke
            raise UserError(f"{repo}: {one_line(error)}") from error
        what = "is not an exported run of nanogpkant"
        raise UserError(f"{repo} {what}: {one_line(error)}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        remedy = f"; {LOG_IN} with a token that may do this" if status in (401, 403) else ""
        raise UserError(f"{repo}: the Hub refused: {one_line(error)}{remedy}") from error
    except Exception as error:  # of whichever HTTP library the client uses
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk
        raise UserError(f"{repo}: cannot reach the Hub: {one_line(error)}; try later") from error
