"""The report of a study: an offline page, Markdown, pictures, a table of all cells and the fit."""

import math
from collections.abc import Callable
from operator import attrgetter, methodcaller
from pathlib import Path
from typing import Any

from nanogpkant.base.files import write_atomic
from nanogpkant.comparison.scaling.cells import short
from nanogpkant.comparison.scaling.charts import law_charts, loss_charts, worth_charts
from nanogpkant.comparison.scaling.findings import Findings, save_fit
from nanogpkant.comparison.scaling.law import Fit
from nanogpkant.comparison.scaling.study import Study
from nanogpkant.report.charts import save_png
from nanogpkant.report.html import as_html, as_markdown
from nanogpkant.report.section import Cell, Column, Section
from nanogpkant.report.table import as_csv

MOST_TREND = 0.01  # of residuals, over the range of parameters or tokens
CELLS = [  # columns of the table of all cells, and their formats
    ("family", ""), ("parameters", ","), ("tokens", ","), ("seed", ""),
    ("loss", ".4f"), ("expected", ".4f"), ("flops", ".3g"), ("seconds", ",.0f"),
]  # fmt: skip
METHOD = [
    "A cell is a model of one family and size, trained on so many tokens: a trunk at a constant "
    "rate, from which a cooldown to zero branches off (Haegele et al., 2405.18392). Its loss is "
    "the mean over the validation text in nats per token, at the last step.",
    "L = E + A (kappa N)^-alpha + B (lambda D)^-beta, with all parameters N and training tokens D. "
    "E, A, B, alpha and beta are shared; kappa and lambda are a family's, 1 for the first. Huber "
    "loss of log L, L-BFGS from 27 starts; intervals are the middle 95% of 300 fits to resampled "
    "cells and seeds. Cells of one trunk share its weights, which that treats as independent.",
    "The largest cell of each family is in no fit. Its prediction's interval is the law's, widened "
    f"by the spread of the residuals. If residuals change by more than {MOST_TREND:.0%} over the "
    "range of N or D, the losses do not follow the law, and it says nothing beyond these cells.",
]


def write_report(folder: Path, found: Findings, study: Study, command: str) -> list[str]:
    """Write report.html, report.md, pictures, cells.csv and, where there is a fit, fit.json.

    Returns:
        what the study says, in sentences.

    Raises:
        UserError: a file cannot be written.
    """
    said = answer(found)
    sections = sections_of(found, study, command, said)
    for section in sections:
        if section.charts:
            save_png(folder / section.picture, section.charts, section.lines, section.dashed)
    rows = found.rows()
    write_atomic(folder / "cells.csv", as_csv(rows, rows[0]) if rows else "")
    if found.shared is not None:
        save_fit(found, study.name, folder / "fit.json")
    heading = study.name, study.about, sections
    write_atomic(folder / "report.md", as_markdown(*heading))
    write_atomic(folder / "report.html", as_html(*heading, colours=_numbers(found)))
    return said


def answer(found: Findings) -> list[str]:
    """What the study says, a sentence each."""
    said = []
    if found.shared is None:
        said.append(f"There is no fit: {found.why_no_fit}.")
    else:
        law, first = found.shared.law, found.families[0]
        said.append(
            f"L = {law.E:.3g} + {law.A:.3g} N^-{law.alpha:.3f} + {law.B:.3g} D^-{law.beta:.3f} "
            f"for {first}; the fit misses a cell's loss by {found.shared.error:.2%}."
        )
        for name in found.families[1:]:
            kappa = _ends(found.shared, lambda law, name=name: law.kappa[name])
            lam = _ends(found.shared, lambda law, name=name: law.lam[name])
            said.append(
                f"A parameter of {name} is worth {law.kappa[name]:.2f} ({kappa}) of {first}, "
                f"and a token {law.lam[name]:.2f} ({lam})."
            )
        if found.gridded is not None and found.gridded.law.gamma is not None:
            ends = _ends(found.gridded, lambda law: law.gamma)
            said.append(
                f"An edge with G grid intervals is worth (1 + G)^{found.gridded.law.gamma:.2f} "
                f"({ends}) times {found.gridded.law.kappa0:.2f} weights; were every coefficient "
                f"worth a weight, the power would be {found.gamma_of_weights:.2f}, and 0 if none."
            )
        inside = sum(each.is_inside for each in found.held_out)
        said.append(f"{inside} of {len(found.held_out)} held-out losses lie in their interval.")
        trends = [found.shared.trend(key) for key in ("parameters", "tokens")]
        bent = max(map(abs, trends)) > MOST_TREND
        words = f"above {MOST_TREND:.0%}, so the law does not hold" if bent else "no trend"
        said.append(
            f"Residuals change by {trends[0]:+.1%} over the range of parameters, {trends[1]:+.1%} "
            f"over that of tokens: {words}."
        )
    if found.left_out:
        names = "; ".join(f"{name}: {why}" for name, why in found.left_out.items())
        said.append(f"{len(found.left_out)} cells are left out. {names}.")
    return said


def sections_of(found: Findings, study: Study, command: str, said: list[str]) -> list[Section]:
    """The sections of the report."""
    lines = _numbers(found)
    sections = [Section("Answer", said)]
    if found.measured:
        words = ["Dots are cells, hollow ones held out; curves are the law, with 95% bands."]
        charts = loss_charts(found)
        sections.append(Section("Losses", words, charts=charts, picture="losses.png", lines=lines))
    if found.shared is not None:
        sections += [
            _worths(found, lines),
            _predictions(found),
            _budgets(found),
            Section("The law", charts=law_charts(found), picture="law.png", lines=lines),
            _freed(found),
        ]
    return [
        *sections,
        _cells(found),
        Section("Method", [*METHOD, command], texts={"the study": study.text}),
    ]


def _numbers(found: Findings) -> dict[str, int]:
    """Numbers of the families' colours."""
    return {name: number for number, name in enumerate(found.families)}


def _head(*names: str) -> list[Column]:
    return [Column(name) for name in names]


def _worths(found: Findings, lines: dict[str, int]) -> Section:
    assert found.shared is not None
    law, head = found.shared.law, _head("family", "kappa", "95%", "lambda", "95%")
    rows = [
        [
            Cell(name, name),
            Cell(f"{law.kappa[name]:.3f}", law.kappa[name]),
            Cell(_ends(found.shared, lambda each, name=name: each.kappa[name])),
            Cell(f"{law.lam[name]:.3f}", law.lam[name]),
            Cell(_ends(found.shared, lambda each, name=name: each.lam[name])),
        ]
        for name in found.families
    ]
    words = [
        f"kappa: how many parameters of {found.families[0]} one of the family is worth; lambda: "
        "how many tokens one token is worth."
    ]
    title, charts = "What a parameter and a token are worth", worth_charts(found)
    return Section(title, words, head, rows, charts, "worths.png", lines)


def _predictions(found: Findings) -> Section:
    rows = [
        [
            Cell(each.point.family, each.point.family),
            Cell(short(each.point.parameters), each.point.parameters),
            Cell(short(each.point.tokens), each.point.tokens),
            Cell(str(each.point.seed), each.point.seed),
            Cell(f"{each.expected:.4f}", each.expected),
            Cell(f"{each.low:.4f} to {each.high:.4f}", each.high - each.low),
            Cell(f"{each.point.loss:.4f}", each.point.loss),
            Cell("yes" if each.is_inside else "no", float(each.is_inside)),
        ]
        for each in found.held_out
    ]
    head = _head("family", "parameters", "tokens", "seed", "expected", "95%", "measured", "inside")
    words = ["The largest cell of each family, which no fit has seen."]
    return Section("Prediction of the held-out cells", words, head, rows)


def _budgets(found: Findings) -> Section:
    """The best model for budgets up to a hundred times the largest cell's."""
    assert found.shared is not None
    law, most = found.shared.law, max(each.cell.flops for each in found.measured)
    costs = {family: found.cost(family) for family in found.families}
    first, rows = found.families[0], []
    for flops in (most / 10, most, 10 * most, 100 * most):
        reference = float(law.lowest(first, flops, costs[first]))
        for family, cost in costs.items():
            best = law.best(family, flops, cost)
            loss = float(law.loss(family, *best))
            ends = _ends(found.shared, methodcaller("lowest", family, flops, cost), ".4f")
            needed = law.flops_for(family, reference, cost) / flops
            rows.append(
                [
                    Cell(family, family),
                    Cell(f"{flops:.2g}", flops),
                    Cell(short(best[0]), best[0]),
                    Cell(short(best[1]), best[1]),
                    Cell(f"{loss:.4f}", loss),
                    Cell(ends),
                    Cell("never" if math.isinf(needed) else f"{needed:.2f}", needed),
                ]
            )
    head = _head("family", "FLOPs", "parameters", "tokens", "expected loss", "95%", "FLOPs to tie")
    words = [
        "The size and tokens of the lowest loss for a budget; beyond the largest cell "
        f"({most:.2g} FLOPs) the law extrapolates. The last column is what a family needs to reach "
        f"the loss of {first}, in units of the budget."
    ]
    return Section("What a budget buys", words, head, rows)


def _freed(found: Findings) -> Section:
    rows = []
    for name, fit in {"all, shared": found.shared, **(found.freed or {})}.items():
        assert fit is not None
        numbers = attrgetter("E"), attrgetter("alpha"), attrgetter("beta")
        cells = [Cell(f"{of(fit.law):.3f} ({_ends(fit, of)})", of(fit.law)) for of in numbers]
        rows.append([Cell(name, name), *cells, Cell(f"{fit.error:.2%}", fit.error)])
    words = ["Separate fits: every family has its own E, alpha and beta."]
    head = _head("fit", "E", "alpha", "beta", "error")
    return Section("Freed exponents", words, head, rows)


def _cells(found: Findings) -> Section:
    rows = [
        [
            Cell(f"{row[key]:{form}}", row[key]) if row[key] is not None else Cell("-")
            for key, form in CELLS
        ]
        for row in found.rows()
    ]
    head = _head(*(key.replace("flops", "FLOPs") for key, _ in CELLS))
    return Section("All cells", [], head, rows, is_table_folded=True)


def _ends(fit: Fit, of: Callable[[Any], Any], form: str = ".3g") -> str:
    low, high = fit.interval(of)
    return f"{low:{form}} to {high:{form}}"
