"""Batched Levenberg-Marquardt for many small problems.

Every edge is sum_t a_t * f_t(rate_t * u + offset_t) + d, and e * u where a line is added, with one
term or two. Amplitudes, d and e are eliminated by variable projection, which leaves rate and offset
of each term as unknowns.

Source: variable projection by Golub & Pereyra (1973), with Kaufman's (1975) approximation of the
Jacobian.

E edges, T terms, G points.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpkant.interpretation.fit.families import FAMILIES
from nanogpkant.interpretation.fit.search import ScaledCurves

AT_ONCE = 2048  # edges, whose arrays fit into the processor's cache
ITERATIONS = 14
ENOUGH = 2e-3  # relative gain below which a step counts as stalled
EXACT = 1e-6  # 1 - R² at the resolution of float32
LOUDEST = 30.0  # largest std of a term, in those of the edge: beyond, terms cancel each other


def polish(
    curves: ScaledCurves, edges: Tensor, families: Tensor, line: Tensor, shapes: Tensor
) -> tuple[Tensor, Tensor]:
    """Refine rates and offsets.

    Args:
        edges: (E,) input * m + output.
        families: (E, T) indices in FAMILIES.
        line: (E,) whether a line is added.
        shapes: (E, T, 2).

    Returns:
        (E,) 1 - R², and the shapes.
    """
    errors, found = curves.y.new_empty(len(edges)), torch.empty_like(shapes)
    key = families[:, 0] * 2 + line
    if families.shape[1] == 2:
        key = key * len(FAMILIES) + families[:, 1]
    searches = torch.tensor([f.searches for f in FAMILIES]).to(curves.y)
    for part in key.argsort(stable=True).split(AT_ONCE):
        inputs = edges[part] // curves.y.shape[1]
        free = [curves.root[inputs]]
        if line[part].any():
            free.append(curves.slant[inputs] * line[part, None])
        free = torch.stack(free, dim=2)
        y = project(curves.y.flatten(0, 1)[edges[part]][:, None], free)
        sought = searches[families[part]].transpose(1, 2).flatten(1)
        problem = _Problem(curves.u[inputs], free, y, families[part], sought)
        errors[part], found[part] = _minimise(problem, shapes[part])
    return errors, found


@dataclass
class _Problem:
    """Some edges and their families; see ``polish``."""

    u: Tensor  # (E, G)
    free: Tensor  # (E, G, L) constant and line as unit vectors; the line is 0 where none is added
    y: Tensor  # (E, 1, G) the curves, orthogonal to these
    families: Tensor  # (E, T)
    sought: Tensor  # (E, 2T) 1 where a parameter is free: all rates, then all offsets

    def __getitem__(self, edges: Tensor) -> "_Problem":
        return _Problem(*(part[edges] for part in vars(self).values()))

    def clamp(self, shapes: Tensor) -> Tensor:
        found = shapes.clone()
        for number in self.families.unique().tolist():
            chosen = self.families == number
            found[chosen] = FAMILIES[number].clamp(shapes[chosen])
        return found

    def evaluate(self, shapes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """1 - R² (E,), negative half-gradient (E, 2T) and Gauss-Newton matrix (E, 2T, 2T)."""
        T = shapes.shape[1]
        values, slopes = terms(self.families, shapes, self.u, self.free[..., 0])
        vectors = torch.cat([values, slopes * self.u[:, None], slopes], dim=1)  # (E, 3T, G)
        vectors = torch.cat([project(vectors, self.free), self.y], dim=1)
        gram = torch.bmm(vectors, vectors.transpose(1, 2))
        among, with_y = gram[:, :T, :T], gram[:, :T, -1]
        amplitude = solve(damped(among), with_y)
        fitted = (amplitude[:, None] @ among @ amplitude[..., None]).flatten()
        error = gram[:, -1, -1] - 2 * (amplitude * with_y).sum(1) + fitted
        loudness = amplitude.abs() * among.diagonal(dim1=1, dim2=2).sqrt()
        is_sound = error.isfinite() & (loudness < LOUDEST).all(1)
        error = torch.where(is_sound, error, torch.inf)
        # Derivatives of the terms, projected orthogonally to the terms.
        scale = torch.cat([amplitude, amplitude], dim=1) * self.sought
        cross = gram[:, T:-1, :T]  # (E, 2T, T)
        own = torch.stack([solve(damped(among), row) for row in cross.unbind(1)], dim=1)
        curvature = gram[:, T:-1, T:-1] - own @ cross.transpose(1, 2)
        curvature = curvature * scale[:, :, None] * scale[:, None]
        residual = gram[:, T:-1, -1] - (cross @ amplitude[..., None])[..., 0]
        return error, residual * scale, curvature


def _minimise(problem: _Problem, shapes: Tensor) -> tuple[Tensor, Tensor]:
    """Initial shapes (E, T, 2) -> (E,) 1 - R² and the best shapes."""
    best = problem.clamp(shapes)
    error, gradient, curvature = problem.evaluate(best)
    errors, found = error.clone(), best.clone()
    where = torch.arange(len(error), device=error.device)
    damping, stalled = torch.full_like(error, 1e-2), torch.zeros_like(error)
    for _ in range(ITERATIONS):
        keep = (stalled < 2) & (error > EXACT)
        if keep.sum() < 0.7 * len(keep):
            errors[where], found[where] = error, best
            if not keep.any():
                break
            problem, where = problem[keep], where[keep]
            state = (best, error, gradient, curvature, damping, stalled)
            best, error, gradient, curvature, damping, stalled = (s[keep] for s in state)
        step = solve(damped(curvature, damping[:, None]), gradient)
        trial = problem.clamp(best + step.unflatten(1, (2, -1)).transpose(1, 2).to(best))
        new_error, new_gradient, new_curvature = problem.evaluate(trial)
        better = new_error < error
        small = (error - new_error).abs() < ENOUGH * error
        stalled = torch.where(better & ~small, 0.0, stalled + 1)
        best = torch.where(better[:, None, None], trial, best)
        error = torch.where(better, new_error, error)
        gradient = torch.where(better[:, None], new_gradient, gradient)
        curvature = torch.where(better[:, None, None], new_curvature, curvature)
        damping = damping * torch.where(better, 0.2, 8.0)
    errors[where], found[where] = error, best
    return errors, found


def terms(families: Tensor, shapes: Tensor, u: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """f and f' of every term at every point, times ``root``: (E, T, G) each."""
    z = shapes[..., :1] * u[:, None] + shapes[..., 1:]
    present = families.unique().tolist()
    if len(present) == 1:  # without copies, as edges are sorted by family
        family = FAMILIES[present[0]]
        values = family.value(z)
        return values * root[:, None], family.slope(z, values) * root[:, None]
    values, slopes = torch.empty_like(z), torch.empty_like(z)
    for number in present:
        family, where = FAMILIES[number], families == number
        values[where] = family.value(z[where])
        slopes[where] = family.slope(z[where], values[where])
    return values * root[:, None], slopes * root[:, None]


def solve(A: Tensor, b: Tensor) -> Tensor:
    """Positive definite (E, k, k) and (E, k) -> (E, k), for k of at most 4, by elimination.

    LAPACK, called once for every matrix, would dominate the run time.
    """
    k = b.shape[1]
    if k == 1:
        return b / A[:, 0].clamp(min=1e-30)
    rows = list(torch.cat([A, b[..., None]], dim=2).unbind(1))
    for i in range(k):
        rows[i] = rows[i] / rows[i][:, i : i + 1].clamp(min=1e-30)
        for j in range(i + 1, k):
            rows[j] = rows[j] - rows[j][:, i : i + 1] * rows[i]
    x = [rows[k - 1][:, k]]
    for i in reversed(range(k - 1)):
        known = sum(rows[i][:, j] * x[j - i - 1] for j in range(i + 1, k))
        x.insert(0, rows[i][:, k] - known)
    return torch.stack(x, dim=1)


def damped(A: Tensor, damping: Tensor | float = 1e-6) -> Tensor:
    """(E, k, k) with the diagonal increased by a share of itself; terms may be almost collinear."""
    diagonal = A.diagonal(dim1=1, dim2=2)
    return A + torch.diag_embed(diagonal * damping + 1e-12)


def project(rows: Tensor, free: Tensor) -> Tensor:
    """Project (E, k, G) orthogonally to orthonormal vectors (E, G, L)."""
    return torch.baddbmm(rows, rows @ free, free.transpose(1, 2), alpha=-1)
