"""Put a module and everything that it imports from this package into one file.

A model folder for transformers brings its code along, so that it loads without nanogpkant. The code
is made from the package itself, because a second model would drift from the first: every name that
a module imports from the package is replaced by its definition, and so on. Definitions that are not
reached are left out.

Limits: imports from the package are ``from nanogpkant.x import name`` at the top of a module, and
all names that meet in the file are different.
"""

import ast
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

PACKAGE = "nanogpkant"
ROOT = Path(__file__).resolve().parents[2]  # the folder of the package
Names = dict[str, set[str]]  # of a module or class: names in it


class _Module:
    """A module of the package.

    ``names`` gives each name at its top as a definition, as (module, name there) of the package, or
    as the text of another import.
    """

    def __init__(self, name: str, without: Names) -> None:
        path = ROOT.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        self.lines = path.read_text(encoding="utf-8").splitlines()
        self.left_out: set[int] = set()  # numbers of lines
        tree = ast.parse("\n".join(self.lines))
        self.name, self.summary = name, (ast.get_docstring(tree) or "").partition("\n")[0]
        self.names: dict[str, ast.stmt | tuple[str, str] | str] = {}
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                source = getattr(node, "module", None) or ""
                for alias in node.names:
                    here = alias.asname or alias.name.partition(".")[0]
                    text = f"{f'from {source} ' if source else ''}import {ast.unparse(alias)}"
                    is_ours = source.partition(".")[0] == PACKAGE
                    self.names[here] = (source, alias.name) if is_ours else text
                continue
            self.names |= dict.fromkeys(_defined(node), node)
            if isinstance(node, ast.ClassDef):
                self._leave_out(node, without.get(node.name, set()))

    def _leave_out(self, node: ast.ClassDef, methods: set[str]) -> None:
        for method in [m for m in node.body if getattr(m, "name", "") in methods]:
            node.body.remove(method)
            last = (method.end_lineno or 0) + 1  # a blank line
            self.left_out |= set(range(_first_line(method), last + 1))

    def source(self, node: ast.stmt) -> str:
        """A definition as it is written, with its decorators and the comment above it."""
        first, last = _first_line(node), node.end_lineno or 0
        while self.lines[first - 2].startswith("#"):
            first -= 1
        kept = [i for i in range(first, last + 1) if i not in self.left_out]
        return "\n".join(self.lines[i - 1] for i in kept).rstrip()


def _first_line(node: ast.stmt) -> int:
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.If):  # of TYPE_CHECKING
        return [name for each in node.body for name in _defined(each)]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


class _Bundle:
    """The definitions that a module needs, found by following names."""

    def __init__(self, start: str, also: list[str], overridden: Names, without: Names) -> None:
        self.modules: dict[str, _Module] = {}  # by name, lowest first
        self.taken: dict[str, set[tuple[int, str]]] = defaultdict(set)  # module: (line, text)
        self.meaning: dict[str, str] = {}  # of every name in the file
        self.overridden, self.without = overridden, without
        more = [(self.load(module), name) for module, _, name in (a.rpartition(".") for a in also)]
        self.start = self.load(start)
        own = [name for name, m in self.start.names.items() if isinstance(m, ast.stmt)]
        for module, name in [*more, *((self.start, name) for name in own)]:
            self.need(module, name)

    def load(self, name: str) -> _Module:
        if name not in self.modules:
            module = _Module(name, self.without)
            for meaning in module.names.values():
                if isinstance(meaning, tuple):
                    self.load(meaning[0])
            self.modules[name] = module
        return self.modules[name]

    def need(self, module: _Module, name: str) -> None:
        """Take the meaning of a name in a module, and everything that its definition uses."""
        if name in self.overridden.get(module.name, ()):
            module = self.start
        match module.names.get(name):
            case str(statement):
                if self.is_new(name, statement):
                    self.taken[""].add((0, statement))
            case (source, original):
                self.need(self.load(source), original)
                if name != original:
                    self.is_new(name, f"{original} of {source}")
                    self.taken[module.name].add((0, f"{name} = {original}"))
            case ast.stmt() as node:
                if self.is_new(name, f"{name} of {module.name}"):
                    self.taken[module.name].add((node.lineno, module.source(node)))
                    for used in ast.walk(node):
                        if isinstance(used, ast.Name) and used.id in module.names:
                            self.need(module, used.id)
            case None:
                raise ValueError(f"{module.name} defines no {name}")

    def is_new(self, name: str, meaning: str) -> bool:
        is_new = name not in self.meaning
        if (other := self.meaning.setdefault(name, meaning)) != meaning:
            raise ValueError(f"{meaning} and {other} cannot be in one file")
        return is_new


def bundle(
    start: str,
    *,
    also: Collection[str] = (),
    overridden: Names | None = None,
    without: Names | None = None,
) -> str:
    """A module and everything that it needs of the package, as the text of one file.

    Args:
        start: the module's full name.
        also: full names of definitions that the code looks up by name when it runs.
        overridden: {module: names}: definitions to replace by those of ``start``.
        without: {class: methods to leave out}.

    Raises:
        ValueError: a name without a definition, or one name with two.
    """
    found = _Bundle(start, list(also), overridden or {}, without or {})
    parts = ["\n".join(text for _, text in sorted(found.taken[""]))]
    for name, module in found.modules.items():
        if name in found.taken:
            parts.append(f"# {name.replace('.', '/')}: {module.summary}")
            parts += [text for _, text in sorted(found.taken[name])]
    return "\n\n\n".join(parts) + "\n"
