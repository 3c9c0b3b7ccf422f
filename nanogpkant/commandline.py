"""What every verb does alike: read its flags, print its result, put an error into one line."""

import json
import os
import re
import sys
from dataclasses import asdict, fields
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from nanogpkant.base.console import console, note
from nanogpkant.base.errors import ToldElsewhereError, UsageError, UserError
from nanogpkant.config import RunConfig, config_from, nearest


def explain(error: BaseException) -> int:
    """Print an error as one line; returns its exit status."""
    if isinstance(error, BrokenPipeError):  # the reader of our output has gone, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, KeyboardInterrupt):
        note("stopped")
        return 1
    if isinstance(error, OSError):
        status = UserError.exit_status
    else:
        status = error.exit_status if isinstance(error, UserError) else UsageError.exit_status
    # Bad usage is the same in all processes that train together: one of them speaks of it.
    if not (isinstance(error, ToldElsewhereError) or (console.quiet and status == 2)):
        complain(in_plain_words(str(error)))
    return status


def complain(problem: str) -> None:
    """Print an error, even in a process that leaves speaking to another."""
    console.quiet = False
    note(f"error: {problem}")


# What jsonargparse says of a value of the wrong type: key, expected types, value.
TYPE_ERRORS = (
    r'Parser key "(.+?)": Expected an? (.+)\. Got value: (.*)',
    r'Parser key "(.+?)": Does not validate .+? Subtypes: \[(.+?)\] .+ Given value: (.*)',
)


def in_plain_words(message: str) -> str:
    """An error as one line; one about a value's type as the flag, the value and the rule."""
    message = " ".join(message.split())
    for pattern in TYPE_ERRORS:
        if found := re.fullmatch(pattern, message):
            key, expected, value = found.groups()
            expected = re.sub(r"<class '(.+?)'>", r"\1", expected).replace(", NoneType", " or null")
            expected = re.sub(r"typing\.Literal\[(.+)\]", r"one of \1", expected).replace("'", "")
            return f"--{key} {value}: must be {expected}"
    return re.sub(r'^Parser key "(.+?)": ', r"--\1: ", message)


def add_run_arguments(parser: ArgumentParser) -> None:
    """The arguments of every verb that reads a trained run."""
    parser.add_argument("run", help="run folder, such as runs/quickstart_kan")
    parser.add_argument("--checkpoint", default="best", help="best, last, or a step-NNNNNN")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=["auto", "float32", "bfloat16", "float16"],
        help="of the matrix products; auto is what the device is fast at",
    )


def parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """Parse, answering an unknown flag with the nearest one that there is."""
    known = [flag for action in parser._actions for flag in action.option_strings]
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            raise UsageError(f"unknown flag {flag}: {nearest(flag, known)}")
    return parser.parse_args(arguments)


def with_flags(parser: ArgumentParser, arguments: list[str], base: RunConfig) -> RunConfig:
    """A configuration with the flags laid over it."""
    parser.set_defaults(asdict(base))
    values = parser.parse_args(arguments).as_dict()
    return config_from({field.name: values[field.name] for field in fields(RunConfig)})


def show(options: Namespace, value: Any, words: str) -> None:
    """The result that was asked for, on standard output: as JSON or in words."""
    print(json.dumps(value, ensure_ascii=False) if options.json else words)


def report(options: Namespace, value: Any, words: str) -> None:
    """What was done: as JSON on standard output, or in words on standard error."""
    if console.quiet:  # another process speaks for all
        return
    if options.json:
        print(json.dumps(value, ensure_ascii=False))
    else:
        note(words)


def write_now(text: str) -> None:
    print(text, end="", flush=True)
