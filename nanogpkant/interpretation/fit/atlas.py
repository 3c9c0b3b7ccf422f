"""The atlas: clusters of the shapes of all edges of a model.

A curve, on its input's range stretched to [-1, 1], splits into offset (mean), gain (signed size)
and shape. Shapes are clustered; every edge is then one of k shapes, a gain and an offset.

Source: gain, shape and bias as in SHARe-KAN (arXiv 2512.15742); clustering is scikit-learn's.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from torch import Tensor

from nanogpkant.interpretation.fit.fits import Fits
from nanogpkant.interpretation.fit.formulas import fit
from nanogpkant.interpretation.observe.collect import Observed
from nanogpkant.interpretation.observe.curves import EdgeFunctions, even_points, tabulate, weights
from nanogpkant.kan import KANLinear

POINTS = 64  # of a shape
SAMPLE = 50_000  # edges clustered; all edges are assigned
QUIET = 1e-4  # of the RMS size of a layer's curves, below which a curve has no shape
COMPONENTS = 8  # principal components in which shapes are compared


@dataclass(frozen=True)
class Assigned:
    """The edges of a layer, each as offset + gain * shape; all are (m, n)."""

    shape: Tensor  # index of the shape; -1 for an edge too quiet to have one
    gain: Tensor
    offset: Tensor
    r2: Tensor  # explained share of the curve's variance over its inputs


@dataclass(frozen=True)
class Atlas:
    """k shapes, the most frequent first, and the assignment of edges to them."""

    u: Tensor  # (G,) from -1, an input's low end, to 1, its high end
    density: Tensor  # (G,) of the inputs of all layers; sums to 1
    shapes: Tensor  # (k, G), of mean 0 and variance 1 under the density
    layers: dict[str, Assigned]
    variance: list[float]  # share of each principal component, largest first

    def counts(self) -> pd.DataFrame:
        """Edges of every shape (rows) in every layer (columns)."""
        k = len(self.shapes)
        labels = {name: each.shape[each.shape >= 0] for name, each in self.layers.items()}
        return pd.DataFrame({n: torch.bincount(a, minlength=k).numpy() for n, a in labels.items()})

    def table(self) -> pd.DataFrame:
        """A row for each shape: edges, share of all, the layer with most of them, formula in u.

        And a column for each layer, with the number of its edges of the shape.
        """
        counts = self.counts()
        formulas = self.fits.table().sort_values("output", ignore_index=True)
        return pd.DataFrame(
            {
                "edges": counts.sum(axis=1),
                "share": counts.sum(axis=1) / sum(a.shape.numel() for a in self.layers.values()),
                "mostly_in": counts.idxmax(axis=1),
                "family": formulas["family"],
                "formula": formulas["formula"],
                "formula_r2": formulas["r2"],
            }
        ).join(counts)

    @cached_property
    def fits(self) -> Fits:
        """The formulas of the shapes in u, as of a layer with one input and k outputs."""
        return fit(self.u[:, None], self.density[:, None], self.shapes.T[:, :, None].contiguous())

    def curves(self, name: str, observed: Observed) -> EdgeFunctions:
        """The edges of a layer, approximated by the atlas."""
        assigned = self.layers[name]
        label = assigned.shape.clamp(min=0)

        def values(x: Tensor) -> Tensor:
            low, high = observed.low.to(x), observed.high.to(x)
            position = ((x - low) / (high - low)).nan_to_num(0.0).clamp(0, 1) * (len(self.u) - 1)
            first = position.long().clamp(max=len(self.u) - 2)  # (G, n)
            part, shapes = position - first, self.shapes.to(x)
            found = shapes[:, first] * (1 - part) + shapes[:, first + 1] * part  # (k, G, n)
            found = found.movedim(0, 1).gather(1, label.to(x.device).expand(len(x), -1, -1))
            return assigned.offset.to(x) + assigned.gain.to(x) * found

        return values


def atlas(
    layers: dict[str, KANLinear],
    observed: dict[str, Observed],
    k: int = 32,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Atlas:
    """Cluster the shapes of all edges.

    Args:
        layers: by name.
        observed: statistics of their inputs.
        k: number of shapes; fewer where fewer edges have a shape.
        seed: decides the sample and the clustering.
        progress: called with (layers done, layers in all).
    """
    u = torch.linspace(-1, 1, POINTS, dtype=torch.float32)
    # The mean over all inputs; some of it uniform, so that every point has some weight.
    found = [weights(each, _places(each)) for each in observed.values()]
    total = torch.stack([(each / each.sum(0)).sum(1) for each in found]).sum(0)
    density = 0.99 * total / total.sum() + 0.01 / POINTS
    learned = _sample(layers, observed, density, np.random.default_rng(seed))  # (sample, G)
    if len(learned) < 2:  # all edges are flat: any shapes, with no edges
        some, _ = _shapes(torch.stack([u, u.square()], dim=1)[..., None], density)
        learned = torch.cat([learned, some])
    scale = density.sqrt()  # weights distances by the density
    pca = PCA(min(COMPONENTS, *learned.shape)).fit(learned * scale)
    options: dict[str, Any] = {"batch_size": 4096, "n_init": 5, "random_state": seed}
    clusters = MiniBatchKMeans(min(k, len(learned)), **options)
    label = clusters.fit_predict(pca.transform(learned * scale))
    # Means of the members in full, rather than in a few components.
    shapes = torch.stack([learned[label == one].mean(0) for one in np.unique(label)])
    made = Atlas(u, density, shapes, {}, pca.explained_variance_ratio_.tolist())
    for done, (name, layer) in enumerate(layers.items()):
        progress(done, len(layers))
        made.layers[name] = _assign(made, layer, observed[name], pca)
    order = torch.from_numpy(np.argsort(-made.counts().sum(axis=1).to_numpy(), kind="stable"))
    rank = torch.cat([order.argsort(), torch.tensor([-1])])  # -1 stays -1
    assigned = {n: replace(each, shape=rank[each.shape]) for n, each in made.layers.items()}
    return replace(made, shapes=shapes[order], layers=assigned)


def _places(observed: Observed) -> Tensor:
    """(G, n) inputs at every u."""
    return even_points(observed.low, observed.high, POINTS)


def _sample(
    layers: dict[str, KANLinear],
    observed: dict[str, Observed],
    density: Tensor,
    random: np.random.Generator,
) -> Tensor:
    """(E, G) shapes of some edges of all layers."""
    edges = sum(layer.in_features * layer.out_features for layer in layers.values())
    sample = []
    for name, layer in layers.items():
        shapes, is_loud = _shapes(tabulate(layer, _places(observed[name])), density)
        shapes = shapes[is_loud]
        wanted = min(len(shapes), 1 + SAMPLE * len(shapes) // edges)
        sample.append(shapes[random.choice(len(shapes), wanted, replace=False)])
    return torch.cat(sample)


def _shapes(curves: Tensor, density: Tensor) -> tuple[Tensor, Tensor]:
    """(G, m, n) -> (m * n, G) of mean 0, variance 1 and fixed sign; mask of those with a shape.

    The sign makes a shape rise or, if it neither rises nor falls, open upwards.
    """
    rows = curves.flatten(1).T  # (m * n, G)
    rows = rows - (rows @ density)[:, None]
    size = (rows.square() @ density).sqrt()  # (m * n,)
    is_loud = size > QUIET * size.square().mean().sqrt()
    u = torch.linspace(-1, 1, len(density), dtype=rows.dtype)
    slope = u - u @ density
    bend = u.square() - u.square() @ density
    rises = rows @ (density * slope) / (slope.square() @ density).sqrt()
    opens = rows @ (density * bend)
    sign = torch.where(rises.abs() > 0.3 * size, rises, opens).sign()
    return rows * (torch.where(sign == 0, 1.0, sign) / size.clamp(min=1e-30))[:, None], is_loud


def _assign(found: Atlas, layer: KANLinear, observed: Observed, pca: PCA) -> Assigned:
    """The nearest shape of every edge, and its least-squares gain and offset over its inputs."""
    at, scale = _places(observed), found.density.sqrt()
    curves = tabulate(layer, at)  # (G, m, n)
    rows, is_loud = _shapes(curves, found.density)
    rows, centres = (torch.from_numpy(pca.transform(each * scale)) for each in (rows, found.shapes))
    label = torch.cdist(rows, centres).argmin(1).view_as(curves[0])  # (m, n)
    share = weights(observed, at)
    share = share / share.sum(0)  # (G, n)

    def mean(values: Tensor) -> Tensor:
        return torch.einsum("gn,gmn->mn", share, values)

    shape = found.shapes[label].movedim(-1, 0)  # (G, m, n)
    centre, shape_mean = mean(curves), mean(shape)
    curves, shape = curves - centre, shape - shape_mean
    variance, product, of_shape = mean(curves.square()), mean(curves * shape), mean(shape.square())
    is_loud = is_loud.view_as(label)
    gain = product / of_shape.clamp(min=1e-30) * is_loud
    r2 = (gain * product / variance.clamp(min=1e-30)).clamp(max=1.0)
    return Assigned(label.where(is_loud, -1), gain, centre - gain * shape_mean, r2)
