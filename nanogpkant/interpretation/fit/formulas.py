"""Formulas for all edges of a layer at once.

For every edge the best candidate of each family comes from a dictionary (``search``), the promising
ones are polished (``polish``), and edges without a good fit get a second term, as in matching
pursuit. The result is the simplest formula about as good as the best one.

On the range of an input several families often fit about as well: a formula describes an edge and
is not a law behind it. The runner-up is kept with it.

Source: matching pursuit is Mallat & Zhang (1993). Fitting a*f(b*x + c) + d to an edge from a
library of functions is pykan's idea (Liu et al., arXiv 2404.19756).

E edges, n inputs, m outputs, G points. The index of an edge is input * m + output.
"""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nanogpkant.base.errors import UserError
from nanogpkant.interpretation.fit.families import (
    COMPLEXITIES,
    COMPLEXITY,
    FAMILIES,
    OPTIONS,
    POLYNOMIALS,
    TERMS,
    TWO,
)
from nanogpkant.interpretation.fit.fits import Fits, Formulas
from nanogpkant.interpretation.fit.polish import damped, polish, solve, terms
from nanogpkant.interpretation.fit.search import Dictionary, ScaledCurves, scaled

GOOD = 0.002  # 1 - R² below which the simpler formula is taken
ACCEPTED = 0.01  # 1 - R² above which an edge stays a spline
AT_ONCE = 1 << 17  # edges worked on at a time, 1 KB each


@torch.no_grad()
def fit(
    points: Tensor,
    weights: Tensor,
    curves: Tensor,
    families: Sequence[str] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Fits:
    """Find a formula for every edge.

    Args:
        points: (G, n), ascending; a formula holds between an input's first and last point.
        weights: (G, n), of the squared errors.
        curves: (G, m, n), values of the edges.
        families: names to try (see ``families``); None is all. A family alone has no free line;
            "line" among the names adds it. Constants and lines are always candidates.
        progress: called with the inputs done.

    Raises:
        UserError: curves, points or weights that are not finite, or fewer than 8 points.
        UsageError: an unknown family.
    """
    dictionary = Dictionary(families)
    for what, values in (("points", points), ("weights", weights), ("curves", curves)):
        if not values.isfinite().all():
            raise UserError(f"the {what} of some edges are not finite: use another checkpoint")
    if len(points) < 8:
        raise UserError(f"{len(points)} points are too few to fit formulas to: take 8 or more")
    m, n = curves.shape[1:]
    parts = []
    for some in torch.arange(n).split(max(1, AT_ONCE // m)):
        x, y = points[:, some], curves[:, :, some]
        fitter = _Fitter(scaled(x, weights[:, some], y), dictionary)
        fitter.run()
        parts.append(fitter.fits(x, y))
        progress(int(some[-1]) + 1)
    fields = {f.name: [getattr(part, f.name) for part in parts] for f in dataclasses.fields(Fits)}
    return Fits(**{name: torch.cat(of, dim=int(of[0].dim() > 1)) for name, of in fields.items()})


class _Fitter:
    """The edges of some inputs, and the error of each option for each edge.

    ``errors`` (E, OPTIONS) are 1 - R², infinite where an option is not tried; ``shapes`` belong to
    the options with one term, ``pair`` and ``pair_shapes`` to the last, with two.
    """

    def __init__(self, curves: ScaledCurves, dictionary: Dictionary) -> None:
        self.curves, self.dictionary = curves, dictionary
        n, m, _ = curves.y.shape
        self.polished = torch.zeros(n * m, len(OPTIONS), dtype=torch.bool)
        self.pair = torch.zeros(n * m, 2, dtype=torch.long)
        self.pair_shapes = curves.y.new_zeros(n * m, 2, 2)

    def run(self) -> None:
        """Try all options, polish the promising ones, and add a second term where needed."""
        self.errors, self.shapes = (a.flatten(0, 1) for a in self.dictionary.best(self.curves))
        degree = self.dictionary.degree
        self.polynomials, self.errors[:, : degree + 1] = _polynomials(self.curves, degree)
        flat = self.curves.flat.flatten()
        self.errors[flat] = torch.inf
        self.errors[flat, 0] = 0.0
        self.errors.clamp_(min=0)
        plain = slice(TERMS, TERMS + len(FAMILIES))
        hard = (self.choice() >= TERMS).nonzero().flatten()
        if len(hard) and self.errors[hard, plain].isfinite().any():
            for pick in self.errors[hard, plain].topk(2, dim=1, largest=False).indices.unbind(1):
                self.polish(hard, pick + TERMS)
        everything = torch.arange(len(self.errors))
        self.polish(everything, self.choice())
        left = (self.errors.amin(1) > GOOD).nonzero().flatten()
        self.polish(left, self.errors[left].argmin(1))
        left = left[self.errors[left].amin(1) > GOOD]
        if len(left) and self.dictionary.has_line and len(self.dictionary.options):
            self.add_second(left)
        self.polish(everything, self.choice())

    def choice(self) -> Tensor:
        """(E,) the simplest option about as good as the best one."""
        cost = COMPLEXITY + self.errors
        cost[:, TWO] += COMPLEXITIES
        return simplest(self.errors, cost)

    def polish(self, edges: Tensor, option: Tensor) -> None:
        """Polish one option of each edge, where it has a single term not polished before."""
        is_due = (option >= TERMS) & (option < TWO) & ~self.polished[edges, option]
        is_due &= self.errors[edges, option].isfinite()
        edges, option = edges[is_due], option[is_due]
        if not len(edges):
            return
        family, line = _family(option)
        start = self.shapes[edges, option][:, None]
        errors, shapes = polish(self.curves, edges, family[:, None], line, start)
        self.polished[edges, option] = True
        better = errors < self.errors[edges, option]
        edges, option = edges[better], option[better]
        self.errors[edges, option] = errors[better].clamp(min=0)
        self.shapes[edges, option] = shapes[better][:, 0]

    def add_second(self, edges: Tensor) -> None:
        """Fit two terms to some edges: their best single term, another one, and a line."""
        curves, m = self.curves, self.curves.y.shape[1]
        option = self.errors[:, TERMS:TWO][edges].argmin(1) + TERMS
        first, _ = _family(option)
        shape = self.shapes[edges, option]
        second, second_shape = torch.empty_like(first), torch.empty_like(shape)
        for part in torch.arange(len(edges)).split(AT_ONCE // 8):
            inputs = edges[part] // m
            root, u = curves.root[inputs], curves.u[inputs]
            free = torch.stack([root, curves.slant[inputs]], dim=2)
            value, _ = terms(first[part, None], shape[part, None], u, root)
            rows = torch.cat([value, curves.y.flatten(0, 1)[edges[part]][:, None]], dim=1)
            term, rest = (rows - (rows @ free) @ free.transpose(1, 2)).unbind(1)
            term = term / term.norm(dim=1, keepdim=True).clamp(min=1e-12)
            rest = rest - (rest * term).sum(1, keepdim=True) * term
            found = self.dictionary.second(curves, inputs, rest, term)
            second[part], second_shape[part] = found
        pair, shapes = torch.stack([first, second], 1), torch.stack([shape, second_shape], 1)
        line = torch.ones_like(first, dtype=torch.bool)
        self.errors[edges, TWO], self.pair_shapes[edges] = polish(curves, edges, pair, line, shapes)
        self.errors.clamp_(min=0)
        self.pair[edges] = pair

    def fits(self, points: Tensor, values: Tensor) -> Fits:
        """The chosen formulas, and their errors at the points (G, n) with values (G, m, n)."""
        curves, option = self.curves, self.choice()
        n, m, G = curves.y.shape

        def by_output(rows: Tensor, dtype: torch.dtype | None = None) -> Tensor:
            """(E, ...) -> (m, n, ...)."""
            return rows.to(dtype or rows.dtype).unflatten(0, (n, m)).transpose(0, 1).contiguous()

        families, amplitudes, shapes, coefficients = self._chosen(option)
        formulas = Formulas(
            middle=curves.middle,
            half=curves.half,
            coefficients=by_output(coefficients),
            families=by_output(families + 1, torch.uint8),
            amplitudes=by_output(amplitudes),
            shapes=by_output(shapes),
        )
        away = formulas.evaluate(points) - values  # (G, m, n)
        std, flat = curves.std.T, curves.flat.T
        error = torch.einsum("gmn,ng->mn", (away / std).square_(), curves.root.square())
        error = torch.where(flat, 0.0, error)
        complexities = COMPLEXITY.repeat(n * m, 1)  # (E, OPTIONS)
        complexities[:, TWO] = COMPLEXITY[self.pair + TERMS].sum(1)
        complexity = complexities[torch.arange(n * m), option]
        runner_up, margin = self._runner_up(option, complexity)
        levels = [
            torch.where(complexities == level, self.errors, torch.inf).min(1)
            for level in range(1, COMPLEXITIES + 1)
        ]
        k = by_output(complexity).float()
        aicc = G * error.clamp(min=1e-12).log() + 2 * k + 2 * k * (k + 1) / (G - k - 1).clamp(min=1)
        return Fits(
            **vars(formulas),
            option=by_output(option, torch.uint8),
            r2=1 - error,
            max_error=torch.where(flat, 0.0, away.abs().amax(0) / std),
            complexity=by_output(complexity, torch.uint8),
            aicc=aicc,
            accepted=error <= ACCEPTED,
            runner_up=by_output(runner_up, torch.uint8),
            margin=by_output(margin),
            front=by_output(torch.stack([each.values for each in levels], 1), torch.half),
            front_options=by_output(torch.stack([each.indices for each in levels], 1), torch.uint8),
        )

    def _chosen(self, option: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of an option (E,): families (E, 2), -1 for none, amplitudes, shapes, coefficients."""
        every, two = torch.arange(len(option)), option == TWO
        family, line = _family(option)
        families = torch.stack([family, torch.full_like(family, -1)], dim=1)
        families[option < TERMS] = -1
        own = self.shapes[every, option]
        shapes = torch.stack([own, torch.zeros_like(own)], dim=1)
        families[two], shapes[two] = self.pair[two], self.pair_shapes[two]
        amplitudes, coefficients = _amplitudes(self.curves, families, shapes, line | two)
        powers = self.polynomials.flatten(0, 1)[every, option.clamp(max=TERMS - 1)]  # (E, 6)
        coefficients = torch.where((option < TERMS)[:, None], powers, coefficients)
        std = self.curves.std.flatten()[:, None]
        coefficients = coefficients * std
        coefficients[:, 0] += self.curves.mean.flatten()
        return families, amplitudes * std, shapes, coefficients

    def _runner_up(self, option: Tensor, complexity: Tensor) -> tuple[Tensor, Tensor]:
        every = torch.arange(len(option))
        others = self.errors.clone()
        others[complexity[:, None] < COMPLEXITY] = torch.inf
        others[:, TWO] = torch.inf
        others[every, option] = torch.inf
        error, runner_up = others.min(1)
        runner_up = torch.where(error.isfinite(), runner_up, option)
        return runner_up, error - self.errors[every, option]


def simplest(errors: Tensor, cost: Tensor) -> Tensor:
    """(E,) the candidate of least cost about as good as the best; 1 - R² and cost are (E, C)."""
    best = errors.amin(1, keepdim=True)
    enough = (2 * best).clamp(min=GOOD).minimum(best.clamp(min=ACCEPTED))
    return torch.where(errors <= enough, cost, torch.inf).argmin(1)


def _family(option: Tensor) -> tuple[Tensor, Tensor]:
    """Index in FAMILIES of options with one term, and whether they have a line."""
    number = (option - TERMS).clamp(0, 2 * len(FAMILIES) - 1)
    return number % len(FAMILIES), (number >= len(FAMILIES)) & (option < TWO)


def _polynomials(curves: ScaledCurves, degree: int) -> tuple[Tensor, Tensor]:
    """Polynomials: (n, m, 6, 6) coefficients of each degree, (E, degree + 1) 1 - R²."""
    n, m, _ = curves.y.shape
    wide = curves.u.double()
    powers = torch.stack([wide**k for k in range(degree + 1)], dim=2) * curves.root[..., None]
    Q, R = torch.linalg.qr(powers)  # (n, G, d), (n, d, d)
    R = R + 1e-9 * torch.eye(degree + 1, dtype=R.dtype)
    parts = curves.y.double() @ Q  # (n, m, d)
    errors = 1 - parts.square().cumsum(-1)
    upto = torch.ones(degree + 1, degree + 1, dtype=R.dtype).tril()
    each = (parts[:, :, None] * upto).flatten(1, 2)  # (n, m * d, d)
    found = torch.linalg.solve_triangular(R.mT, each, upper=False, left=False)
    found = found.unflatten(1, (m, -1)).to(curves.y)  # (n, m, d, d)
    wider = curves.y.new_zeros(n, m, len(POLYNOMIALS), len(POLYNOMIALS))
    wider[:, :, : degree + 1, : degree + 1] = found
    wider[curves.flat] = 0.0
    return wider, errors.flatten(0, 1).to(curves.y)


def _amplitudes(
    curves: ScaledCurves, families: Tensor, shapes: Tensor, line: Tensor
) -> tuple[Tensor, Tensor]:
    """(E, 2) amplitudes of the terms and (E, 6) coefficients of 1 and u.

    For curves of mean 0 and length 1; computed in float64.
    """
    E, m = len(families), curves.y.shape[1]
    amplitudes = curves.y.new_zeros(E, 2)
    coefficients = curves.y.new_zeros(E, len(POLYNOMIALS))
    for count in (1, 2):
        of_count = ((families >= 0).sum(1) == count).nonzero().flatten()
        for edges in of_count.split(AT_ONCE // 16):
            inputs = edges // m
            root, u = curves.root[inputs].double(), curves.u[inputs].double()
            slant = curves.slant[inputs].double() * line[edges, None]
            free = torch.stack([root, slant], dim=2)
            values, _ = terms(families[edges, :count], shapes[edges, :count].double(), u, root)
            y = curves.y.flatten(0, 1)[edges][:, None].double()
            rows = torch.cat([values, y], dim=1)
            rows = rows - (rows @ free) @ free.transpose(1, 2)
            gram = rows @ rows.transpose(1, 2)
            a = solve(damped(gram[:, :count, :count]), gram[:, :count, -1])
            rest = (y - a[:, None] @ values)[:, 0]
            mean = (root.square() * u).sum(1)
            spread = (root.square() * (u - mean[:, None]).square()).sum(1).sqrt().clamp(min=1e-12)
            slope = (slant * rest).sum(1) / spread
            amplitudes[edges, :count] = a.to(amplitudes)
            coefficients[edges, 0] = ((root * rest).sum(1) - slope * mean).to(amplitudes)
            coefficients[edges, 1] = slope.to(amplitudes)
    return amplitudes, coefficients
