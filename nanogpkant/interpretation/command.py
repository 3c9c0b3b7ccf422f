"""nanogpkant interpret: everything about a run's edges, or a run without some of them."""

from typing import Any

from jsonargparse import Namespace

from nanogpkant.base.errors import UsageError, UserError, is_out_of_memory
from nanogpkant.interpretation.export import write_export
from nanogpkant.interpretation.flags import PRUNING
from nanogpkant.interpretation.interpretation import Interpretation
from nanogpkant.interpretation.report import check_top, words, write


def interpret(options: Namespace) -> tuple[dict[str, Any], str]:
    """``nanogpkant interpret``.

    Returns:
        what was found, and the same in words.

    Raises:
        UsageError: flags that cannot work, or that do not go together.
        UserError: a run that cannot be read or has no KAN layers, too little memory, or the command
            was stopped.
    """
    check(options)
    try:
        return _looked_into(options)
    except KeyboardInterrupt:
        raise UserError("stopped: the same command goes on from here") from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        remedy = "take fewer layers at a time with --layers; what was found until here is kept"
        raise UserError(f"out of memory: {remedy}") from error


def _looked_into(options: Namespace) -> tuple[dict[str, Any], str]:
    look = Interpretation(
        options.run,
        options.checkpoint,
        options.layers,
        options.families,
        options.budget,
        options.seed,
        options.device,
        options.to,
    )
    if options.prune is not None:
        return _pruned(look, options)
    manifest = write_export(look, options.top, options.neurons, options.lookup)
    found = write(look, options.top)
    found["export"] = {"folder": str(look.folder / "export"), **manifest}
    where = f"Tables and formulas are in {look.folder / 'export'}. The page: {found['page']}"
    return found, "\n".join([*words(found), where])


def check(options: Namespace) -> None:
    """Refuse flags that do not go together, before anything is read."""
    check_top(options.top)
    if (options.prune is None) != (options.out is None):
        raise UsageError("--prune SHARE and --out FOLDER: give both, or neither")
    prunes = options.prune is not None
    for flag, default in PRUNING.items():
        if not prunes and getattr(options, flag) != default:
            raise UsageError(f"--{flag}: is for --prune, which is missing")
    for flag in ("neurons", "lookup"):
        if prunes and getattr(options, flag):
            raise UsageError(f"--{flag}: writes formulas, which --prune does not; leave one out")


def _pruned(look: Interpretation, options: Namespace) -> tuple[dict[str, Any], str]:
    found = look.prune(
        options.prune,
        options.out,
        options.finetune,
        options.score,
        options.ablation,
        options.unit,
    )
    lines = [
        f"{name:<10} {row['edges']:>9,} edges, {row['parameters'] / 1e6:.2f}M parameters, "
        f"{row['weight_bytes'] / 1e6:.1f} MB, validation loss {row['val_loss']:.4f}"
        + (f", {row['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in row else "")
        for name, row in found.items()
        if isinstance(row, dict) and "edges" in row
    ]
    return found, "\n".join([*lines, f"the pruned run is in {found['run']}"])
