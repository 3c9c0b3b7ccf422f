"""The flags of interpret. Nothing here loads torch, so that --help answers at once."""

from jsonargparse import ArgumentParser

# Flags that say how --prune goes about it, and what they are where nobody says.
PRUNING = {"finetune": 0, "score": "std_grad", "unit": "edges", "ablation": "mean"}


def add_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("run", help="run folder, such as runs/quickstart_kan, or pretrained:NAME")
    add("--checkpoint", default="best", help="best, last, or a step-NNNNNN")
    add("--to", help="folder for what is found (default: RUN/interpret)")
    add("--layers", nargs="+", help="names of layers, or beginnings: blocks.0 (default: all)")
    add("--families", nargs="+", help="families of formulas to try (default: all)")
    add("--top", type=int, default=24, help="edges of each layer that are pictured and written out")
    add(
        "--budget",
        type=int,
        default=8192,
        help="validation tokens for each point of a curve, 32 times as many for totals; 0 takes "
        "the whole split for all",
    )
    add("--neurons", nargs="+", default=[], help="outputs, as LAYER:OUTPUT, to write as formulas")
    add("--lookup", type=int, default=0, help="points of each edge's exported table; 0 for none")
    add("--seed", type=int, default=1337, help="decides the windows of text, and the clustering")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add("--prune", type=float | None, help="share of the edges to remove, 0 to 1: only prunes")
    add("--out", help="with --prune: the run folder to write, which must not exist")
    for flag, choices, about in (
        ("finetune", None, "steps to train on for"),
        ("score", ["std_grad", "std", "norm", "random"], "the lowest go first"),
        ("unit", ["edges", "inputs"], "inputs go with all edges"),
        ("ablation", ["mean", "zero"], "what stays of an edge"),
    ):
        kind = {"type": int} if choices is None else {"choices": choices}
        add(f"--{flag}", default=PRUNING[flag], help=f"with --prune: {about}", **kind)
