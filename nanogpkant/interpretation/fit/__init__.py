"""Formulas for edges: families of functions, search, refinement, and the atlas of shapes."""
