"""Finished runs side by side."""

from nanogpkant.compare.plots import plot_curves
from nanogpkant.compare.table import compare_runs, table

__all__ = ["compare_runs", "plot_curves", "table"]
