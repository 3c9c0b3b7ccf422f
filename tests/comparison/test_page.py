"""The report as people see it: in Markdown, in pictures, and in a real browser, offline."""

import html
import json
import re
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import chromium
import pytest
from matplotlib.figure import Figure

from nanogpkant.base.escape import markdown
from nanogpkant.cli import main
from nanogpkant.comparison import charts
from nanogpkant.comparison.charts import loss_charts
from nanogpkant.comparison.findings import find
from nanogpkant.comparison.runs import AXES
from nanogpkant.report.charts import name_rows, save_png, to_svg

in_a_browser = pytest.mark.skipif(chromium.PROGRAM is None, reason="needs Chromium")


@pytest.fixture
def report(make_run, tmp_path) -> Path:
    """The report on two variants of two seeds, one of them with a name and a sample of ill will."""
    original = {"data.dataset": "tinyshakespeare_char"}
    for seed in (1, 2):
        make_run(f"kan/seed-{seed}", [4, 3 + seed / 10, 2.5], seed=seed, **original)
        plain = {"model.kan.sites": [], "model.n_layer": 5}
        name = "<b>gpt & | co</b>".replace("/", "_")
        folder = make_run(
            f"{name}/seed-{seed}", [4, 2 + seed / 5, 2], seed=seed, **original | plain
        )
        (folder / "samples.txt").write_text("</pre><script>alert(1)</script> ü", encoding="utf-8")
    (tmp_path / "wandb.csv").write_text('"Step","mine - val/loss"\n"4","3"\n"8","2.2"\n', "utf-8")
    runs = [str(path) for path in sorted(tmp_path.glob("*/seed-*"))]
    flags = ["--out", str(tmp_path / "report"), "--reference", "original"]
    assert main(["compare", *runs, *flags, "--csv", str(tmp_path / "wandb.csv")]) == 0
    return tmp_path / "report"


def test_all_files_are_there_and_small(report):
    assert {p.name for p in report.iterdir()} == {
        "report.html",
        "report.md",
        "report.json",
        "curves.png",
        "grids.png",
    }
    assert (report / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (report / "report.html").stat().st_size < 1_000_000


def test_runs_without_a_curve_are_drawn_seed_by_seed(loaded):
    ends = {"$x^$": {1: 2.0, 2: 2.25}, "bad": {1: 2.5, 3: 2.75}}
    runs = {
        name: [loaded(f"{name}-{seed}", [4, loss], seed=seed) for seed, loss in losses.items()]
        for name, losses in ends.items()
    }
    drawn = {}
    for words, draw in loss_charts(find(runs), []).items():
        axes = Figure().subplots()
        draw(axes)
        drawn[words] = [list(line.get_xdata()) for line in axes.lines]  # dots, then the mean
        assert [label.get_text() for label in axes.get_yticklabels()] == [r"\$x^\$", "bad"]
    losses, differences = drawn.values()
    assert losses == [[2.0, 2.25], [2.125], [2.5, 2.75], [2.625]]
    assert differences == [[0.0, 0.0], [0.0], [0.5], [0.5]]  # a seed that both have

    runs["bad"].append(loaded("bad-4", [4, 3, 2.5], seed=4))
    assert list(loss_charts(find(runs), [])) == list(AXES.values())


def test_a_name_that_is_no_formula_is_drawn_as_it_is(tmp_path):
    save_png(
        tmp_path / "a.png", {"a": partial(name_rows, names=["$x^$"])}, {"$x^$": 0}, {"$y_$": (1,)}
    )
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_seeds_without_a_second_in_common_are_not_drawn(loaded):
    runs = [loaded("x-1", [4, 3]), loaded("x-2", [4, 3], seed=2)]
    late = runs[1].curve
    runs[1] = replace(runs[1], metrics=runs[1].metrics[1:])  # as after --resume with other tokens
    assert late.seconds[0] == 0 and runs[1].curve.seconds[0] == 2
    runs[0] = replace(runs[0], metrics=runs[0].metrics[:1])
    for draw in loss_charts(find({"x": runs}), []).values():
        draw(Figure().subplots())


def test_a_legend_names_every_run(loaded, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(charts, "save_figure", lambda figure, out: drawn.append(figure))
    charts.plot_curves([loaded("_a", [4, 3]), loaded("b", [4, 2], seed=2)], tmp_path / "e.png")
    legend = drawn[0].axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["_a", "b"]


@pytest.mark.parametrize("count", [2, 16, 40])
def test_names_of_rows_do_not_touch(count):
    figure = Figure(figsize=(5, 3.3), layout="constrained")
    axes = figure.subplots()
    name_rows(axes, [f"variant-{i}" for i in range(count)])
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(above.y0 >= below.y1 for above, below in pairwise(boxes))


def test_the_page_holds_every_figure_of_the_markdown(report):
    text = (report / "report.md").read_text(encoding="utf-8")
    page = html.unescape(re.sub(r"<[^>]+>", " ", (report / "report.html").read_text("utf-8")))
    found = json.loads((report / "report.json").read_text(encoding="utf-8"))
    for words in found["answer"] + found["notes"]:
        assert markdown(words) in text
        assert words in page
    figures = re.findall(r"\d+\.\d{4}", text)
    assert len(figures) > 20
    assert all(figure in page for figure in figures)
    assert "kabachuha" in page
    assert "exported from W&B" in page


def test_tables_of_the_markdown_have_the_columns_of_their_heads(report):
    lines = (report / "report.md").read_text(encoding="utf-8").splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) > 10
    columns = 0
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)
            columns = columns if before.startswith("|") else len(cells)
            assert len(cells) == columns


def test_nothing_of_the_page_comes_from_anywhere_else(report):
    page = (report / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](?!#)""", page)
    assert "url(http" not in page
    assert "<script>alert" not in page


def test_a_chart_names_itself_and_takes_the_pages_colours():
    svg = to_svg('iterations & "more"', lambda axes: axes.plot([1, 2], [3, 4], gid="x-v0-line"))
    assert svg.startswith("<svg viewBox=")
    assert "currentColor" in svg
    assert "var(--line)" in svg
    assert 'aria-label="iterations &amp; &quot;more&quot;"' in svg
    assert 'id="x-v0-line"' in svg
    assert svg == to_svg('iterations & "more"', lambda a: a.plot([1, 2], [3, 4], gid="x-v0-line"))


@in_a_browser
def test_the_page_works_in_a_browser_without_a_network(report, tmp_path):
    file = report / "report.html"
    with chromium.Page(tmp_path / "profile") as page:
        papers = set()
        for width in (400, 1400):
            for dark in (False, True):
                page.open(file, width, dark)
                assert page.complaints() == []
                assert page.requests() == [file.as_uri()]
                # Nothing sticks out: only tables scroll, each in its own frame.
                assert page.value("document.documentElement.scrollWidth") <= width
                shown = page.value(
                    "[...document.querySelectorAll('.charts svg')].map(s => s.clientWidth)"
                )
                assert len(shown) >= 4
                assert all(300 < each < width for each in shown)
                papers.add(page.value("getComputedStyle(document.body).backgroundColor"))
        assert len(papers) == 2  # light and dark

        names_in_order = "[...document.querySelector('tbody').rows].map(r => r.cells[0].innerText)"
        heading = "document.querySelectorAll('th button')[{}].click()"
        by_loss = page.value(names_in_order)
        page.value(heading.format(4))
        assert page.value(names_in_order) == by_loss
        page.value(heading.format(4))
        assert page.value(names_in_order) == by_loss[::-1]
        page.value(heading.format(0))
        assert page.value(names_in_order) == sorted(by_loss)

        line = "document.getElementById('steps-v0-line').style.display"
        assert page.value(line) == ""
        page.value("document.querySelector('[data-variant]').click()")
        assert page.value(line) == "none"
        assert page.complaints() == []
