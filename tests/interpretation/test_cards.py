"""The small pictures: what is drawn lies where its input is."""

import numpy as np
import pytest
import torch

from nanogpkant.interpretation.interpretation import Interpretation
from nanogpkant.interpretation.show.cards import EdgeCard, edge_cards
from nanogpkant.interpretation.show.plots import sheet


@pytest.fixture(scope="module")
def interpretation(tiny_run, tmp_path_factory) -> Interpretation:
    folder = tmp_path_factory.mktemp("cards")
    return Interpretation(tiny_run, layers=["blocks.0.mlp.out"], device="cpu", folder=folder)


def card(x: np.ndarray, curve: np.ndarray) -> EdgeCard:
    return EdgeCard("a line", "", "x", {}, "", x, curve, curve, np.ones_like(x))


def test_a_line_at_uneven_points_is_drawn_as_a_line():
    x = np.array([-2.0, -0.1, 0.0, 0.1, 0.3, 5.0])
    axes = sheet([card(x, 3 * x + 1)], "").axes[0]
    drawn = axes.collections[1].get_segments()[0]
    slopes = np.diff(drawn[:, 1]) / np.diff(drawn[:, 0])
    assert np.allclose(slopes, slopes[0])


def test_a_constant_input_still_has_a_picture():
    x = np.full(4, 2.0)
    assert np.allclose(card(x, x).across, [0, 1 / 3, 2 / 3, 1])


def test_density_is_the_histogram_per_unit(interpretation):
    name = "blocks.0.mlp.out"
    seen = interpretation.observed[name]
    (shown,) = edge_cards(interpretation, interpretation.edges.iloc[:1])
    i = interpretation.edges.iloc[0]["input"]
    edges = seen.edges[i].double().numpy()
    filled = np.concatenate([[0], seen.counts[i].numpy().cumsum()]) / seen.counts[i].sum().item()
    # How much lies below each point, by the picture and by the histogram.
    cells = shown.density[1:] + shown.density[:-1]
    by_picture = np.concatenate([[0], (cells * np.diff(shown.x)).cumsum()])
    by_picture /= by_picture[-1]
    by_histogram = np.interp(shown.x, edges, filled)
    assert np.abs(by_picture - by_histogram).max() < 0.03
    assert torch.isfinite(torch.from_numpy(shown.density)).all()
