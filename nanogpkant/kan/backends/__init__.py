"""Ways to run ``kan_linear``.

Each has ``forward(call)``, from a ``Call`` to (rows, out). Those in ``functional.FUSED`` also have
``backward(grad_y, call, needs_x, needs_weight)``: the gradients of x, the weight and the
coefficients, or None. That of the coefficients comes with that of x.
"""
