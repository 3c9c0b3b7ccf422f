"""One KAN layer, forward and backward: ours, those of others, and the bare matrix products."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from jsonargparse import Namespace

from benchmarks.speed.charts import layer_bars, sweep_lines
from benchmarks.speed.flags import check
from benchmarks.speed.goals import layer_goals
from benchmarks.speed.measure import Plan, Row, measure, totals
from benchmarks.speed.names import OURS
from benchmarks.speed.problem import Problem, basis_named
from benchmarks.speed.report import Report, Table
from nanogpkant.base.errors import UsageError
from nanogpkant.machine.device import measured_on, resolve_device, resolve_dtype

# The projections of a block of the preset: qkv, attn_out, mlp_in, mlp_out; and a larger MLP.
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

# What a sweep walks along, and the layer and rows that it keeps.
GRID_SIZES = (5, 8, 16, 32, 64)
WIDTHS = (192, 384, 768, 1536, 2048)
BATCHES = (256, 1024, 4096, 16384, 65536)

NOTES = [
    "Medians of interleaved rounds, forward and backward, compiling left out; weights are float32 "
    'and bf16 is autocast, unless "run as" says otherwise.',
    "The three products are forward, weight gradient and input gradient, on features and outputs "
    "that are already there. The limit is those FLOPs at the fastest matrix product seen in this "
    "run, or the layer's bytes at the measured bandwidth, whichever takes longer.",
    "Extra peak memory is over inputs and weights, gradients included, in a process of its own.",
    "FastKAN's formula is another function of as many numbers. Of several ways to run a rival, the "
    "fastest that passed the gate is shown.",
]


def run(options: Namespace) -> Report:
    """``nanogpkant bench layer``."""
    check(options, "repeats", "inputs", "outputs", "rows", "grid_size", "limit")
    device = resolve_device(options.device, "--device")
    plan = Plan(options.repeats, options.limit, options.rivals == "all", bool(options.sweep))
    problems = list(_sweep(options, device) if options.sweep else _shapes(options, device))
    report = _report(options, device)
    rows: list[Row] = []
    for title, problem in problems:
        new = measure(problem, plan, rows)
        rows += [{"part": title, **row} for row in new]
        fill(report, rows, device, options.sweep)
        report.save(options.out)
    return report


def fill(report: Report, rows: list[Row], device: torch.device, sweep: str | None = None) -> None:
    """Put the rows so far into the report."""
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


def _report(options: Namespace, device: torch.device) -> Report:
    suffix = options.sweep or {"seed": "", "wide": "wide", "all": "all"}[options.shapes]
    if options.basis != "bspline":
        suffix = "_".join(filter(None, (options.basis, suffix)))
    name = f"layer_{suffix}" if suffix else "layer"
    words = f"{options.repeats} rounds"
    return Report(name, f"A KAN layer of {options.basis}", measured_on(device, words), notes=NOTES)


def _shapes(options: Namespace, device: torch.device) -> Iterator[tuple[str, Problem]]:
    """The problems that the flags ask for, each with the title of its table."""
    usual_rows = ROWS_ON_CPU if device.type == "cpu" else ROWS
    if options.inputs is None and options.outputs is not None:
        raise UsageError(f"--outputs {options.outputs}: say --inputs too")
    if options.inputs is not None:
        parts = {"seed": ((options.inputs, options.outputs or options.inputs),)}
    else:
        parts = {n: s for n, s in SHAPES.items() if options.shapes in (n, "all")}
    basis = basis_named(options.basis, options.grid_size)
    for name, shapes in parts.items():
        rows = options.rows or usual_rows[name]
        for inputs, outputs in shapes:
            for dtype in _dtypes(options, device):
                problem = Problem(inputs, outputs, rows, dtype, str(device), basis)
                yield f"{rows:,} rows", problem


def _sweep(options: Namespace, device: torch.device) -> Iterator[tuple[str, Problem]]:
    """One layer after another along the grid size, the width or the batch."""
    on_gpu = device.type == "cuda"
    rows = options.rows or (16384 if on_gpu else 1024 if options.sweep == "width" else 4096)
    basis = basis_named(options.basis, options.grid_size)
    inputs = options.inputs or 192
    base = Problem(inputs, options.outputs or 4 * inputs, rows, "fp32", str(device), basis)
    dtypes = _dtypes(options, device)
    for dtype in dtypes[-1:] if options.dtypes == "auto" else dtypes:
        base = replace(base, dtype=dtype)
        if options.sweep == "grid":
            for size in GRID_SIZES:
                yield f"grid size {size}", replace(base, basis=basis_named(options.basis, size))
        elif options.sweep == "width":
            for width in WIDTHS:
                yield f"width {width}", replace(base, inputs=width, outputs=width)
        else:
            for batch in BATCHES:
                yield f"batch {batch}", replace(base, rows=batch)


def _dtypes(options: Namespace, device: torch.device) -> list[str]:
    """What to measure, the device's fast dtype last."""
    if options.dtypes in ("fp32", "bf16"):
        return [options.dtypes]
    if options.dtypes == "both" or resolve_dtype("auto", device) == "bfloat16":
        return ["fp32", "bf16"]
    return ["fp32"]
