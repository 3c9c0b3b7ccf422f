"""Every declared dependency has its licence in ``THIRD_PARTY_LICENSES``."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_dependency_is_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    licences = (ROOT / "THIRD_PARTY_LICENSES").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w-]+", licences))
    extras = project["optional-dependencies"]
    for needed in [*project["dependencies"], *(one for extra in extras.values() for one in extra)]:
        assert re.match(r"[\w-]+", needed)[0] in named, needed
    missing = {extra for extra in extras if f'Extra "{extra}"' not in licences}
    assert missing == {"all"}  # of the others
