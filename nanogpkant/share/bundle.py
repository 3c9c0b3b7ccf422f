"""Put a module and everything that it imports from this package into one file.

A model folder for transformers brings its code along, so that it loads without nanogpkant. The code
is made from the package itself, because a second model would drift from the first: every name that
a module imports from the package is replaced by its definition, and so on. Definitions that are not
reached are left out.

Limits: imports from the package are ``from nanogpkant.x import name`` at the top of a module, and
all names that meet in the file are different.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "nanogpkant"
ROOT = Path(__file__).resolve().parents[2]  # the folder of the package


class _Module:
    """A module of the package, by the names at its top."""

    def __init__(self, name: str) -> None:
        path = ROOT.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        self.lines = path.read_text(encoding="utf-8").splitlines()
        tree = ast.parse("\n".join(self.lines))
        self.name, self.summary = name, (ast.get_docstring(tree) or "").partition("\n")[0]
        self.definitions: dict[str, ast.stmt] = {}
        self.inside: dict[str, tuple[str, str]] = {}  # name here: module of the package, name there
        self.outside: dict[str, str] = {}  # name here: import statement
        for node in tree.body:
            if not isinstance(node, ast.Import | ast.ImportFrom):
                self.definitions |= dict.fromkeys(_defined(node), node)
                continue
            source = getattr(node, "module", None) or ""
            for alias in node.names:
                name = alias.asname or alias.name
                if source.partition(".")[0] == PACKAGE:
                    self.inside[name] = (source, alias.name)
                else:
                    start = f"from {source} " if source else ""
                    self.outside[name.partition(".")[0]] = f"{start}import {ast.unparse(alias)}"

    def source(self, node: ast.stmt) -> str:
        """A definition as it is written, with its decorators and the comment above it."""
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        while self.lines[first - 2].startswith("#"):
            first -= 1
        return "\n".join(self.lines[first - 1 : node.end_lineno])


class _Bundle:
    """The definitions that a module needs, found by following names."""

    def __init__(self, start: str, overridden: dict[str, set[str]]) -> None:
        self.modules: dict[str, _Module] = {}  # by name, lowest first
        self.needed: dict[str, set[str]] = {}  # module: names that the file takes from it
        self.renamed: dict[str, dict[str, str]] = {}  # module: {name there: name in the file}
        self.imports: set[str] = set()
        self.meaning: dict[str, str] = {}  # of every name in the file
        self.overridden = overridden
        self.start = self.load(start)
        for name in self.start.definitions:
            self.need(self.start, name)

    def load(self, name: str) -> _Module:
        if name not in self.modules:
            module = _Module(name)
            for source, _ in module.inside.values():
                self.load(source)
            self.modules[name] = module
        return self.modules[name]

    def need(self, module: _Module, name: str) -> None:
        """Take what a name in a module means, and everything that its definition uses."""
        if name in self.overridden.get(module.name, ()):
            module = self.start
        if name in module.outside:
            self.claim(name, module.outside[name])
            self.imports.add(module.outside[name])
        elif name in module.inside:
            source, original = module.inside[name]
            self.need(self.load(source), original)
            if name != original:
                self.claim(name, f"{original} of {source}")
                self.renamed.setdefault(module.name, {})[name] = original
        elif name not in module.definitions:
            raise ValueError(f"{module.name} defines no {name}")
        elif name not in self.needed.setdefault(module.name, set()):
            self.claim(name, f"{name} of {module.name}")
            self.needed[module.name].add(name)
            known = {**module.definitions, **module.inside, **module.outside}
            for used in ast.walk(module.definitions[name]):
                if isinstance(used, ast.Name) and used.id in known:
                    self.need(module, used.id)

    def claim(self, name: str, meaning: str) -> None:
        if (other := self.meaning.setdefault(name, meaning)) != meaning:
            raise ValueError(f"{meaning} and {other} cannot be in one file")

    def parts(self) -> Iterator[str]:
        yield "\n".join(sorted(self.imports))
        for name, module in self.modules.items():
            if name in self.needed:
                yield f"# {name.replace('.', '/')}: {module.summary}"
                renamed = self.renamed.get(name, {})
                yield from (f"{new} = {old}" for new, old in sorted(renamed.items()))
                taken = [n for key, n in module.definitions.items() if key in self.needed[name]]
                yield from (module.source(node) for node in dict.fromkeys(taken))


def bundle(start: str, overridden: dict[str, set[str]] | None = None) -> str:
    """A module and everything that it needs of the package, as the text of one file.

    Args:
        start: the module's full name.
        overridden: {module: names}: definitions to replace by those of ``start``.

    Raises:
        ValueError: a name without a definition, or one name with two.
    """
    return "\n\n\n".join(_Bundle(start, overridden or {}).parts()) + "\n"


def _defined(node: ast.stmt) -> list[str]:
    """The names that a statement at the top of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]
