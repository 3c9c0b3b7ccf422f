"""Ways to run ``kan_linear``.

Each has ``forward(x, weight, features, coefficients, keep, dtype)`` with x (rows, n). Those in
``functional.FUSED`` also have ``backward``, which returns the gradients of x, weight and
coefficients.
"""
