"""One KAN layer, forward and backward: ours, other libraries', and the bare matrix products."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Literal

import torch

from benchmarks.speed.charts import layer_bars, sweep_lines
from benchmarks.speed.goals import layer_goals
from benchmarks.speed.measure import Plan, measure, totals
from benchmarks.speed.names import OURS
from benchmarks.speed.problem import BASES, Basis, Problem, basis_named
from benchmarks.speed.report import Report, Table, require_above_zero
from nanogpkant.base.errors import UsageError
from nanogpkant.machine.device import measured_on, resolve_device, resolve_dtype
from nanogpkant.report.table import Row

# Projections of a preset's block (qkv, attn_out, mlp_in, mlp_out), and a larger MLP.
SHAPES = {
    "seed": ((192, 576), (192, 192), (192, 768), (768, 192)),
    "wide": ((768, 3072), (3072, 768)),
}
ROWS = {"seed": 16384, "wide": 16384}
ROWS_ON_CPU = {"seed": 16384, "wide": 4096}

COLUMNS = {
    "shape": "layer",
    "dtype": "dtype",
    "layer": "contender",
    "how": "run as",
    "ms": "ms",
    "min": "min",
    "max": "max",
    "over products": "times the three products",
    "over limit": "times the limit",
    "over ours": "times ours",
    "extra MB": "extra peak MB",
    "gate": "gate",
}
TOTAL_COLUMNS = {
    key: COLUMNS[key]
    for key in ("dtype", "layer", "ms", "over products", "over limit", "over ours")
}

# Values of the sweeps.
GRID_SIZES = (5, 8, 16, 32, 64)
WIDTHS = (192, 384, 768, 1536, 2048)
BATCHES = (256, 1024, 4096, 16384, 65536)

NOTES = [
    "Medians of interleaved rounds, forward and backward, compiling left out; weights are float32 "
    'and bf16 is autocast, unless "run as" says otherwise.',
    "The three products are forward, weight gradient and input gradient, on given features and "
    "outputs. The limit is those FLOPs at the fastest matrix product seen in this run, or the "
    "layer's bytes at the measured bandwidth, whichever takes longer.",
    "Extra peak memory is over inputs and weights, gradients included, in a process of its own.",
    "FastKAN's formula is another function of equal size. Of several ways to run a rival, the "
    "fastest that passed the gate is shown.",
]


def run(
    *,
    shapes: Literal["seed", "wide", "all"] = "seed",
    inputs: int | None = None,
    outputs: int | None = None,
    rows: int | None = None,
    dtypes: Literal["auto", "both", "bf16", "fp32"] = "auto",
    basis: Literal[tuple(BASES)] = "bspline",
    grid_size: int = 5,
    rivals: Literal["all", "none"] = "all",
    sweep: Literal["grid", "width", "batch", "threads"] | None = None,
    limit: float = 180.0,
    device: str = "auto",
    repeats: int = 7,
    out: str | None = None,
) -> Report:
    """Time one KAN layer, forward and backward, against rivals and the bare matrix products.

    Args:
        shapes: seed, the four of shakespeare_char_micro_kan; wide, 768 to 3072 and back.
        inputs: inputs of one layer instead of --shapes.
        outputs: outputs of that layer; without it, as many as inputs.
        rows: tokens in a batch; without it, as many as usual for the shapes.
        dtypes: auto is both where the device is fast at bf16, else fp32.
        basis: family of functions of the layer.
        grid_size: intervals of a cubic spline's grid; every basis gets as many functions, 3 more
            than that.
        rivals: time other libraries' layers too, or not.
        sweep: time along the grid size (5 to 64), the width (192 to 2048), the batch, or the
            threads of a CPU (1 to all that torch uses).
        limit: seconds to compile and first run a contender.
        device: auto, cpu, cuda, cuda:N or mps.
        repeats: timed rounds; slow contenders get fewer, at least 3.
        out: folder for the tables (.json, .md) and the chart (.png).

    Raises:
        UsageError: flags that cannot work here.
    """
    given = {"inputs": inputs, "outputs": outputs, "rows": rows}
    require_above_zero(repeats=repeats, grid_size=grid_size, limit=limit, **given)
    where = resolve_device(device, "--device")
    on_gpu, functions = where.type == "cuda", basis_named(basis, grid_size)
    problems: list[tuple[str, Problem]] = []
    if sweep:
        usual_rows = 16384 if on_gpu else 1024 if sweep == "width" else 4096
        base = Problem(inputs or 192, outputs or 4 * (inputs or 192), rows or usual_rows)
        base = replace(base, device=str(where), basis=functions)
        for dtype in _dtypes(dtypes, where)[-1 if dtypes == "auto" else 0 :]:
            problems += _along(sweep, replace(base, dtype=dtype), partial(basis_named, basis))
    else:
        parts = {name: sizes for name, sizes in SHAPES.items() if shapes in (name, "all")}
        if inputs is not None:
            parts = {"seed": ((inputs, outputs or inputs),)}
        elif outputs is not None:
            raise UsageError(f"--outputs {outputs}: say --inputs too")
        for name, sizes in parts.items():
            count = rows or (ROWS_ON_CPU if where.type == "cpu" else ROWS)[name]
            for size, dtype in itertools.product(sizes, _dtypes(dtypes, where)):
                problem = Problem(*size, count, dtype, str(where), functions)
                problems.append((f"{count:,} rows", problem))
    kind = sweep or {"seed": "", "wide": "wide", "all": "all"}[shapes]
    name = "_".join(filter(None, ("layer", basis if basis != "bspline" else "", kind)))
    machine = measured_on(where, f"{repeats} rounds")
    report = Report(name, f"A KAN layer of {basis}", machine, notes=NOTES)
    plan = Plan(repeats, limit, rivals == "all", bool(sweep))
    measured: list[Row] = []
    for title, problem in problems:
        measured += [{"part": title, **row} for row in measure(problem, plan, measured)]
        fill(report, measured, where, sweep)
        report.save(out)
    return report


def fill(report: Report, rows: list[Row], device: torch.device, sweep: str | None = None) -> None:
    """Update the report with the rows measured so far."""
    report.wrong = [
        f"{row['layer']}, {row['shape']}, {row['dtype']}: {row['gate']}"
        for row in rows
        if row["layer"].startswith(OURS) and row["ms"] is None
    ]
    if sweep:
        report.tables = [Table(f"Along the {sweep}", rows, {"part": sweep, **COLUMNS})]
        report.draw = partial(sweep_lines, rows, sweep)
        return
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row["part"], []).append(row)
    report.tables = []
    for title, own in parts.items():
        report.tables.append(Table(title, own, COLUMNS))
        if len({row["shape"] for row in own}) > 1:
            report.tables.append(Table(f"{title}: all together", totals(own), TOTAL_COLUMNS))
    report.goals = layer_goals(rows, device.type == "cuda")
    first, own = next(iter(parts.items()))
    report.draw = partial(layer_bars, own, first)


def _along(
    sweep: str, base: Problem, basis_of_size: Callable[[int], Basis]
) -> Iterator[tuple[str, Problem]]:
    """Titles and problems along a sweep."""
    if sweep == "grid":
        for size in GRID_SIZES:
            yield f"grid size {size}", replace(base, basis=basis_of_size(size))
    elif sweep == "width":
        for width in WIDTHS:
            yield f"width {width}", replace(base, inputs=width, outputs=width)
    elif sweep == "batch":
        for batch in BATCHES:
            yield f"batch {batch}", replace(base, rows=batch)
    else:
        for threads in sorted({base.threads, *(2**k for k in range(base.threads.bit_length()))}):
            yield f"threads {threads}", replace(base, threads=threads)


def _dtypes(asked: str, device: torch.device) -> list[str]:
    """Dtypes to measure, the device's fast one last."""
    if asked in ("fp32", "bf16"):
        return [asked]
    if asked == "both" or resolve_dtype("auto", device) == "bfloat16":
        return ["fp32", "bf16"]
    return ["fp32"]
