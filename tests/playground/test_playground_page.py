"""The playground in a browser: it writes, explains, is edited and searched, and asks no network."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import nanogpkant as ng
from nanogpkant.cli import main
from nanogpkant.evaluation import evaluate
from nanogpkant.generation import generate
from nanogpkant.run.load import load_model

playwright = pytest.importorskip("playwright.sync_api")

SHARED = ["--model.kan.share", "group:2", "--model.kan.basis", "fourier", "--model.kan.sites"]
SHARED += ['["mlp_out"]', "--model.position", "curve", "--model.curve.knots", "5"]
SHARED += ["--model.kan.spline_scale", "false", "--train.keep_every", "4"]


@pytest.fixture(scope="module")
def run(tiny_experiment, tmp_path_factory) -> Path:
    """A run with shared functions, curves of distance and three checkpoints."""
    out = tmp_path_factory.mktemp("runs") / "tiny_play"
    assert main(["train", str(tiny_experiment), "--out", str(out), *SHARED]) == 0
    return out


@pytest.fixture(scope="module")
def file(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("page") / "page.html"
    ng.play(str(run), out=str(out), weights="float32")
    return out


def settle(page) -> None:
    """Wait until nothing is written or measured any more."""
    page.wait_for_timeout(150)
    playwright.expect(page.locator("#go")).to_have_text("Write", timeout=60_000)
    page.wait_for_timeout(250)


def loss(page) -> float:
    return float(re.search(r"\d+\.\d{4}", page.inner_text("#losses"))[0])


def write(page, **fields: object) -> str:
    for name, value in fields.items():
        page.fill(f"#{name}", str(value))
        page.locator(f"#{name}").blur()
    settle(page)
    page.click("#go")
    settle(page)
    return page.inner_text("#text")


def test_the_page_writes_torchs_greedy_text(run, file, visit):
    """Far beyond the block, and at once the same from the same seed."""
    trained = load_model(run)
    ids = torch.as_tensor(trained.tokenizer.encode("I hear").astype("int64"))[None]
    drawn = generate(trained.model, ids, 200, temperature=0)
    wanted = "I hear" + trained.tokenizer.decode([int(token) for token in drawn])
    page = visit(file)
    text = write(page, prompt="I hear", temperature="0", length=200)
    assert text == wanted
    texts = [write(page, temperature="0.9", seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert "characters a second" in page.inner_text("#speed")


def test_a_browser_without_webassembly_is_told(file, browser, tmp_path):
    """As one where the policy allows none."""
    refusing = tmp_path / "page.html"
    text = file.read_text(encoding="utf-8").replace(" 'wasm-unsafe-eval'", "")
    refusing.write_text(text, encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    page.goto(refusing.as_uri())
    page.wait_for_selector("html[data-ready]", timeout=60_000)
    settle(page)
    assert "without WebAssembly" in page.inner_text("#speed")
    assert len(page.inner_text("#text")) > 50
    context.close()


def test_a_character_that_the_model_has_never_seen(file, visit):
    page = visit(file)
    page.fill("#prompt", "ß")
    page.click("#go")
    assert 'has never seen "ß"' in page.inner_text("#speed")


def test_studying_and_changing_a_character(file, visit):
    page = visit(file)
    page.locator("#text span").nth(30).click()
    assert page.inner_text("#position-shown").startswith("30 of")
    assert "After" in page.inner_text("#why") and "Head 1" in page.inner_text("#why")
    shares = page.eval_on_selector_all("#next u", "all => all.map(u => parseFloat(u.style.width))")
    assert 50 < sum(shares) <= 100.1
    page.focus("#position")
    page.keyboard.press("ArrowRight")
    playwright.expect(page.locator("#position-shown")).to_contain_text("31 of")
    settle(page)
    other = page.locator("#next .bar:not(.chosen)").first
    wanted = other.locator("b").inner_text()
    other.click()
    settle(page)
    found = page.locator("#text span").nth(31).inner_text()
    assert {" ": "␣", "\n": "⏎"}.get(found, found) == wanted
    branch = page.inner_text("#text")
    bend(page)
    assert page.locator("#text span").nth(31).inner_text() == found
    for _ in range(3):
        page.keyboard.press("Control+z")
    settle(page)
    assert page.inner_text("#text") == branch


def test_stopped_text_is_the_one_that_is_explained(file, visit):
    page = visit(file)
    page.locator("#text span").nth(30).click()
    before = page.inner_text("#why")
    write(page, seed=8, length=200)
    page.fill("#length", "4000")
    page.locator("#length").blur()
    playwright.expect(page.locator("#go")).to_have_text("Stop")
    page.fill("#seed", "9")
    page.locator("#seed").blur()
    page.locator("#text span").nth(30).wait_for()  # of the new text: it began empty
    page.click("#go")
    settle(page)
    found = page.locator("#text span").nth(30).inner_text()
    wanted = {" ": "␣", "\n": "⏎"}.get(found, found)
    playwright.expect(page.locator("#next .bar.chosen b")).to_have_text(wanted)
    assert page.inner_text("#why") != before


def bend(page) -> None:
    """Edit one function of each kind by keyboard and by button."""
    page.click("#tab-functions")
    page.get_by_role("button", name="Block 1, distance, head 0").click()
    page.focus(".handle >> nth=2")
    page.keyboard.press("PageUp")
    page.keyboard.press("PageUp")
    page.get_by_role("button", name="Block 0, MLP out, group 1").click()
    page.get_by_role("button", name="Mean", exact=True).click()
    settle(page)


def test_edits_are_undone_saved_linked_and_applied(run, file, visit, tmp_path):
    page = visit(file)
    before, text = loss(page), page.inner_text("#text")
    bend(page)
    edited = loss(page)
    assert edited != before and "by 2 edits" in page.inner_text("#losses")
    page.get_by_role("button", name="Compare with before").click()
    settle(page)
    assert (loss(page), page.inner_text("#text")) == (before, text)
    page.get_by_role("button", name="Compare with before").click()
    for _ in range(3):
        page.keyboard.press("Control+z")
    settle(page)
    assert (loss(page), page.inner_text("#text")) == (before, text)
    for _ in range(3):
        page.keyboard.press("Control+y")
    settle(page)
    assert loss(page) == edited
    with page.expect_download() as download:
        page.get_by_role("button", name="Save edits").click()
    saved = tmp_path / "edits.json"
    download.value.save_as(saved)
    ng.edit(str(run), edits=str(saved), out=str(tmp_path / "bent"))
    trained, read = load_model(tmp_path / "bent"), json.loads(data_of(file))["text"]
    found = evaluate(trained.model, np.array(read, dtype=np.uint16), 8).loss
    assert found == pytest.approx(edited, abs=2e-4)
    page.evaluate("navigator.clipboard.writeText = undefined")
    page.get_by_role("button", name="Copy link").click()
    playwright.expect(page.locator("#edit-said")).to_contain_text("address bar")
    linked = visit(file, page.evaluate("location.hash"))
    settle(linked)
    assert loss(linked) == edited
    page.get_by_role("button", name="Reset all").click()
    settle(page)
    assert loss(page) == before


def data_of(file: Path) -> str:
    """The data of a page, as JSON."""
    pattern = r'<script type="application/json" id="run">(.*?)</script>'
    return re.search(pattern, file.read_text(encoding="utf-8"), re.DOTALL)[1]


def test_dragging_a_point(file, visit):
    page = visit(file)
    page.click("#tab-functions")
    before = loss(page)
    place = page.locator(".handle").nth(3).bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y + 60, steps=4)
    page.mouse.up()
    settle(page)
    assert loss(page) != before and "by 1 edit" in page.inner_text("#losses")
    page.get_by_role("button", name="Compare with before").click()
    page.get_by_role("button", name="Undo").click()
    settle(page)
    assert loss(page) == before
    compare = page.get_by_role("button", name="Compare with before")
    assert compare.get_attribute("aria-pressed") == "false"
    assert page.locator("#editor .key.now").count() == 1
    page.mouse.move(x, y)  # a flick: over before a frame is drawn
    page.evaluate("requestAnimationFrame = () => 0")
    page.mouse.down()
    page.mouse.move(x, y + 60)
    page.mouse.up()
    playwright.expect(page.get_by_role("button", name="Undo")).to_be_enabled()


def test_a_point_below_the_picture_comes_back_at_once(file, visit):
    page = visit(file)
    page.click("#tab-functions")
    page.get_by_role("button", name="Block 1, distance, head 0").click()
    point = page.locator(".handle").nth(2)

    def height() -> float:
        """Above the lowest value of the picture."""
        now, least = (float(point.get_attribute(f"aria-value{each}")) for each in ("now", "min"))
        return now - least

    point.focus()
    for _ in range(60):
        page.keyboard.press("PageDown")
    assert height() < -1
    page.keyboard.press("ArrowUp")
    assert height() > 0


def test_arrow_keys_go_through_the_curves_of_others(file, visit):
    page = visit(file)
    page.click("#tab-functions")
    page.get_by_role("button", name="Block 1, distance, head 0").click()
    page.focus("#editor select")
    for taken in (1, 2):
        page.keyboard.press("ArrowDown")
        assert page.eval_on_selector("#editor select", "all => all.selectedIndex") == taken
    settle(page)
    assert "by 1 edit" in page.inner_text("#losses")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ('{"format": "x"}', "no file of edits"),
        ('{"format": "nanogpkant edits 1", "weights": "0", "edits": []}', "another model"),
    ],
)
def test_files_that_are_no_edits(file, visit, tmp_path, content, words):
    page = visit(file)
    page.click("#tab-functions")
    bad = tmp_path / "edits.json"
    bad.write_text(content, encoding="utf-8")
    page.set_input_files("input[type=file]", bad)
    playwright.expect(page.locator("#edit-said")).to_contain_text(words)


def test_finding_functions(file, visit):
    page = visit(file)
    page.click("#tab-functions")
    status = page.locator("#finder [role=status]")
    assert status.inner_text() == "8 functions"  # two heads and two groups in each of two blocks
    page.fill("#finder input[type=search]", "block 1 group")
    assert status.inner_text() == "2 functions"
    page.locator("#finder .card.pick").first.click()
    assert "Block 1, MLP out, group" in page.inner_text("#editor h3")
    page.fill("#finder input[type=search]", "")
    block, where, formulas = (page.locator("#finder select").nth(n) for n in range(3))
    block.select_option("0")
    where.select_option("distance")
    assert status.inner_text() == "2 functions"
    block.select_option("")
    where.select_option("")
    found = 0
    for family in formulas.locator("option").all_inner_texts()[1:]:
        formulas.select_option(family)
        found += int(status.inner_text().split()[0])
    assert found >= 8
    linked = visit(file, "#function=blocks.1.attention.bias/1")
    assert "Block 1, distance, head 1" in linked.inner_text("#editor h3")
    linked.evaluate("location.hash = '#function=blocks.0.mlp.out/0.1'")
    playwright.expect(linked.locator("#editor h3")).to_contain_text("Block 0, MLP out, group 1")
    linked.evaluate("location.hash = '#function=blocks.9.mlp.out/0.1'")
    playwright.expect(linked.locator("#problem")).to_contain_text("no function blocks.9")


def test_edges_by_name(run_with_curves, visit, tmp_path):
    out = tmp_path / "page.html"
    ng.play(str(run_with_curves), out=str(out))
    page = visit(out)
    page.click("#tab-functions")
    status, found = page.locator("#finder [role=status]"), []
    for words in ("3->7", "block 0 3 → 7", "3 → 7", "300 → 7"):
        page.fill("#finder input[type=search]", words)
        found.append(status.inner_text().split()[0])
    assert found[0] == found[2] > found[1] > "0"
    assert found[3] == "No"
    page.fill("#finder input[type=search]", "3 → 7")
    page.locator("#finder .card.pick").first.click()
    before = loss(page)
    page.get_by_role("button", name="Zero", exact=True).click()
    settle(page)
    assert "from input 3 to output 7" in page.inner_text("#editor")
    assert page.locator("#editor .formula math").count() > 0  # found in the page
    assert loss(page) != before or "by 1 edit" in page.inner_text("#losses")


@pytest.mark.parametrize(
    "flags",
    [
        ["--model.position", "slopes"],
        ["--model.position", "curve", "--model.curve.beyond", "linear", "--model.curve.knots", "4"],
    ],
)
def test_slopes_and_curves_that_go_on_are_bent_and_applied(tiny_experiment, visit, tmp_path, flags):
    run, out = tmp_path / "run", tmp_path / "page.html"
    more = ["--model.kan.sites", "[]", "--train.max_iters", "4", "--out", str(run)]
    assert main(["train", str(tiny_experiment), *flags, *more]) == 0
    ng.play(str(run), out=str(out), weights="float32")
    page = visit(out, "#function=blocks.1.attention.bias/0")
    before = loss(page)
    page.focus(".handle >> nth=-1")
    for _ in range(20):
        page.keyboard.press("PageUp")
    settle(page)
    edited = loss(page)
    assert edited != before
    with page.expect_download() as download:
        page.get_by_role("button", name="Save edits").click()
    saved = tmp_path / "edits.json"
    download.value.save_as(saved)
    ng.edit(str(run), edits=str(saved), out=str(tmp_path / "bent"))
    read = np.array(json.loads(data_of(out))["text"], dtype=np.uint16)
    bent = evaluate(load_model(tmp_path / "bent").model, read, 8).loss
    assert bent == pytest.approx(edited, abs=2e-4)
    page.get_by_role("button", name="Reset all").click()
    settle(page)
    assert loss(page) == before


def test_watching_it_learn(file, visit):
    page = visit(file)
    page.click("#tab-learning")
    curve = page.locator("#learning .small-cards path.curve").first
    last = curve.get_attribute("d")
    page.focus("#step")
    page.keyboard.press("Home")
    assert page.inner_text("output[for=step]") == "step 4"
    assert curve.get_attribute("d") != last


def test_the_tour_has_five_steps_by_keyboard(file, visit):
    page = visit(file)
    page.click("#tour-start")
    for step in range(1, 6):
        assert f"{step} of 5" in page.inner_text("#tour")
        assert page.locator(".lit").count() == 1
        page.keyboard.press("Enter")
    assert page.locator("#tour").is_hidden() and page.locator(".lit").count() == 0


def test_tabs_by_keyboard(file, visit):
    page = visit(file)
    page.focus("#tab-why")
    page.keyboard.press("ArrowRight")
    assert page.locator("#functions").is_visible() and page.locator("#why").is_hidden()


def test_a_plain_model_says_what_is_missing(tiny_experiment, visit, tmp_path):
    run, out = tmp_path / "plain", tmp_path / "page.html"
    flags = ["--model.kan.sites", "[]", "--train.max_iters", "1", "--out", str(run)]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    ng.play(str(run), out=str(out))
    page = visit(out)
    assert "no learned functions" in page.inner_text("#facts")
    page.click("#tab-functions")
    assert "plain GPT" in page.inner_text("#functions")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1920, "dark"), (360, "light")])
def test_axe_finds_nothing_serious_and_nothing_overflows(file, visit, grave, width, scheme):
    page = visit(file, width=width, scheme=scheme)
    bend(page)
    for tab in ("why", "functions", "learning"):
        page.click(f"#tab-{tab}")
        assert grave(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_policy_forbids_the_network(file, browser):
    """Not even code in the page may ask for anything."""
    context = browser.new_context()
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: asked.remove(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready]")
    answer = page.evaluate("fetch('https://example.com/').then(() => 'came', () => 'refused')")
    page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://example.com/i'}))")
    page.wait_for_timeout(200)
    context.close()
    assert answer == "refused"
    assert not [url for url in asked if not url.startswith(("file:", "blob:"))]
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=\"?(?:https?:)?//", text)


def test_strings_of_a_run_are_only_text(run, visit, tmp_path):
    """A name and characters that would be HTML."""
    evil = tmp_path / "<img src=x onerror=alert(1)>&amp;"
    shutil.copytree(run, evil)
    out = tmp_path / "page.html"
    ng.play(str(evil), out=str(out))
    page = visit(out)
    assert page.inner_text("h1") == evil.name
    assert page.locator("img").count() == 0
