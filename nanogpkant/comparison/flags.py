"""The flags of match and compare. Nothing here loads torch, so that --help answers at once."""

from jsonargparse import ArgumentParser


def add_match_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("preset", help="what to match: a preset, or a path to a .yaml file")
    add(
        "--by",
        default="params",
        choices=["params", "flops", "step_time", "memory"],
        help="what both are to cost: params and flops are counted, step_time and memory measured",
    )
    add(
        "--vary",
        nargs="+",
        default=["n_embd", "mlp_ratio"],
        choices=["n_layer", "n_embd", "mlp_ratio"],
        help="what to change; a number after the first only where that is not within 1%",
    )
    add("--to", choices=["plain", "kan"], help="kind of model wanted (default: the other kind)")
    kan = "shakespeare_char_micro_kan"
    add("--kan", default=kan, help="preset or file whose KAN layers a KAN gets")
    add("--out", help="YAML file to write (default: standard output)")
    add("--vocab_size", type=int, default=65, help="different tokens of the text")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps: where to measure")
    dtypes = ["auto", "float32", "bfloat16", "float16"]
    add("--dtype", default="auto", choices=dtypes, help="of the matrix products measured")
    add(
        "--batch_size", type=int | None, help="sequences in a measured step (default: the preset's)"
    )
    add("--repeats", type=int, default=7, help="timed rounds; slow steps get fewer, at least 3")


def add_search_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("file", help="YAML file: kinds of model, what may be chosen for each, and how many trials")
    add("--out", default="runs", help="folder for the search's own")
    add("--jobs", type=int, default=1, help="runs trained at the same time")


def add_compare_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", nargs="*", help="run folders")
    add("--plot", help="PNG file for the learning curves (default: no plot)")
    add("--report", help="folder for report.html, .md, .json and pictures (default: no report)")
    add("--target", type=float | None, help="loss to reach, nats (default: what all runs reached)")
    add("--reference", choices=["original"], help="draw the original author's curves as well")
    add("--csv", nargs="+", default=[], help="W&B exports whose curves are drawn as well")
    add("--experiment", help="YAML file: train what is missing of it, then report on all of it")
    add("--out", default="runs", help="folder for the experiment's own")
    add("--jobs", type=int, default=1, help="runs of the experiment trained at the same time")
    add("--dry_run", action="store_true", help="say what the experiment would run and cost")
