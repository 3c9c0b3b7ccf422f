"""Texts that the project does not commit, where they are to be had."""

import os
from pathlib import Path

import pytest


def shared(name: str) -> Path:
    beside_the_repository = Path(__file__).resolve().parents[2].parent / "shared"
    file = Path(os.environ.get("NANOGPKANT_SHARED", beside_the_repository)) / "data" / name
    if not file.is_file():
        pytest.skip(f"{name} is not at {file}; set NANOGPKANT_SHARED")
    return file


@pytest.fixture(scope="session")
def canonical_file() -> Path:
    return shared("tinyshakespeare.txt")


@pytest.fixture(scope="session")
def canonical(canonical_file: Path) -> str:
    return canonical_file.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def enwik8_file() -> Path:
    return shared("enwik8.gz")
