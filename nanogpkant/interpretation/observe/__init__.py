"""Activations of a model, and its KAN edges as numbers: the data that formulas are fitted to."""
