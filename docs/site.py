"""Lays the pages of the site in one folder, README first, with a reference made from the package.

    make docs      # then open runs/site/index.html

Pages keep their places beside each other, so that their links hold on the site as they do in the
repository. The playground of the model that comes with the project is built anew, in seconds.
"""

import contextlib
import io
import shutil
from pathlib import Path

import nanogpkant
from nanogpkant.cli import VERBS, main

SHIPPED = "pretrained:shakespeare-mini-kan"
INVITATION = "[**Play now**: the model that comes with the project, in this browser](play.html)"

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "runs" / "site_pages"
COPIED = ("docs", "results", "dev", "generated_texts", "examples", "experiments")
FILES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "THIRD_PARTY_LICENSES")


def help_of(verb: str) -> str:
    """What ``nanogpkant VERB --help`` prints; of train, every setting."""
    printed = io.StringIO()
    flag = "--help_all" if verb == "train" else "--help"
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([verb, flag])
    return printed.getvalue()


def commands_page() -> str:
    parts = [f"## {verb}\n\n```text\n{help_of(verb)}```\n" for verb in VERBS]
    return "# Every command and setting\n\n" + "\n".join(parts)


def python_page() -> str:
    """Every public name, described by its docstring."""
    members = [getattr(nanogpkant, name) for name in nanogpkant.__all__]
    parts = [f"::: {each.__module__}.{each.__name__}\n" for each in members if callable(each)]
    return "# In Python\n\n" + "\n".join(parts)


def lay() -> None:
    """Write all pages anew."""
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    shutil.copy(ROOT / "README.md", PAGES / "index.md")
    for name in COPIED:
        shutil.copytree(ROOT / name, PAGES / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, PAGES / name)
    nanogpkant.play(SHIPPED, out=str(PAGES / "docs" / "play.html"))
    about = PAGES / "docs" / "playground.md"
    title, _, rest = about.read_text(encoding="utf-8").partition("\n")
    about.write_text(f"{title}\n\n{INVITATION}\n{rest}", encoding="utf-8")
    (PAGES / "reference").mkdir()
    (PAGES / "reference" / "commands.md").write_text(commands_page(), encoding="utf-8")
    (PAGES / "reference" / "python.md").write_text(python_page(), encoding="utf-8")


if __name__ == "__main__":
    lay()
