"""interpret and prune: the edges of a trained KAN, and a model without some of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nanogpkant.base.answer import Answer
from nanogpkant.base.console import note
from nanogpkant.base.errors import UserError, is_out_of_memory, require_positive
from nanogpkant.base.lock import only_writer

if TYPE_CHECKING:
    from nanogpkant.interpretation import Interpretation, ModuleInterpretation

Score = Literal["std_grad", "std", "norm", "random"]
Unit = Literal["edges", "inputs"]
Ablation = Literal["mean", "zero"]


@dataclass(frozen=True)
class Interpreted(Answer):
    """The formulas of a run's edges, and how faithful they are."""

    page: str
    """HTML file with the results; where the model can be played, its functions are linked to
    play.html beside it"""
    export: str
    """folder with tables and formulas"""
    summary: dict[str, Any]
    """losses with the edges replaced, shares, correlations; all that summary.json holds"""
    manifest: dict[str, Any]
    """of the exported files"""
    interpretation: "Interpretation" = field(repr=False)
    """the tables themselves, such as ``interpretation.edges``"""

    def as_dict(self) -> dict[str, Any]:
        return self.summary | {"export": {"folder": self.export, **self.manifest}}

    def words(self) -> str:
        from nanogpkant.interpretation import formula_lines, words

        heads = formula_lines(self.interpretation) if self.interpretation.curves else []
        where = f"Tables and formulas are in {self.export}. The page: {self.page}"
        return "\n".join([*words(self.summary), *heads, where])


@dataclass(frozen=True)
class Pruned(Answer):
    """A pruned run, measured beside the run that it was made from."""

    run: str
    """folder of the pruned run"""
    about: dict[str, Any]
    """source, step and the settings of the pruning"""
    models: dict[str, dict[str, Any]]
    """"before", "pruned" and, after training, "finetuned": edges, parameters, weight_bytes,
    val_loss and, for the first and the last, tokens_per_second"""
    shapes: dict[str, list[int]]
    """inputs and outputs left of each KAN layer"""

    def as_dict(self) -> dict[str, Any]:
        return self.about | {"run": self.run} | self.models | {"shapes": self.shapes}

    def words(self) -> str:
        lines = [
            f"{name:<10} {row['edges']:>9,} edges, {row['parameters'] / 1e6:.2f}M parameters, "
            f"{row['weight_bytes'] / 1e6:.1f} MB, validation loss {row['val_loss']:.4f}"
            + (f", {row['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in row else "")
            for name, row in self.models.items()
        ]
        return "\n".join([*lines, f"the pruned run is in {self.run}"])


def interpret(
    run: str | Any,
    *,
    inputs: Any = None,
    loss: Any = None,
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
) -> "Interpreted | ModuleInterpretation":
    """Describe the functions of a trained KAN as formulas, and measure how faithful those are.

    They are the edges of its KAN layers, and its curves of distance, one for every head.

    Args:
        run: a run's name or folder, pretrained:NAME, or an exported folder. In Python also any
            torch module with KAN layers: see ``ModuleInterpretation``, which is then returned;
            checkpoint, budget, neurons, lookup, seed and device are for runs.
        inputs: example inputs of a torch module: a tensor, a tuple of arguments, a dict of
            keywords, or a list of those.
        loss: of a torch module's output, a function that returns a scalar; or None.
        out: folder for the results, which also keeps them for a later call; RUN/interpret unless
            given. Nothing is written for a torch module without one.
        checkpoint: best, last, or step-NNNNNN.
        layers: names of layers and curves, or beginnings such as blocks.0; all unless given.
        families: families of formulas to try; all unless given. exp alone limits curves of
            distance to the usual: constants, lines in d and log2(1 + d), powers, exponentials.
        top: edges of each layer to draw and to write out.
        budget: validation tokens for each point of a curve, 32 times as many for totals; 0 takes
            the whole split for all.
        neurons: outputs to write as formulas, as LAYER:OUTPUT.
        lookup: points of each edge's exported table; 0 writes no tables.
        seed: decides the text windows and the clustering.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        UserError: no such run or checkpoint, no KAN layers, too little memory, a package that is
            not installed, another process that writes the same folder, or Ctrl-C; the same call
            resumes.
        UsageError: a setting out of its range, or an unknown layer, family or neuron.

    Examples:
        >>> import nanogpkant as ng
        >>> found = ng.interpret("quickstart_kan", budget=64, top=2)
        >>> found.page
        'runs/quickstart_kan/interpret/index.html'
    """
    require_positive(top=top)
    if not isinstance(run, str | Path):
        from nanogpkant.interpretation import ModuleInterpretation

        found = ModuleInterpretation(run, inputs, loss, layers, families)
        if out is not None:
            with only_writer(Path(out)):
                found.write(out, top)
        return found
    with _resumable():
        from nanogpkant.interpretation import Interpretation, write, write_export
        from nanogpkant.run.folder import interpretation_folder

        with only_writer(Path(out or interpretation_folder(run))):
            interpretation = Interpretation(
                run, checkpoint, layers, families, budget, seed, device, folder=out
            )
            manifest = write_export(interpretation, top, neurons or [], lookup)
            summary = write(interpretation, top, _playground(str(run), interpretation))
    export = str(interpretation.folder / "export")
    return Interpreted(summary["page"], export, summary, manifest, interpretation)


def _playground(run: str, interpretation: "Interpretation") -> str:
    """Write the playground of the same checkpoint beside the page; returns its name, or ""."""
    from nanogpkant.playground.build import build

    name, step = "play.html", f"step-{interpretation.trained.step:06d}"
    try:
        build(run, interpretation.folder / name, step, "bfloat16", None)
    except UserError as error:  # too large, or pruned
        note(f"no playground beside the page: {error}")
        return ""
    return name


def prune(
    run: str,
    *,
    share: float,
    out: str,
    finetune: int = 0,
    score: Score = "std_grad",
    unit: Unit = "edges",
    ablation: Ablation = "mean",
    checkpoint: str = "best",
    layers: list[str] | None = None,
    seed: int = 1337,
    device: str = "auto",
) -> Pruned:
    """Write a run without the least important edges of its KAN layers.

    Args:
        run: a run's name or folder, pretrained:NAME, or an exported folder.
        share: fraction of these layers' edges to remove, above 0 and below 1.
        out: run folder to write; it must not exist.
        finetune: optimizer steps to train the pruned model for.
        score: edges with the lowest score are removed first.
        unit: remove edges one by one, or inputs with all their edges.
        ablation: replace a removed edge by its mean or by zero.
        checkpoint: best, last, or step-NNNNNN.
        layers: names of layers, or beginnings such as blocks.0; all unless given.
        seed: decides the text windows, and the random score.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        UserError: no such run or checkpoint, no KAN layers, too little memory, or another process
            that writes the same folder.
        UsageError: a setting out of its range, an unknown layer, or a folder that exists.

    Examples:
        >>> import nanogpkant as ng
        >>> ng.prune("quickstart_kan", share=0.5, out="runs/half").run
        'runs/half'
    """
    with _resumable():
        from nanogpkant.interpretation import Interpretation

        with only_writer(Path(out)):
            interpretation = Interpretation(run, checkpoint, layers, seed=seed, device=device)
            how = {"finetune": finetune, "score": score, "ablation": ablation, "unit": unit}
            return Pruned(**interpretation.prune(share, out, **how))


@contextmanager
def _resumable() -> Iterator[None]:
    """Tell of Ctrl-C and of too little memory as errors that the next call recovers from."""
    try:
        yield
    except KeyboardInterrupt:
        raise UserError("stopped: the same command resumes from here") from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        remedy = "take fewer layers at a time with --layers; finished stages are kept"
        raise UserError(f"out of memory: {remedy}") from error
