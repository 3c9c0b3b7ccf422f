"""The flags of plan. Nothing here loads torch, so that --help answers at once."""

from jsonargparse import ArgumentParser

GPUS = ("auto", "here", "h100", "h200", "a100", "4090")


def add_plan_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("preset", help="name of a preset (see nanogpkant presets), or a path to a .yaml file")
    add("--gpus", type=int, default=1, help="GPUs of a node, a process each")
    add("--nodes", type=int, default=1, help="machines with that many GPUs")
    add(
        "--gpu",
        default="auto",
        choices=list(GPUS),
        help="what trains: a known card; here, this machine's device; auto is this machine, but an "
        "a100 where it has no GPU and --gpus, --nodes or --memory ask for one",
    )
    add("--memory", help="of a GPU, such as 80GB or 79GiB (default: what that --gpu has)")
    add(
        "--flops_rate",
        type=float | None,
        help="TFLOPS that a GPU reaches in training (default: measured here, or a share of --gpu's "
        "peak)",
    )
    add(
        "--vocab_size",
        type=int | None,
        help="different tokens (default: those of the prepared text, or of its dataset)",
    )
