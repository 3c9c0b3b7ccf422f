"""kanify: KAN layers in any model, which computes the same as before."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanogpkant.base.answer import Answer
from nanogpkant.base.errors import UsageError
from nanogpkant.base.files import check_is_new
from nanogpkant.base.lock import only_writer

COLUMNS = {
    "name": "layer",
    "kind": "kind",
    "base": "starts as",
    "shape": "shape",
    "functions": "function parameters",
    "parameters": "parameters",
    "flops": "FLOPs/input",
    "bytes": "bytes",
}
TOTALS = ("functions", "parameters", "parameters_before", "flops", "flops_before")
TOTALS += ("bytes", "bytes_before")


@dataclass(frozen=True)
class Kanified(Answer):
    """What was replaced in a model, or would be."""

    rows: list[dict[str, Any]]
    """a layer each: name, kind, base function, the activation folded into it, inputs, outputs,
    numbers in its functions, and parameters, FLOPs of an input vector and bytes, now and before"""
    out: str | None = None
    """the folder that was written"""
    model: Any = field(default=None, repr=False)
    """the model, where one was given or read"""

    def as_dict(self) -> dict[str, Any]:
        return {"out": self.out, "layers": self.rows, "total": self._total()}

    def words(self) -> str:
        from nanogpkant.report.table import aligned

        rows = [row | {"shape": f"{row['inputs']} to {row['outputs']}"} for row in self.rows]
        total, blank = self._total(), dict.fromkeys(COLUMNS, "")
        before = {key.removesuffix("_before"): n for key, n in total.items() if "_before" in key}
        ends = [blank | total | {"name": "all"}, blank | before | {"name": "before"}]
        table = aligned([*rows, *ends], COLUMNS)
        return table if self.out is None else f"{table}\n{self.out} computes the same function"

    def _total(self) -> dict[str, int]:
        return {key: sum(int(row[key]) for row in self.rows) for key in TOTALS}


def kanify(
    model: str | Any,
    *,
    out: str | None = None,
    where: list[str] = ["mlp"],  # noqa: B006 - never changed
    share: str = "group:8",
    basis: str | Any = "bspline",
    dry_run: bool = False,
) -> Kanified:
    """Put KAN layers into a model, which computes the same function as before.

    A torch module is changed in place; a model of transformers then saves its code with it.

    Args:
        model: a torch module, the folder of a model of transformers, gpt2 (-medium, -large, -xl),
            or a run's name or folder.
        out: folder to write, of the kind that was read; none is needed for a torch module.
        where: mlp, attention, gate (the activations of gated MLPs), distance (a curve of distance
            for every head, added to its scores; it starts at zero), or patterns of module names
            such as *.layers.3.*.
        share: functions that edges share, as in model.kan.share: group:8 gives every layer 8
            functions and keeps its number of weights; edge gives every edge its own.
        basis: of the functions: bspline (8 intervals from -4 to 4), hat, rbf, chebyshev, fourier,
            rational, or line; in Python also a basis.
        dry_run: only tell what would change.

    Raises:
        UserError: no such model, or one without a linear layer.
        UsageError: a pattern that matches no layer, layers that are tied, quantised or gates with
            an unknown activation, attention that takes no curves, functions that do not fit; the
            model is unchanged.

    Examples:
        >>> import torch, nanogpkant as ng
        >>> mlp = torch.nn.Sequential(
        ...     torch.nn.Linear(3, 16), torch.nn.GELU(), torch.nn.Linear(16, 2))
        >>> x = torch.randn(5, 3)
        >>> before = mlp(x)
        >>> ng.kanify(mlp, where=["2"]).rows[0]["base"]
        'gelu'
        >>> torch.allclose(mlp(x), before, atol=1e-5)
        True
    """
    from nanogpkant.conversion.kanify import kanify_module

    if not isinstance(model, str | Path):
        if out is not None:
            raise UsageError(f"--out {out}: is for a name or a folder; save the module as you like")
        changed, rows = kanify_module(model, where, share, basis, dry_run=dry_run)
        return Kanified(rows, None, changed)
    if out is None and not dry_run:
        raise UsageError("--out: name the folder to write, or give --dry_run")
    from nanogpkant.conversion.kanify_folder import kanify_folder

    how = {"where": where, "share": share, "basis": basis}
    if dry_run or out is None:
        changed, rows = kanify_folder(str(model), None, **how)
        return Kanified(rows, None, changed)
    with only_writer(Path(out)):
        check_is_new(Path(out))  # before anything is read
        changed, rows = kanify_folder(str(model), Path(out), **how)
    return Kanified(rows, out, changed)
