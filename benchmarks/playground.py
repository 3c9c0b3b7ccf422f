"""A page of ``nanogpkant play`` in headless Chromium: how fast it is, and what it looks like.

python -m benchmarks.playground page.html --out results

writes playground_why.png, playground_edit.png and playground_phone.png there, and prints medians of
``REPEATS`` as JSON: milliseconds to the first paint and until the model has written its first text;
characters a second; milliseconds from the click of an edit to the first new text and to the loss.
"""

import argparse
import json
import shutil
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

REPEATS = 5
COLOURS = 96  # of a picture
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

EDIT = """() => new Promise((done) => {
  const losses = document.getElementById('losses'), text = document.getElementById('text');
  const begun = performance.now(), found = {}, before = losses.textContent;
  const look = () => {
    const passed = performance.now() - begun;
    if (!found.text && text.querySelector('span:not(.given)')) found.text = passed;
    if (losses.textContent !== before) found.loss = passed;
    if (found.loss && found.text) done(found);
    else setTimeout(look, 1);
  };
  [...document.querySelectorAll('.editor button')].find((b) => b.textContent === 'Mean').click();
  setTimeout(look, 1);
})"""


def opened(browser: Browser, file: Path, width: int = 1280, scheme: Any = "light") -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, device_scale_factor=1
    )
    page = context.new_page()
    page.goto(file.resolve().as_uri())
    page.wait_for_selector("html[data-ready]", timeout=60_000)
    return page


def settle(page: Page) -> None:
    page.wait_for_timeout(200)
    page.locator("#go", has_text="Write").wait_for(timeout=60_000)
    page.wait_for_timeout(300)


def measure(browser: Browser, file: Path) -> dict[str, float]:
    """Medians over fresh pages."""
    rows = []
    for _ in range(REPEATS):
        page = opened(browser, file)
        painted = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        row = {"first_paint_ms": page.evaluate(painted)}
        page.click("#go")
        settle(page)
        speed = page.inner_text("#speed").split()[0].replace(",", "")
        row["characters_per_second"] = float(speed)
        page.click("#tab-functions")
        row |= {f"edit_to_{k}_ms": v for k, v in page.evaluate(EDIT).items()}
        rows.append(row)
        page.context.close()
    return {key: round(median(row[key] for row in rows), 1) for key in rows[0]}


def picture(page: Page, file: Path) -> None:
    """The window as a small PNG, without the speed of this machine."""
    page.evaluate("document.getElementById('speed').textContent = ''")
    page.screenshot(path=file)
    Image.open(file).convert("RGB").quantize(COLOURS).save(file, optimize=True)


def pictures(browser: Browser, file: Path, out: Path) -> None:
    page = opened(browser, file)
    picture(page, out / "playground_why.png")
    page = opened(browser, file, scheme="dark")
    page.click("#tab-functions")
    page.get_by_role("button", name="Block 2, MLP out, group 0").click()
    place = page.locator(".handle").nth(4).bounding_box()
    assert place is not None
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 90, steps=4)
    page.mouse.up()
    settle(page)
    picture(page, out / "playground_edit.png")
    page = opened(browser, file, width=400)
    picture(page, out / "playground_phone.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, help="folder for pictures; none without it")
    arguments = parser.parse_args()
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        if arguments.out:
            pictures(browser, arguments.page, arguments.out)
        print(json.dumps(measure(browser, arguments.page)))
        browser.close()


if __name__ == "__main__":
    main()
