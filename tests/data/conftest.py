"""The canonical tinyshakespeare text, which the project does not commit, where it is to be had."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def canonical_file() -> Path:
    beside_the_repository = Path(__file__).resolve().parents[2].parent / "shared"
    shared = Path(os.environ.get("NANOGPKANT_SHARED", beside_the_repository))
    file = shared / "data/tinyshakespeare.txt"
    if not file.is_file():
        pytest.skip(f"the canonical tinyshakespeare text is not at {file}; set NANOGPKANT_SHARED")
    return file


@pytest.fixture(scope="session")
def canonical(canonical_file: Path) -> str:
    return canonical_file.read_text(encoding="utf-8")
