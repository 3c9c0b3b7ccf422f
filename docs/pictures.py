"""Draws the picture of docs/explained.md from models that come with the repository.

python docs/pictures.py      # results/explained.png
"""

from pathlib import Path

import matplotlib.pyplot as plt
import safetensors.torch
import torch
from matplotlib.figure import SubFigure

import nanogpkant as ng

ROOT = Path(__file__).resolve().parents[1]
CURVES = ROOT / "results" / "modern_curve" / "interpret" / "export" / "curves.safetensors"


def draw(file: Path) -> None:
    figure = plt.figure(figsize=(13, 3.6), layout="constrained")
    sum_of_hats, matrix, heads = figure.subfigures(1, 3)
    draw_sum(sum_of_hats)
    draw_matrix(matrix)
    draw_heads(heads)
    figure.savefig(file, dpi=130)


def draw_sum(figure: SubFigure) -> None:
    """A function as a sum of splines."""
    basis = ng.BSpline(grid_size=6, order=3, grid_range=(-3, 3))
    x = torch.linspace(-3, 3, 301)
    splines = basis.expand(x).T  # (points, splines)
    weights = torch.tensor([0.2, -0.9, 0.1, 0.8, 0.3, -0.6, 0.2, 1.1, 0.9])
    axes = figure.subplots()
    axes.plot(x, splines * weights, lw=1)
    axes.plot(x, splines @ weights, color="black", lw=2.5)
    axes.set_title("one function: a sum of splines")
    axes.set_xlabel("input")


def draw_matrix(figure: SubFigure) -> None:
    """The corner of a layer: a function where a linear layer has a number."""
    model = ng.load("pretrained:shakespeare-mini-kan", device="cpu")
    x, curves = model.edges("blocks.0.mlp.into")  # (points, outputs, inputs)
    places = figure.subplots(5, 7, sharex=True, sharey=True)
    for output, row in enumerate(places):
        for source, axes in enumerate(row):
            axes.plot(x, curves[:, output, source], lw=1.5)
            axes.set(xticks=[], yticks=[])
    figure.suptitle("one layer: inputs →, outputs ↓")


def draw_heads(figure: SubFigure) -> None:
    """Curves of distance of attention heads."""
    values = safetensors.torch.load_file(CURVES)["blocks.1.attention.bias"]  # (heads, distances)
    axes = figure.subplots()
    axes.plot(1 + torch.arange(values.shape[1]), values.T, lw=1.5)
    axes.set_xscale("log", base=2)
    axes.set_ylim(-20, 2.5)
    axes.set_title("attention: what each head adds to its score")
    axes.set_xlabel("1 + distance of two characters")


if __name__ == "__main__":
    draw(ROOT / "results" / "explained.png")
