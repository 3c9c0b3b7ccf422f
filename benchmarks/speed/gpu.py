"""All measurements on a GPU: correctness of kernels, layers, training steps, full training runs.

Each part runs in its own process with a share of the time and is written when done: a faulty
kernel, a hanging compiler or a lost machine costs only that part. The report names what was left
out for lack of time.
"""

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.speed import gate, layer, step
from benchmarks.speed.contenders import Contender, backend_contenders
from benchmarks.speed.measure import Plan, measure
from benchmarks.speed.names import BOOSTED, KAN, PLAIN
from benchmarks.speed.problem import BASES, Problem, basis_named
from benchmarks.speed.report import Report, Table, require_above_zero
from nanogpkant.base.console import note
from nanogpkant.base.errors import UsageError, one_line
from nanogpkant.config import load_config
from nanogpkant.kan import BSpline
from nanogpkant.machine.device import measured_on, resolve_device
from nanogpkant.measure.peak import ChildError, in_a_child
from nanogpkant.report.table import Row

# Fraction of the time at which each part must be done; unused time goes to the next part.
DONE_BY = {"correctness": 0.1, "layers": 0.42, "steps": 0.6, "training": 1.0}
# Seconds for a training run to save and exit when interrupted.
SECONDS_TO_STOP = 12.0


@dataclass(frozen=True)
class GPUPlan:
    """What to run. Tests run the same on a CPU, with smaller values."""

    device: str = "cuda"
    minutes: float = 9.5
    repeats: int = 7
    rivals: bool = True
    rows: int = 16384
    shapes: tuple[tuple[int, int], ...] = (
        (192, 768),
        (768, 192),
        (768, 3072),
        (3072, 768),
        (192, 576),
        (192, 192),
    )
    """the most important first, in case time runs out"""
    checks: tuple[tuple[int, int, int], ...] = ((1000, 100, 72), (4096, 192, 576))
    """rows, inputs, outputs; the first are no multiples of a tile"""
    jobs: tuple[step.Job, ...] | None = None
    """models to step; None: the original's presets at batch 64, compiled, and its own model"""
    presets: tuple[str, ...] = (KAN, PLAIN, BOOSTED)
    runs: str = "runs/bench"
    train_flags: tuple[str, ...] = ("--train.compile", "true")


@dataclass
class Clock:
    """Deadlines of the parts."""

    minutes: float
    started: float = field(default_factory=time.monotonic)

    def left(self, part: str) -> float:
        """Seconds until a part must be done."""
        return self.started + 60 * self.minutes * DONE_BY[part] - time.monotonic()


def run(
    *,
    minutes: float = 9.5,
    runs: str = "runs/bench",
    device: str = "auto",
    repeats: int = 7,
    out: str = "runs/bench",
) -> Report:
    """Check and time everything on a CUDA device, full training runs included.

    Args:
        minutes: all of it stops when they are over.
        runs: folder for the training runs.
        device: auto, cuda or cuda:N.
        repeats: timed rounds; slow contenders get fewer, at least 3.
        out: folder for the tables (.json, .md) and the chart (.png).

    Raises:
        UsageError: there is no CUDA device.
    """
    require_above_zero(repeats=repeats, minutes=minutes)
    has_none = device == "auto" and not torch.cuda.is_available()
    if has_none or not device.startswith(("auto", "cuda")):
        raise UsageError(
            f"--device {device}: this benchmark needs a CUDA device; without one, make test "
            "checks the GPU kernels in Triton's interpreter, and their speed stays unmeasured"
        )
    where = resolve_device(device, "--device")
    return measure_all(GPUPlan(str(where), minutes, repeats, runs=runs), out)


def measure_all(plan: GPUPlan, out: str | None) -> Report:
    """Run every part and write the report after each result."""
    clock, parts, report = Clock(plan.minutes), {}, _whole(plan, [])
    for part in (_correctness, _layers, _steps, _training):
        for found in part(plan, clock):
            parts[part] = found
            report = _whole(plan, list(parts.values()))
            report.save(out)
    return report


def _whole(plan: GPUPlan, parts: list[Report]) -> Report:
    """One report of all parts so far."""
    title = f"Everything about a GPU, in {plan.minutes:g} minutes"
    report = Report("gpu", title, measured_on(torch.device(plan.device), f"{plan.repeats} rounds"))
    for part in parts:
        report.tables += part.tables
        report.goals += part.goals
        report.wrong += part.wrong
        report.notes += part.notes
        report.draw = report.draw or part.draw
    return report


def _part(title: str) -> Report:
    return Report("gpu", title, "")


def _correctness(plan: GPUPlan, clock: Clock) -> Iterator[Report]:
    """Every backend against the reference in float64, in every dtype and basis."""
    note("correctness")
    report, rows, problems = _part("Correctness"), [], _checks(plan)
    try:
        limit = _limit(clock, "correctness")
        rows = in_a_child(_check_all, problems, 0.8 * limit, limit=limit)
    except ChildError as error:
        report.wrong.append(f"correctness: {error}")
    if left_out := len(problems) - len({row["layer"] + row["basis"] for row in rows}):
        report.notes.append(f"{left_out} of {len(problems)} checks are left out: time was over")
    report.wrong += [f"{r['backend']}, {r['layer']}: {r['error']}" for r in rows if not r["equal"]]
    columns = {key: key for key in ("backend", "layer", "basis", "error", "tolerance", "equal")}
    report.tables.append(Table(report.title, rows, columns))
    yield report


def _checks(plan: GPUPlan) -> list[Problem]:
    """Every shape with the default basis, then the first shape with every other basis."""
    cases = [(shape, BSpline()) for shape in plan.checks]
    others = [basis_named(name, 5) for name in BASES if name != "bspline"]
    cases += [(plan.checks[0], basis) for basis in (BSpline(grid_size=16), *others)]
    return [
        Problem(inputs, outputs, rows, dtype, plan.device, basis)
        for (rows, inputs, outputs), basis in cases
        for dtype in ("fp32", "bf16", "fp16")
    ]


def _check_all(problems: list[Problem], seconds: float) -> list[Row]:
    """A row per backend and problem, until the time is over."""
    started = time.monotonic()
    rows: list[Row] = []
    for problem in problems:
        if time.monotonic() - started < seconds:
            rows += [_check(contender, problem) for contender in backend_contenders(problem)]
    return rows


def _check(contender: Contender, problem: Problem) -> Row:
    try:
        error, equal = gate.check_against_oracle(contender, problem, contender.start(problem)), True
    except gate.GateError as wrong:
        error, equal = str(wrong), False
    except Exception as failure:  # a kernel that does not compile is a result too
        error, equal = one_line(failure), False
    return {
        "backend": contender.name,
        "layer": str(problem),
        "basis": str(problem.basis),
        "error": error,
        "tolerance": gate.TOLERANCE[problem.dtype],
        "equal": equal,
    }


def _layers(plan: GPUPlan, clock: Clock) -> Iterator[Report]:
    """The table of layers, shape by shape."""
    report = _part("Layers")
    report.notes += layer.NOTES
    rows: list[Row] = []
    for number, shape in enumerate(plan.shapes):
        try:
            left = _limit(clock, "layers")
            # The first shapes take longest: every setting is compiled to find the fastest.
            seconds = min(0.7 * left, 2 * left / (len(plan.shapes) - number))
            rows += in_a_child(_measure_shape, shape, plan, rows, seconds, limit=left)
        except ChildError as error:
            report.notes.append(f"layer {shape[0]} -> {shape[1]} is left out: {error}")
        if rows:
            layer.fill(report, rows, torch.device(plan.device))
        yield report


def _measure_shape(
    shape: tuple[int, int], plan: GPUPlan, earlier: list[Row], seconds: float
) -> list[Row]:
    """Both dtypes of a shape, in about ``seconds``."""
    rows: list[Row] = []
    for dtype in ("bf16", "fp32"):
        problem = Problem(*shape, plan.rows, dtype, plan.device)
        settings = Plan(plan.repeats, rivals=plan.rivals, seconds=seconds / 2)
        measured = measure(problem, settings, earlier)
        rows += [{"part": f"{problem.rows:,} rows", **row} for row in measured]
    return rows


def _steps(plan: GPUPlan, clock: Clock) -> Iterator[Report]:
    """The table of training steps; all models in one part, since they are timed in turn."""
    report = _part("Training steps")
    jobs = list(plan.jobs or _jobs(plan.device))
    try:
        rows = in_a_child(step.measure, jobs, plan.repeats, limit=_limit(clock, "steps"))
        report.title = f"A training step of {jobs[0].batch_size} x {jobs[0].config.block_size}"
        report.notes += step.NOTES
        step.fill(report, rows, torch.device(plan.device))
    except ChildError as error:
        report.notes.append(f"training steps are left out: {error}")
    yield report


def _jobs(device: str) -> list[step.Job]:
    """The original's three presets with its dropout and batch size, and its own model."""
    jobs = step.jobs_for(64, device, "bfloat16", compile=True)
    return [job for job in jobs if job.config.dropout > 0 and job.name != step.MATCHED]


def _limit(clock: Clock, part: str) -> float:
    """Seconds left for a part.

    Raises:
        ChildError: the part's time is over.
    """
    if (left := clock.left(part)) <= 0:
        raise ChildError("no time was left for it")
    return left


def _training(plan: GPUPlan, clock: Clock) -> Iterator[Report]:
    """Full training runs, each interrupted and saved when its share of the time is over."""
    report, rows = _part("Full training runs"), []
    report.tables.append(Table(report.title, rows, {key: key for key in _no_run("")}))
    for number, preset in enumerate(plan.presets):
        share = clock.left("training") / (len(plan.presets) - number)
        rows.append(train(preset, plan, share - SECONDS_TO_STOP))
        if not rows[-1]["finished"]:
            report.notes.append(f"{rows[-1]['preset']} did not finish its training: see the table")
        yield report


def train(preset: str, plan: GPUPlan, seconds: float) -> Row:
    """Train a preset by the command line, and interrupt it when the time is over."""
    name = Path(preset).stem
    out = Path(plan.runs) / name
    if seconds <= 0:
        return _no_run(name, "no time was left for it")
    command = [sys.executable, "-m", "nanogpkant.cli", "train", preset, "--json", "--overwrite"]
    command += ["--out", str(out), "--train.device", plan.device, *plan.train_flags]
    note(f"training {name} for at most {seconds:.0f} s")
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as child:
        printed = _wait(child, seconds)
    wall = time.monotonic() - started
    if child.returncode:
        return _no_run(name, f"exit status {child.returncode}: its error is on the terminal")
    return _run_row(name, json.loads(printed), out, wall)


def _wait(child: subprocess.Popen, seconds: float) -> str:
    """Output of a process; at the time limit it is interrupted, as by Ctrl-C, then killed."""
    for patience, ask in ((seconds, signal.SIGINT), (SECONDS_TO_STOP, signal.SIGKILL)):
        try:
            return child.communicate(timeout=patience)[0]
        except subprocess.TimeoutExpired:
            child.send_signal(ask)
    return child.communicate()[0]


def _run_row(name: str, summary: Row, out: Path, wall: float) -> Row:
    config = load_config(out / "config.yaml")
    seconds = summary["seconds"] or math.inf
    return {
        "preset": name,
        "steps": summary["step"],
        "of": config.train.max_iters,
        "finished": summary["finished"],
        "best val loss": summary["best_val_loss"],
        "seconds of training": summary["seconds"],
        "seconds in all": wall,
        "tokens/s": summary["step"] * config.tokens_per_step / seconds,
        "peak MB": summary["peak_memory_bytes"] / 1e6,
        "remark": "" if summary["finished"] else "stopped when its share of the time was over",
    }


def _no_run(name: str, remark: str = "") -> Row:
    numbers = ("steps", "of", "finished", "best val loss", "seconds of training", "seconds in all")
    empty = dict.fromkeys((*numbers, "tokens/s", "peak MB"))
    return {"preset": name, **empty, "remark": remark}
