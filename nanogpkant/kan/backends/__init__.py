"""Ways to run ``kan_linear``: each takes (x, weight, basis, base, dtype) with x as rows."""
