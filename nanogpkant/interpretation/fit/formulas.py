"""Formulas for all edges of a layer at once.

For every edge the best candidate of each family comes from a dictionary (``search``), the promising
ones are polished (``polish``), and edges without a good fit get a second term, as in matching
pursuit. The result is the simplest formula about as good as the best one.

On the range of an input several families often fit about as well: a formula describes an edge and
is not a law behind it. The runner-up is kept with it.

Source: matching pursuit is Mallat & Zhang (1993). Fitting a*f(b*x + c) + d to an edge from a
library of functions is pykan's idea (Liu et al., arXiv 2404.19756).

E edges, n inputs, m outputs, G points.
"""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nanogpkant.base.errors import UserError
from nanogpkant.interpretation.fit.families import FAMILIES, POLYNOMIALS, select_families
from nanogpkant.interpretation.fit.fits import COMPLEXITIES, OPTIONS, TERMS, TWO, Fits
from nanogpkant.interpretation.fit.polish import damped_solve, polish, terms
from nanogpkant.interpretation.fit.search import Dictionary, ScaledCurves, scaled

GOOD = 0.002  # 1 - R² below which the simpler formula is taken
ACCEPTED = 0.01  # 1 - R² above which an edge stays a spline
AT_ONCE = 1 << 17  # edges worked on at a time, 1 KB each

COMPLEXITY = torch.tensor(
    [degree + 1 for degree in range(len(POLYNOMIALS))]
    + [f.complexity for f in FAMILIES]
    + [f.complexity + 1 for f in FAMILIES]
    + [0]  # two terms: their families', added
)


@torch.no_grad()
def fit(
    points: Tensor,
    weights: Tensor,
    curves: Tensor,
    families: Sequence[str] | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Fits:
    """Find a formula for every edge.

    Args:
        points: (G, n), ascending; a formula holds between an input's first and last point.
        weights: (G, n), of the squared errors.
        curves: (G, m, n), values of the edges.
        families: names to try (see ``families``); None is all. A family alone has no free line;
            "line" among the names adds it. Constants and lines are always candidates.
        progress: called with the share of the work done, 0 to 1.

    Raises:
        UserError: curves, points or weights that are not finite, or fewer than 8 points.
        UsageError: an unknown family.
    """
    options = _Options(families)
    for what, values in (("points", points), ("weights", weights), ("curves", curves)):
        if not values.isfinite().all():
            raise UserError(f"the {what} of some edges are not finite: use another checkpoint")
    if len(points) < 8:
        raise UserError(f"{len(points)} points are too few to fit formulas to: take 8 or more")
    m, n = curves.shape[1:]
    parts, done = [], 0
    for some in torch.arange(n).split(max(1, AT_ONCE // m)):

        def advance(share: float, done: int = done, count: int = len(some)) -> None:
            progress((done + share * count) / n)

        values = curves[:, :, some]
        fitter = _Fitter(scaled(points[:, some], weights[:, some], values), options, advance)
        parts.append(fitter.fits(points[:, some], values))
        done += len(some)
    names = vars(parts[0])
    return Fits(
        **{
            name: torch.cat([getattr(part, name) for part in parts], dim=int(names[name].dim() > 1))
            for name in names
        }
    )


class _Options:
    """Candidates, from the names of families."""

    def __init__(self, families: Sequence[str] | None) -> None:
        some, self.degree, with_line = select_families(families)
        self.dictionary = Dictionary(some, with_line)
        self.columns = torch.tensor(
            [TERMS + number + line * len(FAMILIES) for number, line in self.dictionary.columns],
            dtype=torch.long,
        )
        self.has_two_terms = with_line and bool(some)


class _Fitter:
    """The edges of some inputs, and the error of each option for each edge.

    ``errors`` (E, OPTIONS) are 1 - R², infinite where an option is not tried; ``shapes`` belong to
    the options with one term, ``pair`` and ``pair_shapes`` to the last, with two. The index of an
    edge is input * m + output.
    """

    def __init__(
        self, curves: ScaledCurves, options: _Options, progress: Callable[[float], None]
    ) -> None:
        self.curves, self.options, self.progress = curves, options, progress
        n, m, _ = curves.y.shape
        E = n * m
        self.errors = curves.y.new_full((E, len(OPTIONS)), torch.inf)
        self.shapes = curves.y.new_zeros(E, len(OPTIONS), 2)
        self.polished = torch.zeros_like(self.errors, dtype=torch.bool)
        self.pair = torch.zeros(E, 2, dtype=torch.long)
        self.pair_shapes = curves.y.new_zeros(E, 2, 2)
        self.polynomials, coefficients = _polynomials(curves, options.degree)
        self.errors[:, : options.degree + 1] = coefficients
        found, shapes = options.dictionary.best(curves, lambda share: progress(0.4 * share))
        self.errors[:, options.columns] = found.flatten(0, 1)
        self.shapes[:, options.columns] = shapes.flatten(0, 1)
        self.errors[curves.flat.flatten()] = torch.inf
        self.errors[curves.flat.flatten(), 0] = 0.0
        self.errors.clamp_(min=0)
        self._run()

    def _run(self) -> None:
        """Polish the promising options, and add a second term where one is not enough."""
        plain = slice(TERMS, TERMS + len(FAMILIES))
        chosen = self.choice()
        hard = (chosen >= TERMS).nonzero().flatten()
        if len(hard) and self.errors[hard, plain].isfinite().any():
            for pick in self.errors[hard, plain].topk(2, dim=1, largest=False).indices.unbind(1):
                self.polish(hard, pick + TERMS)
        self.progress(0.55)
        everything = torch.arange(len(self.errors))
        self.polish(everything, self.choice())
        self.progress(0.65)
        left = (self.errors.amin(1) > GOOD).nonzero().flatten()
        self.polish(left, self.errors[left].argmin(1))
        self.progress(0.75)
        if self.options.has_two_terms:
            self.add_second(left[self.errors[left].amin(1) > GOOD])
        self.progress(0.95)
        self.polish(everything, self.choice())

    def choice(self) -> Tensor:
        """(E,) the simplest option about as good as the best one."""
        best = self.errors.amin(1)
        enough = (2 * best).clamp(min=GOOD).minimum(best.clamp(min=ACCEPTED))
        cost = COMPLEXITY + self.errors
        cost[:, TWO] += COMPLEXITIES
        return torch.where(self.errors <= enough[:, None], cost, torch.inf).argmin(1)

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
        first = self.errors[:, TERMS:TWO][edges].argmin(1) + TERMS
        family, _ = _family(first)
        shape = self.shapes[edges, first]
        curves, m = self.curves, self.curves.y.shape[1]
        second, second_shape = torch.empty_like(family), torch.empty_like(shape)
        for part in torch.arange(len(edges)).split(AT_ONCE // 8):
            inputs = edges[part] // m
            free = torch.stack([curves.root[inputs], curves.slant[inputs]], dim=2)
            value, _ = terms(
                family[part, None], shape[part, None], curves.u[inputs], curves.root[inputs]
            )
            rows = torch.cat([value, curves.y.flatten(0, 1)[edges[part]][:, None]], dim=1)
            term, rest = (rows - (rows @ free) @ free.transpose(1, 2)).unbind(1)
            term = term / term.norm(dim=1, keepdim=True).clamp(min=1e-12)
            rest = rest - (rest * term).sum(1, keepdim=True) * term
            second[part], second_shape[part] = self.options.dictionary.second(
                curves, inputs, rest, term
            )
        pair, shapes = torch.stack([family, second], 1), torch.stack([shape, second_shape], 1)
        if not len(edges):
            return
        line = torch.ones_like(family, dtype=torch.bool)
        self.errors[edges, TWO], self.pair_shapes[edges] = polish(curves, edges, pair, line, shapes)
        self.errors.clamp_(min=0)
        self.pair[edges] = pair

    def fits(self, points: Tensor, values: Tensor) -> Fits:
        """The chosen formulas, with their errors at the points."""
        curves = self.curves
        n, m, _ = curves.y.shape
        option = self.choice()
        families, shapes, line = self._terms(option)
        amplitudes, coefficients = _amplitudes(curves, families, shapes, line)
        degree = option.clamp(max=TERMS - 1)
        powers = self.polynomials.flatten(0, 1)  # (E, 6, 6)
        chosen_powers = powers[torch.arange(len(option)), degree]
        coefficients = torch.where((option < TERMS)[:, None], chosen_powers, coefficients)
        std, mean = curves.std.flatten(), curves.mean.flatten()
        coefficients = coefficients * std[:, None]
        coefficients[:, 0] += mean
        amplitudes = amplitudes * std[:, None]
        pair_complexity = COMPLEXITY[self.pair + TERMS].sum(1)
        complexity = torch.where(option == TWO, pair_complexity, COMPLEXITY[option])
        runner_up, margin = self._runner_up(option, complexity)
        front, front_options = self._front(pair_complexity)

        def edges(rows: Tensor) -> Tensor:
            """(E, ...) -> (m, n, ...)."""
            return rows.unflatten(0, (n, m)).transpose(0, 1).contiguous()

        fits = Fits(
            middle=curves.middle,
            half=curves.half,
            coefficients=edges(coefficients),
            families=edges((families + 1).to(torch.uint8)),
            amplitudes=edges(amplitudes),
            shapes=edges(shapes),
            option=edges(option.to(torch.uint8)),
            r2=torch.empty(0),
            max_error=torch.empty(0),
            complexity=edges(complexity.to(torch.uint8)),
            aicc=torch.empty(0),
            accepted=torch.empty(0),
            runner_up=edges(runner_up.to(torch.uint8)),
            margin=edges(margin),
            front=edges(front),
            front_options=edges(front_options),
        )
        return _measured(fits, curves, points, values)

    def _terms(self, option: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(E, 2) families, -1 for none, (E, 2, 2) shapes and (E,) whether a line is added."""
        family, line = _family(option)
        families = torch.stack([family, torch.full_like(family, -1)], dim=1)
        own = self.shapes[torch.arange(len(option)), option]
        shapes = torch.stack([own, torch.zeros_like(own)], dim=1)
        families[option < TERMS] = -1
        two = option == TWO
        families[two], shapes[two] = self.pair[two], self.pair_shapes[two]
        return families, shapes, line | two

    def _runner_up(self, option: Tensor, complexity: Tensor) -> tuple[Tensor, Tensor]:
        others = self.errors.clone()
        others[complexity[:, None] < COMPLEXITY] = torch.inf
        others[:, TWO] = torch.inf
        here = torch.arange(len(option))
        others[here, option] = torch.inf
        error, runner_up = others.min(1)
        runner_up = torch.where(error.isfinite(), runner_up, option)
        return runner_up, error - self.errors[here, option]

    def _front(self, pair_complexity: Tensor) -> tuple[Tensor, Tensor]:
        """(E, COMPLEXITIES) least error at each complexity, and its option."""
        complexity = COMPLEXITY.expand(len(self.errors), -1).clone()
        complexity[:, TWO] = pair_complexity
        found = []
        for level in range(1, COMPLEXITIES + 1):
            found.append(torch.where(complexity == level, self.errors, torch.inf).min(1))
        errors = torch.stack([each.values for each in found], dim=1)
        options = torch.stack([each.indices for each in found], dim=1)
        return errors.half(), options.to(torch.uint8)


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
    has_term = (families[:, 0] >= 0).nonzero().flatten()
    for count in (1, 2):
        of_count = has_term[(families[has_term, 1] >= 0) == (count == 2)]
        for edges in of_count.split(AT_ONCE // 16):
            inputs = edges // m
            root, u = curves.root[inputs].double(), curves.u[inputs].double()
            slant = curves.slant[inputs].double() * line[edges, None]
            free = torch.stack([root, slant], dim=2)
            own = families[edges, :count]
            values, _ = terms(own, shapes[edges, :count].double(), u, root)
            y = curves.y.flatten(0, 1)[edges][:, None].double()
            rows = torch.cat([values, y], dim=1)
            rows = rows - (rows @ free) @ free.transpose(1, 2)
            gram = rows @ rows.transpose(1, 2)
            a = damped_solve(gram[:, :count, :count], gram[:, :count, -1])
            rest = (y - a[:, None] @ values)[:, 0]
            mean = (root.square() * u).sum(1)
            spread = (root.square() * (u - mean[:, None]).square()).sum(1).sqrt().clamp(min=1e-12)
            slope = (slant * rest).sum(1) / spread
            amplitudes[edges, :count] = a.to(amplitudes)
            coefficients[edges, 0] = ((root * rest).sum(1) - slope * mean).to(amplitudes)
            coefficients[edges, 1] = slope.to(amplitudes)
    return amplitudes, coefficients


def _measured(fits: Fits, curves: ScaledCurves, points: Tensor, values: Tensor) -> Fits:
    """The formulas with R², largest error, AICc and acceptance at the points."""
    share = curves.root.square()
    away = fits.evaluate(points) - values  # (G, m, n)
    std = curves.std.T
    error = torch.einsum("gmn,ng->mn", (away / std).square_(), share)
    error = torch.where(curves.flat.T, 0.0, error)
    max_error = torch.where(curves.flat.T, 0.0, away.abs().amax(0) / std)
    G, k = len(points), fits.complexity.float()
    aicc = G * error.clamp(min=1e-12).log() + 2 * k + 2 * k * (k + 1) / (G - k - 1).clamp(min=1)
    return dataclasses.replace(
        fits, r2=1 - error, max_error=max_error, aicc=aicc, accepted=error <= ACCEPTED
    )
