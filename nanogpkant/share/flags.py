"""The flags of export, and the harness's. Nothing here loads torch: --help answers at once."""

from jsonargparse import ArgumentParser

FORMATS = {
    "run": "opens wherever a run does, here and nowhere else",
    "hf": "transformers loads it, without nanogpkant",
    "onnx": "one model.onnx, from token ids to logits",
}


def add_export_flags(parser: ArgumentParser) -> None:
    formats = "; ".join(f"{name}: {about}" for name, about in FORMATS.items())
    add = parser.add_argument
    add("run", help="run folder, such as runs/quickstart_kan")
    add("--to", required=True, help="folder to write; it must not exist, or be empty")
    add("--format", default="run", choices=list(FORMATS), help=formats)
    add("--checkpoint", default="best", help="best, last, or a step-NNNNNN")
    add("--bfloat16", action="store_true", help="round the weights to it, which halves them")
    add("--license", help="for the model card, such as mit (default: says nothing)")


def add_harness_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    about = (
        "run these tasks of the lm-evaluation-harness instead: names (downloaded), or .yaml files"
    )
    add("--harness", nargs="+", help=about)
    add("--harness_limit", type=int | None, help="documents of each task (default: all)")
