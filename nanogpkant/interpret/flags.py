"""The flags of interpret. Nothing here loads torch, so that --help answers at once."""

from jsonargparse import ArgumentParser


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
    add("--finetune", type=int, default=0, help="with --prune: steps to train on for")
    scores = ["std_grad", "std", "norm", "random"]
    add("--score", default="std_grad", choices=scores, help="with --prune: the lowest go first")
    units = ["edges", "inputs"]
    add("--unit", default="edges", choices=units, help="with --prune: inputs go with all edges")
    ablations = ["mean", "zero"]
    add("--ablation", default="mean", choices=ablations, help="with --prune: what stays of an edge")
