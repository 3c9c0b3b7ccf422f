"""The pages of the site: every page of the navigation is laid, and the reference is complete."""

import importlib.util
import re
from pathlib import Path

import nanogpkant
from nanogpkant.cli import VERBS

ROOT = Path(__file__).resolve().parents[1]


def test_pages_of_the_navigation(monkeypatch, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site.py")
    site = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(site)
    monkeypatch.setattr(site, "PAGES", tmp_path / "pages")
    monkeypatch.setenv("COLUMNS", "100")
    site.lay()
    named = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert len(named) > 15
    assert all((site.PAGES / page).is_file() for page in named)
    commands = (site.PAGES / "reference" / "commands.md").read_text("utf-8")
    assert all(f"## {verb}\n\n```text\nusage: nanogpkant {verb}" in commands for verb in VERBS)
    python = (site.PAGES / "reference" / "python.md").read_text("utf-8")
    assert python.count(":::") >= len(nanogpkant.__all__) - 3
    assert "nanogpkant.kan.layer.KANLinear" in python
