"""Exported runs on the Hugging Face Hub, verified before they are uploaded and after download."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nanogpkant.base.errors import UsageError, UserError, from_extra, one_line
from nanogpkant.base.files import new_folder, sha256_of
from nanogpkant.run.checkpoint import load_checkpoint
from nanogpkant.run.folder import EXPORTED, EXPORTED_IF_THERE, open_run
from nanogpkant.run.manifest import MANIFEST, read_manifest, verify
from nanogpkant.share.export import CARD, FOR_OTHERS, export_run

with from_extra("hf", "the Hub"):
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

TIMEOUT = 10  # seconds to wait for the answer to the first request
OURS = [*EXPORTED, *EXPORTED_IF_THERE, *chain(*FOR_OTHERS.values())]
LOG_IN = "log in with hf auth login, or set HF_TOKEN"


def push(run: str, repo: str, private: bool) -> dict[str, Any]:
    """Upload a run, or a folder of any export format: the values of ``verbs.share.Pushed``."""
    if get_token() is None:
        raise UserError(f"--repo {repo}: the Hub has to know who you are: {LOG_IN}")
    api = HfApi()
    with TemporaryDirectory() as temporary:
        folder, files = _verified(Path(run), Path(temporary))
        with hub_errors(repo):
            with suppress(RepositoryNotFoundError):
                api.model_info(repo, timeout=TIMEOUT)  # later requests have no time limit
            made = api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=made.repo_id,
                folder_path=folder,
                allow_patterns=[*files, MANIFEST, CARD],
                delete_patterns=OURS,  # of another format, pushed before
                commit_message=f"nanogpkant push {made.repo_name}",
            )
    return {"repo": made.repo_id, "url": str(made), "commit": commit.oid}


def _verified(path: Path, temporary: Path) -> tuple[Path, list[str]]:
    """An intact exported folder, of a run exported into ``temporary``, and its files."""
    for mark, files in FOR_OTHERS.items():
        if (path / mark).is_file():
            verify(path, files)
            return path, list(files)
    run = open_run(path)
    folder = run.path
    if not run.is_exported:
        folder = temporary / run.path.resolve().name
        export_run(path, folder)
    load_checkpoint(open_run(folder))  # verifies it
    return folder, [*EXPORTED, *EXPORTED_IF_THERE]


def pull(repo: str, out: Path) -> dict[str, Any]:
    """Download an exported run, complete and verified: the values of ``verbs.share.Pulled``."""
    api = HfApi()
    with new_folder(out) as draft, hub_errors(repo):
        info = api.model_info(repo, timeout=TIMEOUT)
        names = [file.rfilename for file in info.siblings or ()]
        if MANIFEST not in names or FOR_OTHERS.keys() & {*names}:
            hint = "from_pretrained opens a model for transformers, ONNX Runtime model.onnx"
            raise UserError(f"{repo} is not an exported run of nanogpkant; {hint}")

        def fetch(name: str) -> Path:
            return Path(api.hf_hub_download(repo, name, revision=info.sha, local_dir=draft))

        # A manifest may only have known names, so no file lands outside the folder.
        step, hashes = read_manifest(fetch(MANIFEST), EXPORTED, EXPORTED_IF_THERE)
        for name, sha256 in hashes.items():
            if sha256_of(fetch(name)) != sha256:
                remedy = "it was cut short or altered, and nothing was kept; try again"
                raise UserError(f"{name} of {repo} does not match its {MANIFEST}: {remedy}")
        if CARD in names:
            fetch(CARD)
        shutil.rmtree(draft / ".cache", ignore_errors=True)  # the client's records of the download
    return {"repo": repo, "folder": str(out), "step": step, "commit": info.sha}


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Turn the client's errors into one line."""
    try:
        yield
    except UserError:
        raise
    except HFValidationError as error:
        raise UsageError(f"{repo}: must be NAME or OWNER/NAME of a repository") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{repo}: no such model on the Hub; if it is private, {LOG_IN}") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        remedy = f"; {LOG_IN} with a token that may do this" if status in (401, 403) else ""
        raise UserError(f"{repo}: the Hub refused: {one_line(error)}{remedy}") from error
    except Exception as error:  # of whichever HTTP library the client uses
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk
        raise UserError(f"{repo}: cannot reach the Hub: {one_line(error)}; try later") from error
