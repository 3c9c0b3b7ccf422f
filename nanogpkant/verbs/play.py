"""play and edit: a run as one page in which its model runs, and the run as it was bent there."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from nanogpkant.base.answer import Answer


@dataclass(frozen=True)
class Played(Answer):
    """A page that ``play`` wrote."""

    on_stdout: ClassVar[bool] = False
    page: str
    bytes: int
    step: int
    """optimizer steps of its weights"""
    functions: int
    """learned functions of one number in the model"""
    loss: dict[str, float]
    """of the page's text, in nats per token: ``exact``, and ``page`` with its rounded weights"""

    def words(self) -> str:
        cost = self.loss["page"] - self.loss["exact"]
        size = f"{self.page} is {self.bytes / 1e6:.1f} MB; its weights cost {cost:+.4f} nats"
        return f"{size}. Open it in a browser"


@dataclass(frozen=True)
class Edited(Answer):
    """A run that ``edit`` wrote."""

    on_stdout: ClassVar[bool] = False
    run: str
    step: int
    edits: int
    """functions that were replaced"""

    def words(self) -> str:
        return f"{self.run} has {self.edits} edited functions"


def play(
    run: str,
    *,
    out: str,
    checkpoint: str = "best",
    weights: Literal["float32", "bfloat16", "int8"] = "bfloat16",
    text: str | None = None,
) -> Played:
    """Write a page in which the model runs, opens up and can be edited, offline in any browser.

    Args:
        run: a run's name or folder, pretrained:NAME, or an exported folder.
        out: HTML file to write.
        checkpoint: best, last, or step-NNNNNN.
        weights: format of the weights in the page; the answer and the page say what it costs.
        text: UTF-8 file whose first 1,000 tokens the page measures its loss on; the run's
            validation text unless given.

    Raises:
        UserError: no such run, checkpoint or data, a model that is too large for a page, or one
            with a part that the page cannot run.

    Examples:
        >>> import nanogpkant as ng
        >>> ng.play("pretrained:shakespeare-mini-kan", out="page.html").step
        4000
    """
    from nanogpkant.playground.build import build

    return Played(**build(run, Path(out), checkpoint, weights, text))


def edit(run: str, *, edits: str, out: str) -> Edited:
    """Apply the edits of a page to its run: the result computes what the page does.

    Args:
        run: the run of the page: its name or folder, pretrained:NAME, or an exported folder.
        edits: JSON file that the page saved.
        out: folder of the edited run; it must not exist, or be empty.

    Raises:
        UserError: no such run, edits of another model, or a file that holds none.
        UsageError: ``out`` is not empty.

    Examples:
        >>> import nanogpkant as ng
        >>> ng.edit("quickstart_kan", edits="edits.json", out="bent").edits  # doctest: +SKIP
        2
    """
    from nanogpkant.playground.edits import edit_run

    return Edited(**edit_run(run, Path(edits), Path(out)))
