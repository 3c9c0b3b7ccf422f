"""Export of an interpretation as tables and formulas.

RUN/interpret/export/
  edges.parquet        every edge: importance, fit and its formula in full precision
  edges.csv            every edge, for reading: formulas have 4 digits
  curves.csv           every head of every curve of distance, with its formula
  curves.safetensors   values of these formulas at each distance: (heads, distances) by layer
  formulas.json        the most important edges, whole outputs, and curves, in sympy and LaTeX
  lookup.safetensors   every edge as a table of points, on request
  manifest.json        run, data, thresholds, families, sha256 of each file

``expression`` converts a row of edges.parquet to sympy; ``sympy.lambdify`` of it gives the fitted
values.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import safetensors.torch
import sympy
from torch import Tensor

from nanogpkant.base.console import bar
from nanogpkant.base.errors import UsageError
from nanogpkant.base.files import replacing, sha256_of, write_atomic, write_json
from nanogpkant.interpretation.fit.families import FAMILIES, POLYNOMIALS
from nanogpkant.interpretation.fit.formulas import ACCEPTED, GOOD
from nanogpkant.interpretation.interpretation import OBSERVED_TOKENS, Interpretation
from nanogpkant.interpretation.observe.curves import even_points, tabulate
from nanogpkant.run.folder import FORMULAS

DIGITS = 5  # of numbers in LaTeX
READABLE = ["layer", "output", "input", "importance", "std", "family", "formula", "low", "high"]
READABLE += ["r2", "max_error", "complexity", "runner_up", "margin"]
"""columns of edges.csv; all columns would take 400 bytes an edge"""
FILES = ("edges.parquet", "edges.csv", "curves.csv", FORMULAS.name)
FILES += ("formulas.json", "lookup.safetensors")
BEYOND = "constant: the value at the nearer end"
BETWEEN = "straight lines"


def expression(row: Mapping[str, Any], x: sympy.Symbol | None = None) -> sympy.Expr:
    """The formula of an edge; it holds for x between the row's ``low`` and ``high``.

    Beyond them the edge counts as constant: replace x by ``Min(Max(x, low), high)``.

    Args:
        row: of ``Interpretation.edges``, or of edges.parquet.
        x: symbol of the input; None is x_ and its number.
    """
    x = sympy.Symbol(f"x_{row['input']}") if x is None else x
    t = x - float(row["middle"])
    found = sympy.Integer(0)
    for k in range(len(POLYNOMIALS)):
        if row[f"p{k}"]:
            found += float(row[f"p{k}"]) * t**k
    for end in ("", "2"):
        if row[f"term{end}"]:
            z, function = _function(row[f"term{end}"])
            a, b, c = (float(row[f"{name}{end}"]) for name in "abc")
            found += a * function.subs(z, b * x + c)
    return found


@cache
def _function(name: str) -> tuple[sympy.Symbol, sympy.Expr]:
    z = sympy.Symbol("z", real=True)
    family = next(f for f in FAMILIES if f.name == name)
    return z, sympy.sympify(family.expression, locals={"z": z})  # pyright: ignore[reportCallIssue]


def neuron(interpretation: Interpretation, layer: str, output: int) -> sympy.Expr:
    """An output of a layer: the sum of the formulas of all its edges, and its bias.

    Inputs x_0, x_1, ... are those of the functions, after ``prenorm`` where the layer has one.
    Edges without an accepted formula are included with their best formula.
    """
    edges, bias = interpretation.edges, interpretation.layers[layer].bias
    rows = edges.query("layer == @layer and output == @output").to_dict("records")
    constant = 0 if bias is None else bias[output].item()
    return sympy.Add(constant, *map(expression, rows))


def write_export(
    interpretation: Interpretation, top: int = 24, neurons: Sequence[str] = (), lookup: int = 0
) -> dict[str, Any]:
    """Write tables, formulas and, on request, lookup tables.

    Args:
        interpretation: stages that are missing are computed.
        top: most important edges of each layer to write as sympy and LaTeX, with their Pareto
            front of (complexity, family, R²).
        neurons: outputs to write in the same way, as LAYER:OUTPUT.
        lookup: points of every edge's table; 0 writes none.

    Returns:
        the manifest.

    Raises:
        UsageError: no such neuron, or a table of one point.
        UserError: a file cannot be written.
    """
    wanted = {name: _layer_and_output(interpretation, name) for name in neurons}
    if lookup < 0 or lookup == 1:
        raise UsageError(f"--lookup {lookup}: must be 0 (no tables) or at least 2 points")
    lookup = lookup if interpretation.layers else 0  # curves.safetensors has all distances
    folder, layers = interpretation.folder / "export", interpretation.layers.items()
    for name in FILES:
        (folder / name).unlink(missing_ok=True)  # of another model, or of other layers
    formulas: dict[str, Any] = {}
    if interpretation.layers:
        formulas |= _write_edges(interpretation, folder, top)
    if interpretation.curves:
        formulas |= _write_curves(interpretation, folder)
    formulas["neurons"] = {
        name: _written(neuron(interpretation, *of)) for name, of in wanted.items()
    }
    write_json(folder / "formulas.json", formulas)
    if lookup:
        _write_lookup(interpretation, folder / "lookup.safetensors", lookup)
    manifest = {
        "run": interpretation.run.path.name,
        "step": interpretation.trained.step,
        "weights_sha256": interpretation.identity["weights"],
        "data_fingerprint": interpretation.identity["data"],
        "seed": interpretation.seed,
        "layers": {name: [layer.in_features, layer.out_features] for name, layer in layers},
        "curves": {name: curve.out_features for name, curve in interpretation.curves.items()},
        "fitted_on": {"split": "train", "tokens": OBSERVED_TOKENS},
        "thresholds": {"simpler_if_1_minus_r2_below": GOOD, "spline_if_1_minus_r2_above": ACCEPTED},
        "families": {f.name: f.expression for f in FAMILIES},
        "formula": "sum of p_k*(x - middle)^k, and a*f(b*x + c) for each of term and term2",
        "range": {"low": "0.1% quantile", "high": "99.9% quantile", "beyond": BEYOND},
        "lookup": {"points": lookup, "between": BETWEEN, "beyond": BEYOND} if lookup else None,
        "files": {name: sha256_of(folder / name) for name in FILES if (folder / name).exists()},
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


def _write_edges(interpretation: Interpretation, folder: Path, top: int) -> dict[str, Any]:
    """Write the tables of edges; returns the formulas of the most important ones."""
    edges = interpretation.edges
    with replacing(folder / "edges.parquet") as unfinished, open(unfinished, "wb") as file:
        edges.to_parquet(file, engine="pyarrow", compression="zstd", index=False)
    few = edges[READABLE].astype({"low": "float32", "high": "float32"})
    with replacing(folder / "edges.csv") as unfinished, open(unfinished, "wb") as file:
        pyarrow.csv.write_csv(pyarrow.Table.from_pandas(few, preserve_index=False), file)
    kept = ("layer", "input", "output", "low", "high", "r2", "accepted")
    most = edges.groupby("layer", sort=False).head(top).to_dict("records")
    written = [
        {key: row[key] for key in kept}
        | _written(expression(row))
        | {"pareto": interpretation.fits[row["layer"]].pareto(row["output"], row["input"])}
        for row in most
    ]
    return {"edges": written}


def _write_curves(interpretation: Interpretation, folder: Path) -> dict[str, Any]:
    """Write the tables of curves of distance; returns their formulas."""
    heads, d = interpretation.heads, sympy.Symbol("d")
    write_atomic(folder / "curves.csv", heads.to_csv(index=False))
    values = {name: each.formulas.contiguous() for name, each in interpretation.curve_fits.items()}
    about = {"step": str(interpretation.trained.step)}
    write_atomic(interpretation.folder / FORMULAS, safetensors.torch.save(values, about))
    scales = {"d": d, "log2(1 + d)": sympy.log(1 + d, 2)}
    kept = ("layer", "head", "verdict", "r2", "rms", "accepted")
    written = [
        {key: row[key] for key in kept} | _written(expression(row, scales[row["scale"]]))
        for row in heads.to_dict("records")
    ]
    return {"curves": written}


def _layer_and_output(interpretation: Interpretation, name: str) -> tuple[str, int]:
    """The parts of LAYER:OUTPUT."""
    layer, _, output = name.rpartition(":")
    if not (layer and output.isdecimal()):
        raise UsageError(f"--neurons {name}: must be LAYER:OUTPUT, such as blocks.0.mlp.into:5")
    if layer not in interpretation.layers:
        known = ", ".join(interpretation.layers) or "curves of distance alone, one function a head"
        raise UsageError(f"--neurons {name}: the layers are {known}")
    last = interpretation.layers[layer].out_features - 1
    if int(output) > last:
        raise UsageError(f"--neurons {name}: the outputs of {layer} are 0 to {last}")
    return layer, int(output)


def _written(found: sympy.Expr) -> dict[str, str]:
    return {"sympy": sympy.sstr(found), "latex": sympy.latex(sympy.N(found, DIGITS))}


def _write_lookup(interpretation: Interpretation, file: Path, count: int) -> None:
    """Write every learned edge of every layer as a table of ``count`` evenly spaced points.

    For each layer: ``low`` and ``high`` (n,), first and last point of each input's tables, and
    ``values`` (count, m, n) in float16, to be multiplied by ``scale``.
    """
    tensors: dict[str, Tensor] = {}
    with bar("tabulating", "layers") as progress:
        for done, (name, layer) in enumerate(interpretation.layers.items()):
            progress(done, len(interpretation.layers))
            low, high = interpretation.observed[name].low, interpretation.observed[name].high
            values = tabulate(layer, even_points(low, high, count))
            scale = values.abs().max().clamp(min=1e-30)
            parts = {"low": low, "high": high, "values": (values / scale).half(), "scale": scale}
            tensors |= {f"{name}/{key}": part.contiguous() for key, part in parts.items()}
    about = {"between_points": BETWEEN, "beyond_the_ends": BEYOND, "points": str(count)}
    write_atomic(file, safetensors.torch.save(tensors, about))
