"""The playground's modules: what each exports has one meaning, and their types hold."""

import re
import shutil
import subprocess

import pytest

from nanogpkant.playground.page import ENGINE, PROGRAM, WEB, script

TSC = shutil.which("tsc")


def exports(name: str) -> list[str]:
    text = (WEB / f"{name}.js").read_text(encoding="utf-8")
    return re.findall(r"^export (?:async )?(?:function|class|const) (\w+)", text, re.MULTILINE)


def test_every_module_is_in_the_page_and_imports_earlier_ones():
    order = [*ENGINE, *PROGRAM]
    assert sorted(order) == sorted(path.stem for path in WEB.glob("*.js"))
    for number, name in enumerate(order):
        text = (WEB / f"{name}.js").read_text(encoding="utf-8")
        for other in re.findall(r'^import [^;]*from "\./(\w+)\.js";', text, re.MULTILINE):
            assert other in order[:number], f"{name} imports {other}"
        assert not re.search(r"^export (?:default|\{|let)", text, re.MULTILINE)


def test_no_two_modules_export_a_name():
    names = [each for name in (*ENGINE, *PROGRAM) for each in exports(name)]
    assert sorted(names) == sorted(set(names))


def test_scripts_cannot_be_closed_by_their_own_text():
    assert "</script" not in script(ENGINE) + script(PROGRAM)


@pytest.mark.skipif(TSC is None, reason="needs tsc")
def test_types():
    flags = "--noEmit --allowJs --checkJs --strict --target es2022 --module es2022"
    flags += " --moduleResolution bundler --lib es2022,dom,dom.iterable"
    files = [WEB / "main.js", WEB / "session.js"]
    done = subprocess.run([TSC, *flags.split(), *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
