"""Several modules of this project as one file that needs none of them.

A folder for transformers brings its own modelling code, as single files. A second model written for
it would drift from the first, so the file is made of the project's own definitions, word for word:
each name that the first module imports from the project is replaced by its definition, and so on
with all that the definition uses. Only what is reached comes along, module by module, the lowest
first and each under its name.

This relies on how the project is written, and refuses anything else: names are imported at the top
of a file by ``from nanogpkant.x import name``, and no two modules that meet define one name.
"""

import ast
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

PACKAGE = "nanogpkant"
ROOT = Path(__file__).resolve().parents[2]  # what holds the package


class Module:
    """A module of the project, by the names at its top."""

    def __init__(self, name: str) -> None:
        self.name = name
        path = ROOT.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        self.lines = path.read_text(encoding="utf-8").splitlines()
        tree = ast.parse("\n".join(self.lines))
        self.about = (ast.get_docstring(tree) or "").partition("\n")[0]
        self.body = [node for node in tree.body if _docstring(node) is None]
        self.definitions = {name: node for node in self.body for name in _defined(node)}
        self.imported: dict[str, tuple[str, str]] = {}  # local name: module and name there
        self.external: dict[str, tuple[str, str | None]] = {}  # the same of other packages
        for node in self.body:
            for local, source in _imports(node):
                ours = source[0].partition(".")[0] == PACKAGE
                (self.imported if ours else self.external)[local] = source

    def source(self, node: ast.stmt, without: Collection[str] = ()) -> str:
        """A definition as it is written, with the comment above it, and without some methods."""
        lines = {number: self.lines[number - 1] for number in _span(node)}
        for method in getattr(node, "body", []):
            if getattr(method, "name", None) in without:
                for number in _span(method):
                    del lines[number]
                lines.pop(max(_span(method)) + 1, None)  # the blank line behind it
        above = min(lines) - 1
        while above and self.lines[above - 1].startswith("#"):
            lines[above] = self.lines[above - 1]
            above -= 1
        return "\n".join(lines[number] for number in sorted(lines)).rstrip()


def bundle(
    start: str,
    without: Mapping[str, Collection[str]] | None = None,
    instead: Mapping[str, Collection[str]] | None = None,
    also: Collection[tuple[str, str]] = (),
) -> str:
    """One module and all that it needs of the project, as the text of one file.

    Args:
        start: the module's full name.
        without: {class: methods that the file goes without}.
        instead: {module: names that ``start`` defines in place of that module}.
        also: (module, name) of definitions that are looked up by name when the code runs.

    Raises:
        ValueError: code that the file cannot be made of.
    """
    without, instead = without or {}, instead or {}
    load = cache(Module)
    needed: dict[str, set[str]] = {}  # module: names, the lowest module first
    aliases: dict[str, dict[str, str]] = {}
    external: dict[str, tuple[str, str | None]] = {}
    owner: dict[str, str] = {}  # of each name in the file

    def claim(name: str, by: str) -> None:
        if owner.setdefault(name, by) != by:
            raise ValueError(f"{name} of {by} and of {owner[name]} cannot be in one file")

    def need(module: Module, name: str) -> str:
        """Take a name with all it uses; returns what it is called where it is defined."""
        if name in instead.get(module.name, ()):
            return need(load(start), name)
        if name in module.imported:
            source, original = module.imported[name]
            return need(load(source), original)
        if name not in module.definitions:
            raise ValueError(f"{module.name} defines no {name}")
        if name not in needed.setdefault(module.name, set()):
            claim(name, module.name)
            needed[module.name].add(name)
            follow(module, module.definitions[name])
        return name

    def follow(module: Module, node: ast.stmt) -> None:
        for used in sorted(_names(node, without)):
            if used in module.external:
                claim(used, repr(module.external[used]))
                external[used] = module.external[used]
            elif used in module.imported:
                if (original := need(module, used)) != used:
                    claim(used, original)
                    aliases.setdefault(module.name, {})[used] = original
            elif used in module.definitions:
                need(module, used)

    first = load(start)
    for module, name in also:
        need(load(module), name)
    for name in first.definitions:
        need(first, name)
    parts = [_import_lines(external)]
    for name in _lowest_first([*(module for module, _ in also), start], load):
        if name in needed:
            module = load(name)
            path = name.replace(".", "/")
            parts.append(f"# {path}: {module.about}")
            parts += [f"{new} = {old}" for new, old in sorted(aliases.get(name, {}).items())]
            nodes = {id(n): n for key, n in module.definitions.items() if key in needed[name]}
            parts += [
                module.source(n, without.get(getattr(n, "name", ""), ())) for n in nodes.values()
            ]
    return "\n\n\n".join(parts) + "\n"


def _docstring(node: ast.stmt) -> str | None:
    value = node.value if isinstance(node, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


def _defined(node: ast.stmt) -> list[str]:
    """The names that a statement at the top of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.If):  # of TYPE_CHECKING
        return [name for each in node.body for name in _defined(each)]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _imports(node: ast.stmt) -> Iterator[tuple[str, tuple[str, str | None]]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.asname is None and "." in alias.name:
                raise ValueError(f"import {alias.name} needs an own name: import ... as")
            yield alias.asname or alias.name, (alias.name, None)
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name, (node.module or "", alias.name)


def _names(node: ast.stmt, without: Mapping[str, Collection[str]]) -> set[str]:
    """All names that a statement mentions, but for those in methods that are left out."""
    gone = without.get(getattr(node, "name", ""), ())
    skipped = {id(m) for m in getattr(node, "body", []) if getattr(m, "name", None) in gone}
    names, rest = set(), [node]
    while rest:
        each = rest.pop()
        if isinstance(each, ast.Name):
            names.add(each.id)
        rest += [child for child in ast.iter_child_nodes(each) if id(child) not in skipped]
    return names


def _span(node: ast.stmt) -> range:
    """The numbers of its lines, decorators included."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return range(first, node.end_lineno + 1)


def _lowest_first(starts: list[str], load: Callable[[str], Module]) -> list[str]:
    """The names of some modules and of all that they are built on, the lowest first."""
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        if name not in order:
            for source, _ in load(name).imported.values():
                visit(source)
            order[name] = None

    for start in starts:
        visit(start)
    return list(order)


def _import_lines(external: Mapping[str, tuple[str, str | None]]) -> str:
    whole, parts = [], {}
    for local, (module, name) in external.items():
        what = name or module
        renamed = what if what == local else f"{what} as {local}"
        if name is None:
            whole.append(f"import {renamed}")
        else:
            parts.setdefault(module, []).append(renamed)
    return "\n".join(
        [*sorted(whole), *(f"from {m} import {', '.join(sorted(parts[m]))}" for m in sorted(parts))]
    )
