"""export, push and pull: a trained model for others."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from nanogpkant.base.answer import Answer


@dataclass(frozen=True)
class Exported(Answer):
    """A folder that ``export`` wrote."""

    on_stdout: ClassVar[bool] = False
    folder: str
    step: int
    """optimizer steps of its weights"""
    bytes: int
    """of the weights"""

    def words(self) -> str:
        return f"{self.folder} holds step {self.step}, {self.bytes / 1e6:.1f} MB"


@dataclass(frozen=True)
class Pushed(Answer):
    """A repository that ``push`` uploaded to."""

    on_stdout: ClassVar[bool] = False
    repo: str
    url: str
    commit: str

    def words(self) -> str:
        return f"{self.repo} is at {self.url}"


@dataclass(frozen=True)
class Pulled(Answer):
    """A run that ``pull`` downloaded."""

    on_stdout: ClassVar[bool] = False
    repo: str
    folder: str
    step: int
    """optimizer steps of its weights"""
    commit: str

    def words(self) -> str:
        return f"{self.repo} is in {self.folder}, verified"


def export(
    run: str,
    *,
    out: str,
    format: Literal["run", "hf", "onnx"] = "run",
    checkpoint: str = "best",
    bfloat16: bool = False,
    license: str | None = None,
) -> Exported:
    """Write a trained model as a folder to share: weights, configuration, tokenizer, model card.

    Args:
        run: a run's name or folder, pretrained:NAME, or an exported folder.
        out: folder to write; it must not exist, or be empty.
        format: run opens wherever a run does, here and nowhere else; hf loads in transformers
            without nanogpkant; onnx is one model.onnx, from token ids to logits.
        checkpoint: best, last, or step-NNNNNN.
        bfloat16: round the weights, which halves their size; not for onnx.
        license: the model's, for the model card, such as mit.

    Raises:
        UserError: no such run or checkpoint, a damaged one, or a package that is not installed.
        UsageError: ``out`` is not empty, or bfloat16 with onnx.

    Examples:
        >>> import nanogpkant as ng
        >>> ng.export("pretrained:shakespeare-mini-kan", out="shared/mini", bfloat16=True).step
        4000
    """
    from nanogpkant.share.export import export_run

    return Exported(**export_run(run, Path(out), format, checkpoint, bfloat16, license))


def push(run: str, *, repo: str, private: bool = False) -> Pushed:
    """Upload a trained model to the Hugging Face Hub.

    Args:
        run: a run's name or folder, pretrained:NAME, or an exported folder of any format; a run is
            exported first, at its best checkpoint.
        repo: NAME or OWNER/NAME on the Hub.
        private: make a new repository private.

    Raises:
        UserError: no such run, a damaged one, no token, or a Hub that cannot be reached or refuses.
        UsageError: ``repo`` is no name of a repository.

    Examples:
        >>> import nanogpkant as ng
        >>> ng.push("quickstart_kan", repo="me/kan", private=True).url  # doctest: +SKIP
        'https://huggingface.co/me/kan'
    """
    from nanogpkant.share.hub import push

    return Pushed(**push(run, repo, private))


def pull(repo: str, *, out: str | None = None) -> Pulled:
    """Download a model from the Hugging Face Hub and verify it.

    Args:
        repo: OWNER/NAME on the Hub, of an exported run.
        out: folder to write, runs/NAME by default; it must not exist, or be empty.

    Raises:
        UserError: no such repository, a Hub that cannot be reached, or files that are not those of
            an exported run.
        UsageError: ``out`` is not empty, or ``repo`` is no name of a repository.

    Examples:
        >>> import nanogpkant as ng
        >>> ng.pull("me/kan", out="runs/pulled").folder  # doctest: +SKIP
        'runs/pulled'
    """
    from nanogpkant.share.hub import pull

    return Pulled(**pull(repo, Path(out or Path("runs") / Path(repo).name)))
