"""The flags of each benchmark. Nothing here loads torch, so that --help answers at once."""

from jsonargparse import ArgumentParser, Namespace

from nanogpkant.base.errors import UsageError
from nanogpkant.kan.bases import BASES as REGISTRY

KINDS = {
    "layer": "one KAN layer, forward and backward, against rivals and the bare matrix product",
    "step": "whole training steps of the original's models",
    "sample": "sampling with and without the cache",
    "gpu": "all of it on a CUDA device, with full training runs, in --minutes",
}
SWEEPS = ("grid", "width", "batch")
BASES = [name for name, entry in REGISTRY.items() if not entry.must_be_shared]


def add_flags(parser: ArgumentParser, kind: str | None) -> None:
    """Add the flags of one benchmark; without one, those that all of them have."""
    about = "; ".join(f"{name}: {about}" for name, about in KINDS.items())
    parser.add_argument("what", choices=list(KINDS), help=f"{about} (bench WHAT --help: its flags)")
    add = parser.add_argument
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add(
        "--repeats", type=int, default=7, help="timed rounds; slow contenders get fewer, at least 3"
    )
    out = "runs/bench" if kind == "gpu" else None
    add("--out", default=out, help="folder for the tables (.json, .md) and the chart (.png)")
    if kind is not None:
        {"layer": _layer, "step": _step, "sample": _sample, "gpu": _gpu}[kind](parser)


def _layer(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--shapes",
        default="seed",
        choices=["seed", "wide", "all"],
        help="seed: the four of shakespeare_char_micro_kan; wide: 768 to 3072 and back",
    )
    add("--inputs", type=int | None, help="inputs of one layer instead of --shapes")
    add("--outputs", type=int | None, help="outputs of that layer (default: as many as inputs)")
    add("--rows", type=int | None, help="tokens in a batch (default: what the shapes say)")
    add(
        "--dtypes",
        default="auto",
        choices=["auto", "both", "bf16", "fp32"],
        help="auto: both where the device is fast at bf16, else fp32",
    )
    add("--basis", default="bspline", choices=list(BASES), help="what the layer is made of")
    size = (
        "intervals of a cubic spline's grid; every basis gets as many functions, 3 more than that"
    )
    add("--grid_size", type=int, default=5, help=size)
    add("--rivals", default="all", choices=["all", "none"], help="time other libraries' layers too")
    add(
        "--sweep",
        choices=list(SWEEPS),
        help="cost against the grid size (5 to 64), the width (192 to 2048) or the batch",
    )
    add("--limit", type=float, default=180.0, help="seconds to compile and first run a contender")


def _step(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--batch_size", type=int, default=8, help="sequences of 256 tokens")
    add(
        "--dtype",
        default="auto",
        choices=["auto", "float32", "bfloat16"],
        help="of the matrix products; auto is what the device is fast at",
    )
    add("--compile", action="store_true", help="compile the models (never the original's)")


def _sample(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--preset", default="shakespeare_char_micro_kan", help="whose model writes, untrained")
    add("--tokens", type=int, default=1000, help="characters to write")


def _gpu(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--minutes", type=float, default=9.5, help="all of it stops when they are over")
    add("--runs", default="runs/bench", help="folder for the training runs")


def check(options: Namespace, *names: str) -> None:
    """Refuse a flag that has to be above zero and is not.

    Raises:
        UsageError: naming the flag.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise UsageError(f"--{name} {value}: must be above 0")
