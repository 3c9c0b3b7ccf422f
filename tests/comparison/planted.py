"""Points of a law of our choosing, with noise."""

import numpy as np

from nanogpkant.comparison.scaling.law import Law, Point

GRIDS = {"hat2": 2, "hat4": 4, "hat8": 8}
KAPPA = {"plain": 1.0, "curve": 1.6} | {name: 0.7 * (1 + g) ** -0.3 for name, g in GRIDS.items()}
LAMBDA = {"plain": 1.0, "curve": 1.2, "hat2": 0.9, "hat4": 0.9, "hat8": 0.8}
PLANTED = Law(1.1, 12.0, 60.0, 0.28, 0.36, KAPPA, LAMBDA, 0.7, -0.3)
SIZES = (33e3, 67e3, 174e3, 356e3, 820e3, 1.6e6)
TOKENS = (0.5e6, 1e6, 2e6, 4e6, 8e6, 16e6)


def planted(
    seed: int, families: tuple[str, ...] = tuple(KAPPA), noise: float = 0.004, repeats: int = 1
) -> list[Point]:
    """A point for each family, size and number of tokens; small sizes with so many seeds."""
    random = np.random.default_rng(seed)
    return [
        Point(family, n, d, PLANTED.loss(family, n, d) * np.exp(random.normal(0, noise)), number)
        for family in families
        for n in SIZES
        for d in TOKENS
        for number in range(repeats if n < 200e3 else 1)
    ]
