"""interpret and prune: a KAN's functions as pictures and formulas, and a run without some."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from nanogpkant.base.answer import Answer
from nanogpkant.base.errors import UserError, is_out_of_memory


@dataclass(frozen=True)
class Interpreted(Answer):
    """Everything found about a run's edges; files are where ``words`` says."""

    found: dict[str, Any]
    text: str

    def as_dict(self) -> dict[str, Any]:
        return self.found

    def words(self) -> str:
        return self.text


def interpret(
    run: str,
    *,
    out: str | None = None,
    checkpoint: str = "best",
    layers: list[str] | None = None,
    families: list[str] | None = None,
    top: int = 24,
    budget: int = 8192,
    neurons: list[str] | None = None,
    lookup: int = 0,
    seed: int = 1337,
    device: str = "auto",
) -> Interpreted:
    """Look inside a KAN: its functions as pictures and formulas, and what they are worth.

    Args:
        run: a run's name or folder, pretrained:NAME, or an exported folder.
        out: folder for tables, pictures and the page; RUN/interpret unless given.
        checkpoint: best, last, or step-NNNNNN.
        layers: names of layers, or their beginnings, such as blocks.0; all unless given.
        families: families of formulas to try; all unless given.
        top: edges of each layer that are pictured and written out.
        budget: validation tokens for each point of a curve, 32 times as many for totals; 0 takes
            the whole split for all.
        neurons: outputs, as LAYER:OUTPUT, to write as formulas.
        lookup: points of each edge's exported table; 0 for none.
        seed: decides the windows of text, and the clustering.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        UserError: a run that cannot be read or has no KAN layers, or too little memory.
        UsageError: settings that cannot work.

    Example:
        >>> import nanogpkant as ng
        >>> found = ng.interpret("quickstart_kan", budget=64, top=2).as_dict()
        >>> found["page"]
        'runs/quickstart_kan/interpret/index.html'
    """
    with _stopping_kindly():
        from nanogpkant.interpretation import Interpretation
        from nanogpkant.interpretation.show.export import write_export
        from nanogpkant.interpretation.show.report import check_top, words, write

        check_top(top)
        interpretation = Interpretation(
            run, checkpoint, layers, families, budget, seed, device, out
        )
        manifest = write_export(interpretation, top, neurons or [], lookup)
        found = write(interpretation, top)
        export = interpretation.folder / "export"
        found["export"] = {"folder": str(export), **manifest}
        where = f"Tables and formulas are in {export}. The page: {found['page']}"
        return Interpreted(found, "\n".join([*words(found), where]))


def prune(
    run: str,
    *,
    share: float,
    out: str,
    finetune: int = 0,
    score: Literal["std_grad", "std", "norm", "random"] = "std_grad",
    unit: Literal["edges", "inputs"] = "edges",
    ablation: Literal["mean", "zero"] = "mean",
    checkpoint: str = "best",
    layers: list[str] | None = None,
    budget: int = 8192,
    seed: int = 1337,
    device: str = "auto",
) -> Interpreted:
    """Write a run without its least important edges, fine-tuned if asked, and measure it.

    Args:
        run: a run's name or folder, pretrained:NAME, or an exported folder.
        share: share of the edges to remove, 0 to 1.
        out: run folder to write; it must not exist.
        finetune: optimiser steps to train the pruned model for.
        score: importance of an edge; the lowest go first.
        unit: inputs go with all their edges.
        ablation: a removed edge leaves its mean over the text, or zero.
        checkpoint: best, last, or step-NNNNNN.
        layers: names of layers, or their beginnings, such as blocks.0; all unless given.
        budget: validation tokens, in thirty-seconds, that importance is measured on; 0 takes the
            whole split.
        seed: decides the windows of text.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        UserError: a run that cannot be read or has no KAN layers, or too little memory.
        UsageError: settings that cannot work, or ``out`` exists.

    Example:
        >>> import nanogpkant as ng
        >>> ng.prune("quickstart_kan", share=0.5, out="runs/half", budget=64).as_dict()["run"]
        'runs/half'
    """
    with _stopping_kindly():
        from nanogpkant.interpretation import Interpretation

        interpretation = Interpretation(run, checkpoint, layers, None, budget, seed, device, None)
        found = interpretation.prune(share, out, finetune, score, ablation, unit)
        lines = [
            f"{name:<10} {row['edges']:>9,} edges, {row['parameters'] / 1e6:.2f}M parameters, "
            f"{row['weight_bytes'] / 1e6:.1f} MB, validation loss {row['val_loss']:.4f}"
            + (f", {row['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in row else "")
            for name, row in found.items()
            if isinstance(row, dict) and "edges" in row
        ]
        return Interpreted(found, "\n".join([*lines, f"the pruned run is in {found['run']}"]))


@contextmanager
def _stopping_kindly() -> Iterator[None]:
    """One line for Ctrl-C and for too little memory: finished layers are kept."""
    try:
        yield
    except KeyboardInterrupt:
        raise UserError("stopped: the same command resumes from here") from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        remedy = "take fewer layers at a time with --layers; finished layers are kept"
        raise UserError(f"out of memory: {remedy}") from error
