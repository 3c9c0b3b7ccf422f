"""Settings as YAML, checked key by key; presets by name."""

import dataclasses
import math
import reprlib
import types
import typing
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import yaml

from nanogpkant.base.errors import IN_WORDS, UsageError, nearest, one_line, prefixed
from nanogpkant.base.files import read_text, write_atomic
from nanogpkant.config.model import FORMER_KEYS, FORMER_VALUES, RETIRED_KEYS
from nanogpkant.config.settings import RunConfig

LARGEST = 1 << 20  # bytes of a configuration
MOST_VALUES = 10**5  # of it
PRESETS = Path(__file__).parent / "presets"
ALL = "--help_all lists those that exist"
STUDIES = {"variants": "a file for nanogpkant experiment", "families": "one for nanogpkant scale"}


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_preset(name_or_path: str) -> tuple[str, RunConfig]:
    """The name and configuration of a preset, or of a YAML file.

    Raises:
        UsageError: no such preset or file, an unknown key or an invalid value.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UsageError(f"{path} does not exist; nanogpkant presets lists the built-in ones")
        return path.stem, load_config(path)
    names = preset_names()
    if name_or_path not in names:
        hint = nearest(name_or_path, names)
        raise UsageError(f"unknown preset {name_or_path} (a file ends in .yaml): {hint}")
    return name_or_path, load_config(PRESETS / f"{name_or_path}.yaml")


def field_names(config_class: Any, prefix: str = "") -> list[str]:
    """Every key of a configuration, dotted: ``model``, ``model.kan``, ``model.kan.grid_size``."""
    names = []
    for f in dataclasses.fields(config_class):
        names.append(prefix + f.name)
        if dataclasses.is_dataclass(f.type):
            names += field_names(f.type, f"{prefix}{f.name}.")
    return names


def to_yaml(config: RunConfig) -> str:
    """The configuration as YAML, from which ``load_config`` reads an equal one."""
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)


def save_config(config: RunConfig, path: Path) -> None:
    write_atomic(path, to_yaml(config))


def load_config(path: Path) -> RunConfig:
    """Read a configuration from a YAML file; missing fields take their defaults.

    Raises:
        UserError: the file cannot be read.
        UsageError: it is not YAML, or has an unknown key or an invalid value.
    """
    values = read_yaml(path)
    with prefixed(str(path)):
        return config_from({} if values is None else values)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        UserError: the file cannot be read.
        UsageError: it is not YAML.
    """
    text = read_text(path, LARGEST)
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise UsageError(f"{path} is not a YAML file: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
        raise UsageError(f"{path} is not a YAML file: {one_line(error)}") from error


def check_yaml(text: str) -> None:
    """Refuse a text beyond the bounds of ``read_yaml``, before another library reads it.

    Raises:
        yaml.YAMLError: it is, or is not YAML.
    """
    if len(text) > LARGEST:
        raise yaml.YAMLError(f"has more than {LARGEST:,} bytes")
    try:
        yaml.compose(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None


class _Loader(yaml.SafeLoader):
    """Plain values: no key twice, and no few lines of aliases that stand for gigabytes."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _written_out(node, {}) > MOST_VALUES:
            problem = f"with its aliases (*) it has more than {MOST_VALUES:,} values"
            raise yaml.MarkedYAMLError(None, None, problem, node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            raise yaml.MarkedYAMLError(None, None, "a key is there twice", node.start_mark)
        return node


def _written_out(node: Any, sizes: dict[int, float]) -> float:
    """Values of a node where each alias is written out; infinite if it is within itself."""
    if id(node) not in sizes:
        sizes[id(node)] = math.inf
        parts = node.value if isinstance(node.value, list) else []
        flat = [each for part in parts for each in (part if isinstance(part, tuple) else (part,))]
        sizes[id(node)] = 1 + sum(_written_out(each, sizes) for each in flat)
    return sizes[id(node)]


def settings_that_differ(config: Any, other: Any, prefix: str = "") -> dict[str, Any]:
    """The settings of one configuration that another has differently, by dotted key."""
    found = {}
    for field in dataclasses.fields(config):
        mine, theirs = getattr(config, field.name), getattr(other, field.name)
        if dataclasses.is_dataclass(mine):
            found |= settings_that_differ(mine, theirs, f"{prefix}{field.name}.")
        elif mine != theirs:
            found[f"{prefix}{field.name}"] = mine
    return found


def with_settings(base: RunConfig, settings: dict[str, Any]) -> RunConfig:
    """Lay settings over a configuration.

    Args:
        settings: values by dotted key, ``{"train.max_iters": 10}``, or nested, as YAML has them.

    Raises:
        UsageError: an unknown key, or a value that cannot work.
    """
    values, known = asdict(base), field_names(RunConfig)
    for key, value in _flat(settings):
        key = FORMER_KEYS.get(key, key)
        if key not in known:
            raise UsageError(f"unknown key {key}: {nearest(key, known, ALL)}")
        *above, last = key.split(".")
        section = values
        for name in above:
            section = section[name]
        section[last] = value
    return config_from(values)


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of settings in which sections may be nested."""
    sections = {name.rpartition(".")[0] for name in field_names(RunConfig)}
    for key, value in settings.items():
        if isinstance(value, dict) and f"{prefix}{key}" in sections:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def config_from(values: Any) -> RunConfig:
    """Build a configuration from nested keys and values, as YAML gives them.

    Raises:
        UsageError: an unknown key or an invalid value.
    """
    return _build(RunConfig, values, "")


def _build(config_class: Any, values: Any, prefix: str) -> Any:
    if not isinstance(values, dict):
        where = prefix.rstrip(".") or "the file"
        raise UsageError(f"{where} must hold keys and values, not {reprlib.repr(values)}")
    fields = {f.name: f for f in dataclasses.fields(config_class)}
    arguments = {}
    for key, value in values.items():
        key = FORMER_KEYS.get(f"{prefix}{key}", f"{prefix}{key}").removeprefix(prefix)
        if value == RETIRED_KEYS.get(f"{prefix}{key}", dataclasses.MISSING):
            continue
        if key not in fields:
            hint = nearest(f"{prefix}{key}", field_names(RunConfig), ALL)
            hint = STUDIES.get(key, hint)
            raise UsageError(f"unknown key {prefix}{key}: {hint}")
        expected = fields[key].type
        if dataclasses.is_dataclass(expected):
            arguments[key] = _build(expected, value, f"{prefix}{key}.")
        else:
            arguments[key] = _checked(expected, value, prefix + key)
    return config_class(**arguments)


def _checked(expected: Any, value: Any, key: str) -> Any:
    """``value`` as the declared type of a field; an int is accepted for a float."""
    origin, inner = typing.get_origin(expected), typing.get_args(expected)
    if origin is types.UnionType:  # X | None
        return None if value is None else _checked(inner[0], value, key)
    if isinstance(value, str):
        value = FORMER_VALUES.get((key, value), value)
    if origin is Literal and value in inner:
        return value
    if origin in (list, tuple) and isinstance(value, list | tuple):
        if origin is list:
            return [_checked(inner[0], item, key) for item in value]
        if len(value) == len(inner):
            return tuple(map(_checked, inner, value, [key] * len(inner)))
    if origin is dict and isinstance(value, dict):
        pairs = ((_checked(inner[0], k, key), _checked(inner[1], v, key)) for k, v in value.items())
        return dict(pairs)
    if expected is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # PyYAML reads 1e-3 as text
        except (ValueError, OverflowError):
            pass
    if isinstance(expected, type) and type(value) is expected:
        return value
    kind = (origin or expected).__name__
    wanted = IN_WORDS.get(kind, kind)
    if origin is Literal:
        wanted = f"one of {', '.join(map(str, inner))}"
    raise UsageError(f"--{key} {reprlib.repr(value)}: must be {wanted}")
