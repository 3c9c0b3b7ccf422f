"""Time of a training step of every variant of an experiment.

    python benchmarks/variant_steps.py experiments/gpkant_proxy.yaml --threads 1 --out results

A step is forward, backward, gradient clipping and the variant's optimizer. Variants are timed in
turn; the table has medians and ratios to the first variant without a KAN layer. The limit is the
model's FLOPs at the rate of a large matrix product on this machine. The script fails if the loss or
gradients of a variant differ from its plain-torch reference.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.speed.equal import loss_and_gradients, require_equal
from benchmarks.speed.report import Report, Table
from nanogpkant.base.errors import UserError
from nanogpkant.comparison.experiment import load_experiment
from nanogpkant.comparison.planning import plan
from nanogpkant.config import with_changes
from nanogpkant.machine.device import measured_on
from nanogpkant.measure.step import Job, job_of, step_rows
from nanogpkant.report.table import Row

COLUMNS = {
    "variant": "variant",
    "optimizer": "optimiser",
    "ms": "ms",
    "min": "min",
    "max": "max",
    "rounds": "rounds",
    "ratio": "times the plain one's",
    "over limit": "times the limit",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", type=Path, help="an experiment's file")
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each variant")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--out", help="folder for the table, EXPERIMENT_step.md and .json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    experiment = load_experiment(options.experiment)
    variants = {run.variant: run for run in plan(experiment, Path("runs"))}
    cpu = torch.device("cpu")
    jobs = [
        job_of(name, run.config, run.vocab_size, cpu, run.config.train.dtype)
        for name, run in variants.items()
    ]
    for job in jobs:
        check_against_reference(job)
    about = f"A step of {experiment.about}"
    report = Report(f"{experiment.name}_step", about, measured_on(cpu))
    report.command = f"python benchmarks/variant_steps.py {options.experiment} --rounds "
    report.command += f"{options.rounds} --threads {options.threads}"
    report.tables.append(Table("Training steps", measure(jobs, options.rounds), COLUMNS))
    print(report.markdown())
    report.save(options.out)


def check_against_reference(job: Job) -> None:
    """Compare a model's loss and gradients with its plain-torch reference.

    In float32, on the batch that is timed, so that the same code runs.

    Raises:
        UserError: they differ.
    """
    found = []
    for backend in ("auto", "reference"):
        config = with_changes(job.config, **{"kan.backend": backend, "dropout": 0.0})
        found.append(loss_and_gradients(replace(job, config=config, dtype="float32")))
    require_equal(*found, 1e-4, f"{job.name}: differs from its reference")


def measure(jobs: list[Job], rounds: int) -> list[Row]:
    """A row per job; ratios are to the first job without a KAN layer, or else to the first."""
    rows = step_rows(jobs, rounds, with_memory=False)
    plain = next(
        (row for row, job in zip(rows, jobs, strict=True) if not job.config.kan.sites), rows[0]
    )
    return [
        {"variant": job.name, "optimizer": job.optim.name}
        | row
        | {"ratio": row["ms"] / plain["ms"]}
        for row, job in zip(rows, jobs, strict=True)
    ]


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
