"""The command line: one short function a verb, no logic. ``nanogpkant --help`` lists the verbs."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from nanogpkant.base.console import bar
from nanogpkant.base.errors import UsageError, UserError, is_out_of_memory
from nanogpkant.base.files import read_text
from nanogpkant.commandline import (
    add_run_arguments,
    complain,
    explain,
    parse,
    report,
    show,
    with_flags,
    write_now,
)
from nanogpkant.config import (
    TRACKERS,
    RunConfig,
    TrackingConfig,
    load_config,
    load_preset,
    preset_names,
    to_yaml,
)

# Heavy imports (torch takes a second) stand inside the verbs, so that --help and bad usage answer
# at once.

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 bad usage."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    # Text in and out is UTF-8, whatever the terminal's locale says.
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed by whoever started us
            stream.reconfigure(encoding="utf-8")
    try:
        return dispatch(arguments) or 0
    except (UserError, argparse.ArgumentError, KeyboardInterrupt, OSError) as error:
        if debug:
            raise
        return explain(error)
    except (MemoryError, RuntimeError) as error:
        if debug or not is_out_of_memory(error):
            raise
        complain("out of memory: lower --train.batch_size, --model.block_size or --model.n_embd")
        return UserError.exit_status


def dispatch(arguments: list[str]) -> int | None:
    verb = next((a for a in arguments if not a.startswith("-")), None)
    if verb not in VERBS:
        if verb is not None:
            raise UsageError(f"unknown command {verb}: known are {', '.join(VERBS)}")
        return print_verbs(arguments)
    arguments.remove(verb)
    return VERBS[verb](arguments)


def print_verbs(arguments: list[str]) -> int:
    from nanogpkant import __version__

    if "--version" in arguments:
        print(__version__)
        return 0
    print("usage: nanogpkant COMMAND [--help] [--debug]\n")
    for verb, function in VERBS.items():
        print(f"  {verb:<9} {function.__doc__}")
    return 0 if "--help" in arguments or "-h" in arguments else UsageError.exit_status


def parser_for(verb: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"nanogpkant {verb}", description=VERBS[verb].__doc__, exit_on_error=False
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    return parser


def prepare(arguments: list[str]) -> None:
    """Turn a text, or a whole corpus, into token files that training reads."""
    from nanogpkant.data import Options, prepare
    from nanogpkant.data.flags import add_prepare_flags

    parser = parser_for("prepare")
    add_prepare_flags(parser)
    options = parse(parser, arguments)
    how = Options(
        options.tokenizer,
        options.vocab_size,
        options.val_fraction,
        options.field,
        options.separator and options.separator.replace("\\n", "\n"),
        options.workers,
    )
    with bar(f"preparing {options.dataset}", "bytes") as progress:
        file = None if options.file is None else Path(options.file)
        folder = prepare(options.dataset, Path(options.dir), file, progress, how)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    report(options, {"folder": str(folder), **meta}, f"{options.dataset} is ready in {folder}")


def train(arguments: list[str]) -> None:
    """Train a preset, or an experiment described in a YAML file."""
    parser = parser_for("train")
    add = parser.add_argument
    add("preset", help="name of a preset (see nanogpkant presets), or a path to a .yaml file")
    add("--out", help="run folder (default: runs/PRESET)")
    add("--resume", action="store_true", help="continue the run from its last checkpoint")
    about = "continue the run if there is one, else start it: for torchrun and for queues"
    add("--auto_resume", action="store_true", help=about)
    add("--overwrite", action="store_true", help="replace the run folder if there is one")
    # jsonargparse rewrites --print_config to --print_config=, so it has to take a value.
    add("--print_config", nargs="?", help="print the resolved configuration and stop")
    parser.add_class_arguments(RunConfig)
    options = parse(parser, arguments)
    if options.overwrite and (options.resume or options.auto_resume):
        raise UsageError("--resume and --overwrite ask for opposite things: give one of them")
    name, base = load_preset(options.preset)
    out = Path(options.out or Path("runs") / name)
    resume = "auto" if options.auto_resume else options.resume
    if resume and (out / "config.yaml").is_file():
        base = load_config(out / "config.yaml")
    config = with_flags(parser, arguments, base)
    if resume and (config.model, config.data) != (base.model, base.data):
        raise UsageError(
            "--resume: the model and data of a run cannot change; leave those flags out"
        )
    if resume and config.optim.name != base.optim.name:
        raise UsageError("--resume: the optimiser of a run cannot change; leave --optim.name out")
    if options.print_config is not None:
        print(to_yaml(config), end="")
        return

    from nanogpkant.training.loop import evaluate_start, train

    if config.train.eval_only:
        result = evaluate_start(config, out, resume).as_dict()
        report(options, {"split": "val", **result}, describe_evaluation(result))
        return
    summary = train(config, out, resume, options.overwrite)
    loss = summary["best_val_loss"] or summary["val_loss"]
    words = f"best validation loss {loss:.4f} after {summary['step']} steps"
    report(options, summary, f"{words}, {summary['seconds']:.0f} s; the run is in {out}")


def evaluate(arguments: list[str]) -> None:
    """Measure loss, perplexity, bits per character and accuracy over a whole split."""
    from nanogpkant.share.flags import add_harness_flags

    parser = parser_for("eval")
    add_run_arguments(parser)
    parser.add_argument(
        "--split", default="val", choices=["train", "val", "test"], help="text to predict"
    )
    parser.add_argument(
        "--random_batches",
        type=int,
        default=0,
        help="estimate from this many random batches, as the original did; 0 reads all of it",
    )
    parser.add_argument("--batch_size", type=int, default=64, help="sequences at a time")
    parser.add_argument("--seed", type=int, default=1337, help="decides the random batches")
    add_harness_flags(parser)
    options = parse(parser, arguments)
    if options.harness or options.harness_limit:
        evaluate_by_harness(options)
        return

    from nanogpkant.evaluation import evaluate_run

    result = evaluate_run(
        Path(options.run),
        options.checkpoint,
        options.split,
        options.device,
        options.dtype,
        options.batch_size,
        options.random_batches,
        options.seed,
    ).as_dict()
    report(options, {"split": options.split, **result}, describe_evaluation(result))


def evaluate_by_harness(options: Namespace) -> None:
    from nanogpkant.share.harness import in_words, run_harness

    found = run_harness(
        Path(options.run),
        options.checkpoint,
        options.harness,
        options.harness_limit,
        options.device,
        options.dtype,
        options.batch_size,
    )
    show(options, found, in_words(found))


def sample(arguments: list[str]) -> None:
    """Let a trained model write."""
    parser = parser_for("sample")
    add_run_arguments(parser)
    add = parser.add_argument
    add("--prompt", help="text to continue (default: a new line)")
    add("--prompt_file", help="UTF-8 file with the text to continue (default: none)")
    add("--tokens", type=int, default=500, help="tokens to write")
    add("--samples", type=int, default=1, help="texts to write at once")
    add("--temperature", type=float, default=0.8, help="0 always takes the most likely token")
    add("--top_k", type=int | None, help="draw from the k most likely tokens (default: all)")
    add("--top_p", type=float | None, help="draw from the most likely ones of this total (0 to 1)")
    add("--seed", type=int, default=1337, help="decides the draws")
    add("--no_cache", action="store_true", help="recompute every token's whole context (slow)")
    options = parse(parser, arguments)

    from nanogpkant.generation import sample_run

    result = sample_run(
        Path(options.run),
        options.checkpoint,
        read_prompt(options),
        options.device,
        options.dtype,
        samples=options.samples,
        stream=None if options.json else write_now,
        max_new_tokens=options.tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        use_cache=not options.no_cache,
    )
    report(options, result, f"{result['tokens_per_second']:.0f} tokens/s")


def presets(arguments: list[str]) -> None:
    """List the presets with their size."""
    parser = parser_for("presets")
    options = parse(parser, arguments)

    from nanogpkant.model.counting import VOCABULARIES, count

    rows = []
    for name in preset_names():
        _, config = load_preset(name)
        vocab_size = VOCABULARIES[config.data.dataset]
        counted = count(config.model, vocab_size)
        rows.append(
            {
                "name": name,
                "about": config.about,
                "vocab_size": vocab_size,
                "parameters": counted.parameters,
                "parameters_without_positions": counted.parameters_without_positions,
                "flops_per_token": counted.flops_per_token,
            }
        )
    lines = (f"{r['name']:<42} {r['parameters'] / 1e6:6.2f}M  {r['about']}" for r in rows)
    show(options, rows, "\n".join(lines))


def plan(arguments: list[str]) -> None:
    """Say what a training run takes in memory and time, and whether it fits, before it starts."""
    from nanogpkant.measure.flags import add_plan_flags

    parser = parser_for("plan")
    add_plan_flags(parser)
    parser.add_class_arguments(RunConfig)
    options = parse(parser, arguments)
    name, base = load_preset(options.preset)
    config = with_flags(parser, arguments, base)

    from nanogpkant.measure.plan import plan

    found = plan(name, config, options)
    show(options, found.as_dict(), found.words())
    if found.refusal:
        raise UserError(found.refusal)


def compare(arguments: list[str]) -> None:
    """Set runs side by side, or train a whole experiment: tables, statistics and a report."""
    from nanogpkant.comparison.flags import add_compare_flags

    parser = parser_for("compare")
    add_compare_flags(parser)
    options = parse(parser, arguments)

    from nanogpkant.comparison.command import compare

    found = compare(options)
    show(options, found.value, found.words)
    if found.failed:
        raise UserError(found.failed)


def search(arguments: list[str]) -> None:
    """Find the best settings of several kinds of model, with as many trials for each."""
    from nanogpkant.comparison.flags import add_search_flags

    parser = parser_for("search")
    add_search_flags(parser)
    options = parse(parser, arguments)

    from nanogpkant.comparison.search import search

    found = search(options)
    show(options, found.rows, found.words)


def match(arguments: list[str]) -> None:
    """Find the plain GPT, or the KAN, that costs as much as a preset."""
    from nanogpkant.comparison.flags import add_match_flags

    parser = parser_for("match")
    add_match_flags(parser)
    options = parse(parser, arguments)

    from nanogpkant.measure.match import match

    found = match(options)
    report(options, found.as_dict(), found.words())
    if not (options.json or options.out):
        print(to_yaml(found.config), end="")


def interpret(arguments: list[str]) -> None:
    """Look inside a KAN: its functions as pictures and formulas, and what they are worth."""
    from nanogpkant.interpretation.flags import add_flags

    parser = parser_for("interpret")
    add_flags(parser)
    options = parse(parser, arguments)

    from nanogpkant.interpretation import interpret

    show(options, *interpret(options))


def convert(arguments: list[str]) -> None:
    """Turn a GPT-2 or a plain run into a run: as it is, or with KAN layers of the same function."""
    parser = parser_for("convert")
    add = parser.add_argument
    add("source", help="run folder, folder of a GPT-2, or gpt2, gpt2-medium, gpt2-large, gpt2-xl")
    add("--out", required=True, help="run folder to write; it must not exist, or be empty")
    parser.add_class_arguments(RunConfig)
    options = parse(parser, arguments)

    from nanogpkant.conversion import convert, open_source, starting_config
    from nanogpkant.share.export import check_is_new

    check_is_new(Path(options.out), "--out")  # before anything is downloaded
    source = open_source(options.source)
    config = with_flags(parser, arguments, starting_config(source))
    result = convert(source, config, Path(options.out))
    change = f"its logits differ by {result['largest_change_of_logits']:.1g} at most"
    words = f"{result['parameters'] / 1e6:.2f}M parameters; {change}"
    report(options, result, f"{options.source} is in {options.out}: {words}")


def export(arguments: list[str]) -> None:
    """Write a trained model as a folder to share: weights, configuration, tokenizer, model card."""
    from nanogpkant.share.flags import add_export_flags

    parser = parser_for("export")
    add_export_flags(parser)
    options = parse(parser, arguments)

    from nanogpkant.share.export import export_run

    to = Path(options.to)
    chosen = (options.checkpoint, options.bfloat16, options.license, options.format)
    result = export_run(Path(options.run), to, *chosen)
    report(options, result, f"{to} holds step {result['step']}, {result['bytes'] / 1e6:.1f} MB")


def push(arguments: list[str]) -> None:
    """Upload a trained model to the Hugging Face Hub."""
    parser = parser_for("push")
    parser.add_argument("run", help="run folder, or the folder that export wrote")
    parser.add_argument("--repo", required=True, help="NAME or OWNER/NAME on the Hub")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    options = parse(parser, arguments)

    from nanogpkant.share.hub import push

    result = push(Path(options.run), options.repo, options.private)
    report(options, result, f"{options.run} is at {result['url']}")


def pull(arguments: list[str]) -> None:
    """Download a model from the Hugging Face Hub and verify it."""
    parser = parser_for("pull")
    parser.add_argument("repo", help="OWNER/NAME on the Hub")
    parser.add_argument("--to", help="folder to write (default: runs/NAME)")
    options = parse(parser, arguments)

    from nanogpkant.share.hub import pull

    to = Path(options.to or Path("runs") / Path(options.repo).name)
    report(options, pull(options.repo, to), f"{options.repo} is in {to}, verified")


def track(arguments: list[str]) -> None:
    """Send the metrics, configuration and samples of a run to a tracker."""
    default = TrackingConfig()
    parser = parser_for("track")
    add = parser.add_argument
    add("run", help="run folder, finished or still training")
    add("--to", required=True, choices=list(TRACKERS), help="where")
    add("--project", default=default.project, help="name of the project there")
    modes = ["offline", "online"]
    add("--wandb_mode", default=default.wandb_mode, choices=modes, help="online needs a login")
    options = parse(parser, arguments)
    tracking = TrackingConfig([options.to], options.project, options.wandb_mode)

    from nanogpkant.training.tracking import track_run

    result = track_run(Path(options.run), tracking)
    words = f"{result['rows']} rows of {options.run} are in {options.to}"
    if options.to == "tensorboard":  # the others say themselves how to see them
        words += f": tensorboard --logdir {result['folder']}"
    report(options, result, words)


VERBS: dict[str, Callable[[list[str]], int | None]] = {
    "prepare": prepare,
    "train": train,
    "eval": evaluate,
    "sample": sample,
    "match": match,
    "compare": compare,
    "search": search,
    "interpret": interpret,
    "convert": convert,
    "export": export,
    "push": push,
    "pull": pull,
    "track": track,
    "presets": presets,
    "plan": plan,
}


def read_prompt(options: Namespace) -> str | None:
    if options.prompt_file is None:
        return options.prompt
    if options.prompt is not None:
        raise UsageError("--prompt and --prompt_file both give a prompt: leave one out")
    return read_text(Path(options.prompt_file))


def describe_evaluation(result: dict[str, float]) -> str:
    bits = f"{result['bits_per_char']:.4f} bits/char"
    if result.get("bits_per_byte", result["bits_per_char"]) != result["bits_per_char"]:
        bits = f"{result['bits_per_byte']:.4f} bits/byte"
    return (
        f"loss {result['loss']:.4f} nats, perplexity {result['perplexity']:.3f}, {bits}, "
        f"accuracy {result['accuracy']:.1%} over {result['tokens']:,} tokens"
    )


if __name__ == "__main__":
    sys.exit(main())
