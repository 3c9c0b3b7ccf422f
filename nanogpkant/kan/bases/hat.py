"""Hat functions: piecewise linear curves."""

from nanogpkant.kan.bases.bspline import BSpline


def hat(
    grid_size: int = 5,
    grid_range: tuple[float, float] = (-1.0, 1.0),
    grid: tuple[float, ...] | None = None,
    outside: str = "zero",
) -> BSpline:
    """B-splines of order 1: ``grid_size + 1`` triangles, one at every grid point.

    The arguments and errors are those of ``BSpline``.
    """
    return BSpline(grid_size, 1, grid_range, grid, outside)
