"""The pages of compare and interpret in a browser: found, explained, safe, at every width."""

import re
import shutil
from pathlib import Path

import pytest

from nanogpkant.cli import main

KINDS = ("compare", "interpret")
EVIL = "<img src=x onerror=alert(1)>&amp;"


@pytest.fixture(scope="module")
def files(tiny_run, run_with_curves, few_ablations, tmp_path_factory) -> dict[str, Path]:
    """A page of each command, of runs one of which has a name of ill will."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(run_with_curves, folder / EVIL)
    runs = [str(folder / EVIL), str(tiny_run)]
    assert main(["compare", *runs, "--out", str(folder / "report")]) == 0
    flags = ["--budget", "64", "--device", "cpu", "--top", "4", "--out", str(folder / "inside")]
    flags += ["--layers", "blocks.0.attention", "blocks.1.attention", "blocks.1.mlp.out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanogpkant.interpretation.show.page.TABLE_ROWS", 30)  # axe reads every cell
        assert main(["interpret", runs[0], *flags]) == 0
    return {
        "compare": folder / "report" / "report.html",
        "interpret": folder / "inside" / "index.html",
    }


@pytest.fixture
def open_page(files, visit):
    return lambda kind, **more: visit(files[kind], ready="main section", **more)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light")])
def test_axe_finds_nothing_serious_and_nothing_overflows(open_page, grave, kind, width, scheme):
    page = open_page(kind, width=width, scheme=scheme)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert grave(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    tables = page.eval_on_selector_all(
        ".wide", "all => all.map(e => e.scrollWidth > e.clientWidth)"
    )
    assert any(tables) or width > 400  # each scrolls in itself


@pytest.mark.parametrize("kind", KINDS)
def test_every_section_is_in_the_contents(open_page, kind):
    page = open_page(kind)
    titles = page.eval_on_selector_all("section h2", "all => all.map(e => e.textContent)")
    assert page.eval_on_selector_all("#contents a", "all => all.map(e => e.textContent)") == titles
    for link in page.locator("#contents a").all():
        assert page.locator(f"[id='{link.get_attribute('href')[1:]}']").count() == 1
    page.locator("#contents a").last.click()
    assert page.locator("section").last.is_visible()


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_explained_without_a_mouse(open_page, kind):
    page = open_page(kind)
    button = page.locator("th button[aria-describedby]").first
    words = page.locator(f"[id='{button.get_attribute('aria-describedby')}']").text_content()
    assert len(words) > 10
    button.focus()
    assert page.locator("#tip").is_visible() and page.text_content("#tip") == words
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    page.evaluate("document.dispatchEvent(new Event('scroll'))")  # as focus may cause
    assert page.locator("#tip").is_hidden()
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort]").count() == 1


def test_cards_are_searched_filtered_and_linked(open_page, files, visit):
    page = open_page("interpret")
    cards = page.locator(".card:visible")
    before = cards.count()
    assert page.locator(".card math").count() >= before
    page.fill("#find input", "blocks.1 attention")
    assert page.locator("section[data-searched]:visible").count() == 1
    assert 0 < page.locator(".card:visible").count() < before
    assert page.inner_text("#found") == "4 found"
    page.select_option("#find select[name=layer]", "blocks.0.attention.bias")
    assert "Nothing is like that" in page.inner_text("#found")
    page.fill("#find input", "")
    page.select_option("#find select[name=layer]", "blocks.1.mlp.out")
    card = page.locator(".card:visible").last
    name = re.search(r"(\d+) → (\d+)", card.inner_text())
    card.locator("a").click()
    page.wait_for_selector("html[data-ready]", timeout=60_000)
    assert f"Block 1, MLP out, {name[0]}" in page.inner_text("#editor h3")


def test_rows_of_a_comparison_are_searched(open_page):
    page = open_page("compare")
    rows = page.locator("#size-quality-and-cost tbody tr:visible")
    assert rows.count() == 2
    page.fill("#find input", "onerror")
    assert rows.count() == 1


def test_a_model_has_one_colour(open_page):
    page = open_page("compare")
    named = "(e => [e.parentElement.textContent.trim(), e.style.background])"
    colours = page.eval_on_selector_all(".swatch", f"all => all.map{named}")
    assert len(colours) > 6 and len({*map(tuple, colours)}) == 2


def test_names_are_only_text(open_page):
    page = open_page("compare")
    assert EVIL in page.inner_text("main")
    assert page.locator("img[src=x]").count() == 0
    assert EVIL in open_page("interpret").inner_text("h1")


@pytest.mark.parametrize("kind", KINDS)
def test_the_policy_forbids_scripts_and_the_network(files, browser, kind):
    context = browser.new_context()
    page = context.new_page()
    page.goto(files[kind].as_uri())
    refused = "fetch('https://example.com/').then(() => 'came', () => 'refused')"
    assert page.evaluate(refused) == "refused"
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<b onclick=\\'window.x=1\\'>b</b>')"
    )
    page.evaluate("document.body.lastElementChild.click()")
    assert page.evaluate("window.x") is None
    context.close()
