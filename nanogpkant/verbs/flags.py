"""A verb's function as a command line: its parameters are flags, its docstring is their help."""

import argparse
import inspect
import re
import typing
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from docstring_parser import parse as parse_docstring
from jsonargparse import (
    ArgumentParser,
    DefaultHelpFormatter,
    get_loader,
    set_loader,
    set_parsing_settings,
)
from yaml import YAMLError

from nanogpkant.base.answer import Answer
from nanogpkant.base.errors import IN_WORDS, UsageError, nearest
from nanogpkant.config import RunConfig, check_yaml, load_preset, to_yaml, with_settings

set_parsing_settings(docstring_parse_attribute_docstrings=True)
_yaml_of_jsonargparse = get_loader("yaml")


def _bounded_yaml(text: str) -> Any:
    """The value of a flag or of --config, of a text that cannot fill the memory."""
    check_yaml(text)
    try:
        return _yaml_of_jsonargparse(text)
    except ValueError as error:  # a number of thousands of digits
        raise YAMLError(str(error)) from error


set_loader("yaml", _bounded_yaml, (YAMLError,))

Verb = Callable[..., Answer]
SECTIONS = tuple(field.name for field in fields(RunConfig))

# Settings that --help shows; --help_all shows all of them.
FIRST_SETTINGS = (
    *("data.dataset", "data.file", "model.kan.sites", "model.n_embd"),
    *("model.n_layer", "optim.learning_rate", "train.batch_size"),
    *("train.device", "train.init_from", "train.max_iters"),
)


class Help(DefaultHelpFormatter):
    """The text of each flag and, unless that is nothing, its default; settings are a preset's."""

    without_default = SECTIONS

    def _expand_help(self, action: argparse.Action) -> str:
        default = action.default
        if isinstance(default, list | tuple):
            default = " ".join(map(str, default))
        has_default = isinstance(default, int | float | str) and default is not False
        if default in ("", argparse.SUPPRESS) or section_of(action.dest) in self.without_default:
            has_default = False
        if not has_default:
            return action.help or ""
        return f"{action.help} (default: {default})"

    def _format_usage(self, usage: str | None, actions: Any, groups: Any, prefix: Any) -> str:
        """Arguments and flags that have to be given: the others are listed below."""
        needed = [a for a in actions if not a.option_strings or a.required]
        words = [" ".join([*a.option_strings, a.dest.upper()]) for a in needed]
        return f"usage: {' '.join([self._prog, *words])} [flags]\n\n"

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """Without jsonargparse's second form of flags for lists, --flag+."""
        return re.sub(r", --\S+\+ \S+", "", super()._format_action_invocation(action))


class HelpAll(Help):
    """The same with the defaults of settings, for where a preset says nothing."""

    without_default = ()


def parser_of(name: str, verb: Verb, with_all_settings: bool = False) -> ArgumentParser:
    """The parser of one verb.

    Args:
        with_all_settings: list every setting of a run in ``--help``, not only the first ones.
    """
    parser = ArgumentParser(
        prog=f"nanogpkant {name}",
        description=summary_of(verb),
        formatter_class=HelpAll if with_all_settings else Help,
        exit_on_error=False,
    )
    documented = parse_docstring(verb.__doc__ or "").params
    about = {p.arg_name: " ".join((p.description or "").split()).rstrip(".") for p in documented}
    for parameter in own_parameters(verb):
        _add(parser, parameter, about.get(parameter.name, ""))
    parser.add_argument("--config", action="config", help="YAML file with values for these flags")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if takes_settings(verb):
        parser.add_argument("--help_all", action="store_true", help="show every setting of a run")
        parser.add_class_arguments(RunConfig)
    for action in parser._actions:
        if action.dest == "print_config":
            action.help = "print these values as YAML for --config, and stop"
        is_first = with_all_settings or action.dest in FIRST_SETTINGS
        if takes_settings(verb) and section_of(action.dest) in SECTIONS and not is_first:
            action.help = argparse.SUPPRESS
    return parser


def _add(parser: ArgumentParser, parameter: inspect.Parameter, about: str) -> None:
    name, kind, default = flag_of(parameter), parameter.annotation, parameter.default
    if kind is bool:
        parser.add_argument(f"--{name}", action="store_true", help=about)
        return
    options: dict[str, Any] = {"type": kind, "help": about}
    inner = typing.get_args(kind)
    if type(None) in inner:  # of X | None, X
        kind = inner[0]
        inner = typing.get_args(kind)
    if typing.get_origin(kind) is list:
        options |= {"type": inner[0], "nargs": "+"}
    if typing.get_origin(kind) is typing.Literal:
        options["metavar"] = f"{{{','.join(inner)}}}"
    if default is not parameter.empty:
        parser.add_argument(f"--{name}", default=default, **options)
    elif parameter.kind is parameter.KEYWORD_ONLY:
        parser.add_argument(f"--{name}", required=True, **options)
    else:
        parser.add_argument(name, **options)


def flag_of(parameter: inspect.Parameter) -> str:
    """The name of a parameter's flag: from_ is --from."""
    return parameter.name.rstrip("_")


def section_of(key: str) -> str:
    """The part of a dotted key before the first dot."""
    return key.partition(".")[0]


def own_parameters(verb: Verb) -> list[inspect.Parameter]:
    """The parameters that are flags: not settings, ``stream``, and values of Python's, of Any."""
    parameters = inspect.signature(verb).parameters.values()
    others = [p for p in parameters if p.name != "stream" and p.annotation is not Any]
    return [p for p in others if p.kind is not p.VAR_KEYWORD]


def takes_settings(verb: Verb) -> bool:
    """Whether a verb takes the settings of a run, as dotted keywords."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(verb).parameters.values())


def summary_of(verb: Verb) -> str:
    """The first line of its docstring."""
    return (verb.__doc__ or "").strip().splitlines()[0]


def parse(parser: ArgumentParser, name: str, verb: Verb, arguments: list[str]) -> dict[str, Any]:
    """A verb's keyword arguments from a command line; settings are dotted keys.

    Raises:
        UsageError: an unknown flag, or a value of the wrong type.
    """
    known = [flag for action in parser._actions for flag in action.option_strings]
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            hint = nearest(flag, known, "--help lists those that exist")
            raise UsageError(f"unknown flag {flag}: {hint}")
    try:
        options = parser.parse_args(arguments).as_dict()
        given = parser.parse_args(arguments, defaults=False)
    except argparse.ArgumentError as error:
        raise UsageError(in_plain_words(str(error))) from error
    values = {each.name: options[flag_of(each)] for each in own_parameters(verb)}
    if takes_settings(verb):
        values |= {key: value for key, value in given.items() if section_of(key) in SECTIONS}
    return values


def settings_as_yaml(values: dict[str, Any]) -> str:
    """The settings of a run that a verb's arguments stand for, for ``--print_config``.

    Raises:
        UsageError: an unknown preset, or a setting that cannot work.
    """
    if "preset" not in values:
        raise UsageError("--print_config: this command has no preset to print")
    _, base = load_preset(values["preset"])
    settings = {key: value for key, value in values.items() if section_of(key) in SECTIONS}
    return to_yaml(with_settings(base, settings))


# jsonargparse's message for a value of the wrong type: key, expected types, value.
TYPE_ERRORS = (
    r'Parser key "(.+?)"(?: element \d+)?: Expected an? (.+)\. Got value: (.*)',
    r'Parser key "(.+?)"(?: element \d+)?: Does not validate .+? Subtypes: \[(.+?)\] .+ '
    r"Given value: (.*)",
)
# Its other messages, and ours.
OTHER_ERRORS = (
    (r"the following arguments are required: (.+)", r"missing: \1; --help shows the usage"),
    (
        r'Parser key "(.+?)": unsupported operand .*',
        r"--\1: must be keys and values, with a blank after each colon: {1000: 10}",
    ),
    (
        r"'str' object does not support item assignment",
        "--config: a flag that takes several values needs a list, [a, b]",
    ),
    (
        r"Option '(.+?)' is not accepted",
        r"--config: unknown flag --\1: --help lists those that exist",
    ),
    (r"argument (.+?): ignored explicit argument '(.*)'", r"\1 \2: takes no value"),
    (r"Group '(.+?)' does not accept option '(.+?)'", r"unknown key \1.\2"),
    (
        r'Parser key "(.+?)": Unable to load config [\'"]?(.+?)[\'"]?( - .*)?',
        r"--\1 \2: must be keys and values, or a YAML file of them",
    ),
    (r'Parser key "(.+?)"(?: element \d+)?: (.*)', r"--\1: \2"),
)


def in_plain_words(message: str) -> str:
    """A parser's error as one line; one about a type as the flag, the value and the rule."""
    message = " ".join(message.split())
    for pattern in TYPE_ERRORS:
        if found := re.fullmatch(pattern, message):
            key, expected, value = found.groups()
            expected = re.sub(r"<class '(.+?)'>", r"\1", expected).replace(", NoneType", " or null")
            expected = re.sub(r"typing\.Literal\[(.+)\]", r"one of \1", expected).replace("'", "")
            expected = re.sub(r"\b\w+\b", lambda word: IN_WORDS.get(word[0], word[0]), expected)
            return f"--{key} {value}: must be {expected}"
    for pattern, words in OTHER_ERRORS:
        if found := re.fullmatch(pattern, message):
            return found.expand(words)
    return message
