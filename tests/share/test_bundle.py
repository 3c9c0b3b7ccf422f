"""Modules put into one file: a package made for the purpose, with what can go wrong in it."""

import subprocess
import sys
from pathlib import Path

import pytest

from nanogpkant.share import bundle as module
from nanogpkant.share.bundle import bundle

FILES = {
    "low": '''\
"""The lowest."""

import math
from math import pi as half_turn

# Why it is so.
SIDES = 4


def area(r: float) -> float:
    return half_turn * math.floor(r) ** 2


def unused() -> None:
    import nowhere
''',
    "sub.middle": '''\
"""In the middle."""

from functools import cache

from nanogpkant.low import SIDES, area as surface


class Shape:
    """With methods."""

    def size(self) -> float:
        return surface(2.5) + helper()

    def heavy(self) -> None:
        unused_by_others()


@cache
def helper() -> int:
    return SIDES


def unused_by_others() -> None:
    raise SystemError


def looked_up() -> None:
    """By name."""
''',
    "top": '''\
"""The top."""

from nanogpkant.sub.middle import Shape

SIDES = 6


def answer() -> float:
    return Shape().size()
''',
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes modules of a package, by name, into a folder that bundle reads from."""
    monkeypatch.setattr(module, "ROOT", tmp_path)

    def write(**changed: str) -> None:
        for name, text in (FILES | changed).items():
            path = tmp_path.joinpath("nanogpkant", *name.split(".")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    return write


def run(code: str) -> str:
    command = [sys.executable, "-I", "-c", f"{code}\nprint(answer())"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_what_is_reached_comes_along_and_nothing_else(package):
    package(top=FILES["top"].replace("SIDES = 6", ""))
    also = ["nanogpkant.sub.middle.looked_up"]
    code = bundle("nanogpkant.top", also=also, without={"Shape": {"heavy"}})
    assert float(run(code)) == pytest.approx(3.141592653589793 * 4 + 4)
    assert "# Why it is so.\nSIDES = 4" in code
    assert "surface = area" in code
    assert "@cache\ndef helper" in code
    assert "def looked_up" in code
    assert "unused" not in code
    assert "heavy" not in code
    assert "nanogpkant.low import" not in code
    assert code.index("nanogpkant/low") < code.index("nanogpkant/sub/middle") < code.index("/top")


def test_a_definition_of_the_first_module_in_place_of_anothers(package):
    package()
    code = bundle("nanogpkant.top", overridden={"nanogpkant.low": {"SIDES"}})
    assert float(run(code)) == pytest.approx(3.141592653589793 * 4 + 6)
    assert "SIDES = 4" not in code


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "SIDES of nanogpkant"),
        ({"top": "from nanogpkant.low import nothing\n\nx = nothing\n"}, "low defines no nothing"),
    ],
)
def test_what_cannot_be_one_file_is_refused(package, changed: dict[str, str], words: str):
    package(**changed)
    with pytest.raises(ValueError, match=words):
        bundle("nanogpkant.top")
