"""The command line: a table of verbs. ``nanogpkant --help`` lists them."""

import argparse
import functools
import importlib
import inspect
import io
import json
import os
import sys
from typing import Any

from nanogpkant.base.answer import Answer
from nanogpkant.base.console import console, note
from nanogpkant.base.errors import (
    ToldElsewhereError,
    UsageError,
    UserError,
    is_out_of_memory,
    nearest,
    one_line,
)

# Each verb is a function of nanogpkant.verbs, given as module:function, in the order of use.
VERBS = {
    "prepare": "prepare:prepare",
    "train": "train:train",
    "sample": "use:sample",
    "eval": "use:evaluate",
    "runs": "runs:runs",
    "info": "runs:info",
    "presets": "runs:presets",
    "compare": "compare:compare",
    "experiment": "compare:experiment",
    "search": "compare:search",
    "scale": "scale:scale",
    "interpret": "interpret:interpret",
    "prune": "interpret:prune",
    "play": "play:play",
    "edit": "play:edit",
    "match": "measure:match",
    "plan": "measure:plan",
    "bench": "measure:bench",
    "convert": "convert:convert",
    "kanify": "kanify:kanify",
    "export": "share:export",
    "push": "share:push",
    "pull": "share:pull",
    "track": "train:track",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 bad usage."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Text in and out is UTF-8, whatever the terminal's locale says.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where the parent process closed it
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        return dispatch(list(arguments))
    except (UserError, KeyboardInterrupt, OSError) as error:
        if "--debug" in arguments:
            raise
        return explain(error)
    except (MemoryError, RuntimeError) as error:
        if "--debug" in arguments or not is_out_of_memory(error):
            raise
        flags = "--train.batch_size, --model.block_size or --model.n_embd of train"
        complain(f"out of memory: lower {flags}, --batch_size or --samples of others")
        return UserError.exit_status


def dispatch(arguments: list[str]) -> int:
    """Find the verb, call its function with its flags, and print the answer."""
    name = next((a for a in arguments if not a.startswith("-")), None)
    if name == "help":
        arguments.remove("help")
        return dispatch([*arguments, "--help"])
    if name is None or any(a.startswith("--print_completion") for a in arguments):
        return describe_all(arguments)
    if name not in VERBS:
        raise UsageError(f"unknown command {name}: {nearest(name, VERBS)}")
    arguments.remove(name)
    return run_verb(name, arguments)


def run_verb(name: str, arguments: list[str]) -> int:
    """Call a verb's function with its flags."""
    from nanogpkant.verbs import flags

    verb, is_json = function_of(name), "--json" in arguments
    parser = flags.parser_of(name, verb, with_all_settings="--help_all" in arguments)
    if "--help_all" in arguments:
        parser.print_help()
        return 0
    if flags.takes_settings(verb) and "--print_config" in arguments:
        arguments = [argument for argument in arguments if argument != "--print_config"]
        print(flags.settings_as_yaml(flags.parse(parser, name, verb, arguments)), end="")
        return 0
    values = flags.parse(parser, name, verb, arguments)
    if "stream" in inspect.signature(verb).parameters:
        values["stream"] = None if is_json else functools.partial(print, end="", flush=True)
    print_answer(verb(**values), is_json)
    return 0


def function_of(name: str) -> Any:
    """The function of a verb; importing it does not load torch."""
    module, function = VERBS[name].split(":")
    return getattr(importlib.import_module(f"nanogpkant.verbs.{module}"), function)


def print_answer(answer: Answer, is_json: bool) -> None:
    """Print a verb's result: JSON on standard output, or words where they belong.

    Raises:
        UserError: the answer is a failure.
    """
    if console.quiet:  # another process prints for all
        return
    if is_json:
        print(json.dumps(answer.as_dict(), ensure_ascii=False))
    elif answer.on_stdout:
        print(answer.words())
    else:
        note(answer.words())
    if answer.failure:
        raise UserError(answer.failure)


def describe_all(arguments: list[str]) -> int:
    """Without a verb: the version, a completion script, or the list of verbs."""
    from nanogpkant import __version__
    from nanogpkant.verbs import flags

    if "--version" in arguments:
        print(__version__)
        return 0
    if any(a.startswith("--print_completion") for a in arguments):
        print_completion(arguments)
        return 0
    if unknown := [a for a in arguments if a not in ("--help", "-h", "--debug")]:
        raise UsageError(f"unknown flag {unknown[0]}: nanogpkant --help lists the commands")
    print("usage: nanogpkant COMMAND [flags]\n")
    for name in VERBS:
        print(f"  {name:<11} {flags.summary_of(function_of(name))}")
    print("\nnanogpkant COMMAND --help shows the flags of one; --print_completion bash (or zsh,")
    print("tcsh) prints a script for tab completion.")
    return 0 if {"--help", "-h"} & set(arguments) else UsageError.exit_status


def print_completion(arguments: list[str]) -> None:
    """jsonargparse's own script for a shell, of all verbs and their flags."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    from nanogpkant.verbs import flags

    shell = arguments[-1].rpartition("=")[2]
    set_parsing_settings(add_print_completion_argument=True)
    root = ArgumentParser(prog="nanogpkant", exit_on_error=False)
    verbs = root.add_subcommands()
    for name in VERBS:
        verb = function_of(name)
        parser = flags.parser_of(name, verb, with_all_settings=True)
        verbs.add_subcommand(name, parser, help=flags.summary_of(verb))
    try:
        root.parse_args([f"--print_completion=shtab-{shell}"])
    except argparse.ArgumentError as error:
        raise UsageError(f"--print_completion: {flags.in_plain_words(str(error))}") from error
    finally:
        set_parsing_settings(add_print_completion_argument=False)  # no verb has that flag


def explain(error: BaseException) -> int:
    """Print an error as one line; returns its exit status."""
    if isinstance(error, BrokenPipeError):  # the reader of our output has gone, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, KeyboardInterrupt):
        note("stopped")
        return 1
    status = error.exit_status if isinstance(error, UserError) else UserError.exit_status
    # Bad usage is the same in all processes that train together: one of them reports it.
    if not (isinstance(error, ToldElsewhereError) or (console.quiet and status == 2)):
        complain(one_line(error))
    return status


def complain(problem: str) -> None:
    """Print an error, even in a process that leaves printing to another."""
    console.quiet = False
    note(f"error: {problem}")


if __name__ == "__main__":
    sys.exit(main())
